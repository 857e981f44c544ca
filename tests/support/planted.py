"""Secrets of many kinds, planted in every value that a support bundle reads."""

import copy
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llava_pack.health import documents, hardware
from llava_pack.health.evidence import Document
from llava_pack.health.knowledge import known_failures
from llava_pack.health.logbook import Log
from llava_pack.health.messages import CAUSES, FOUND, LOGGED
from llava_pack.health.settings import Settings
from llava_pack.health.shapes import Shape
from llava_pack.health.support import collect, packed

_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A text that must not leave, and the parts of it that must not either."""

    kind: str
    text: str
    needles: tuple[str, ...]


def _word(rng: random.Random, length: int = 12, letters: str = _LETTERS) -> str:
    return "".join(rng.choice(letters) for _ in range(length))


def _is(kind: str, text: str, *needles: str) -> Secret:
    return Secret(kind=kind, text=text, needles=needles or (text,))


def _proxy(rng: random.Random) -> Secret:
    password = f"{_word(rng, 7)}{rng.choice('/@#:%')}{_word(rng, 7)}"
    host = f"{_word(rng, 8, string.ascii_lowercase)}.internal"
    user = _word(rng, 7)
    return _is("proxy", f"http://{user}:{password}@{host}:3128/", password, host, user)


def _json_password(rng: random.Random) -> Secret:
    password = f'{_word(rng, 6)}\\"{_word(rng, 6)}'
    return _is("json password", f'{{"password": "{password}"}}', *password.split('\\"'))


def _jwt(rng: random.Random) -> Secret:
    parts = [_word(rng, 20) for _ in range(3)]
    return _is("jwt", "eyJ" + ".".join(parts), *parts)


def _cookie(rng: random.Random) -> Secret:
    one, two = _word(rng, 24), _word(rng, 16)
    return _is("cookie", f"Cookie: session={one}; csrf={two}", one, two)


def _mail(rng: random.Random) -> Secret:
    name, bank = _word(rng, 8, string.ascii_lowercase), _word(rng, 8, string.ascii_lowercase)
    return _is("e-mail", f"{name}@{bank}.example", name, bank)


def _iban(rng: random.Random) -> Secret:
    digits = _word(rng, 18, string.digits)
    spaced = " ".join(digits[place : place + 4] for place in range(2, 18, 4))
    return _is("iban", rng.choice([f"DE{digits[:2]} {spaced}", f"DE{digits}"]), spaced, digits)


def _home(rng: random.Random) -> Secret:
    name = _word(rng, 9, string.ascii_lowercase)
    where = rng.choice(["/home", "/Users", "/export/home", "C:\\Users"])
    return _is("foreign home", f"{where}/{name}/models/{_word(rng, 5)}", name)


def _host(rng: random.Random) -> Secret:
    name = _word(rng, 9, string.ascii_lowercase)
    return _is(
        "host", rng.choice([f"{name}-gpu01", f"{name}.bank.corp", f"https://{name}.cn/hf"]), name
    )


def _prompt(rng: random.Random) -> Secret:
    name = _word(rng, 9).capitalize()
    shape = rng.choice(
        ["Request(prompt={!r}, images=[])", "{{'role': 'user', 'content': {!r}}}", "{!r}", "{}"]
    )
    return _is("prompt", shape.format(f"does {name} owe the bank?"), name, "owe the bank")


def _address(rng: random.Random) -> Secret:
    four = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    six = ":".join(f"{rng.randrange(1, 1 << 16):x}" for _ in range(8))
    return _is("address", rng.choice([four, f"[{six}]"]).strip("[]"))


def _assigned(rng: random.Random) -> Secret:
    value = _word(rng, 14)
    name = rng.choice(["NVIDIA_API_KEY", "LLAVA_PACK_SECRET", "password", "api-key", "X-Auth"])
    return _is("assignment", f"{name}{rng.choice(['=', ': ', '=>'])}{value}", value)


def _key(rng: random.Random) -> Secret:
    body = _word(rng, 64)
    return _is("key", f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----", body)


def _prefixed(
    kind: str, before: str, length: int, letters: str
) -> Callable[[random.Random], Secret]:
    def make(rng: random.Random) -> Secret:
        body = _word(rng, length, letters)
        return _is(kind, before + body, body)

    return make


_UPPER = string.ascii_uppercase + string.digits
KINDS: tuple[Callable[[random.Random], Secret], ...] = (
    _proxy,
    _json_password,
    _prefixed("ghp", "ghp_", 36, _LETTERS),
    _prefixed("akia", "AKIA", 16, _UPPER),
    _prefixed("xoxb", "xoxb-", 24, string.digits + "-" + string.ascii_letters),
    _prefixed("hf", "hf_", 34, string.ascii_letters),
    _prefixed("sk", "sk-", 40, _LETTERS),
    _prefixed("bearer", "Authorization: Bearer ", 30, _LETTERS),
    _prefixed("bare token", "", 22, _LETTERS + "-_"),
    _prefixed("hex", "", 40, "0123456789abcdef"),
    _prefixed("passphrase", "correct horse ", 14, string.ascii_lowercase + " "),
    _prefixed("llava path", "/llava/", 22, _LETTERS),
    _address,
    _prefixed("serial", "GPU-", 36, "0123456789abcdef-"),
    _jwt,
    _cookie,
    _mail,
    _iban,
    _home,
    _host,
    _prompt,
    _assigned,
    _key,
)


def secrets(seed: int) -> Iterator[Secret]:
    """Yield secrets for ever, each kind in its turn, each of another shape."""
    rng = random.Random(seed)
    while True:
        for kind in rng.sample(KINDS, len(KINDS)):
            yield kind(rng)


_DIGEST = "ab" * 32
_FINDING = {"layer": "engine", "level": "fail", "code": "port-taken", "why": "w", "fix": "f"}
RECEIPT: Mapping[str, Any] = {
    "schema": 2,
    "bundle_id": _DIGEST,
    "recipe": "llava-v1.5-7b",
    "release": 1_790_000_000,
    "generation": 2,
    "installed_at": 1_790_000_100,
    "installed_by": "llava-pack 0.1.0",
    "verified": {"by": "--expect", "signature": "good", "key": "SHA256:x", "key_trusted": True,
                 "tools": ["openssl"]},
    "files": 60,
    "size_bytes": 14_000_000_000,
    "hashed_with": "hashlib of Python 3.11.9",
    "placed": {"copied": 14_000_000_000},
    "preflight": [{"name": "driver", "level": "ok", "value": "580.65.06",
                   "need": "at least 525.60", "fix": "install", "exit_code": 3}],
    "python": "/opt/llava-pack/python",
    "smoke": {"schema": 1, "kind": "smoke", "ok": True, "precision": "nf4", "device": "cuda",
              "load_s": 9.1,
              "answers": [{"name": "red-circle", "ok": True, "grade": "exact", "stage": "",
                           "reference": "build", "why": "", "text": "A red circle.", "tokens": 9,
                           "ttft_s": 0.1, "tokens_per_s": 30.5}]},
    "silence": {"installer": "fenced", "smoke test": "fenced",
                "uv": "run with --offline and without an index", "routes": ["eth0"]},
    "step_ms": {"place": 1000},
}  # fmt: skip
MANIFEST: Mapping[str, Any] = {
    "format": 1,
    "release": 1_790_000_000,
    "created_by": "llava-pack 0.1.0",
    "recipe": {"name": "llava-v1.5-7b", "title": "LLaVA 1.5 7B"},
    "licence": {"id": "Llama-2-Community", "url": "u", "gated": True, "accepted": True},
    "model": {"name": "llava-v1.5-7b", "path": "model/x", "format": "original", "conv_mode": "v1"},
    "python": {"kind": "standalone", "version": "3.11.9", "path": "runtime/c"},
    "wheels": {"torch": "2.7.0+cu126"},
    "files": 60,
    "known_answers": 4,
    "lock": {"cuda": "12"},
    "floors": {"python": "3.11", "python_tag": "cp311", "platform": "linux", "arch": "x86_64",
               "glibc": "2.28", "driver": "525.60", "compute_capability": "7.0",
               "disk_bytes": 1, "memory_bytes": {"nf4": 6_000_000_000}, "cpu_flags": ["avx2"]},
    "serving": {"engine": "transformers", "precision": "nf4", "device": "auto",
                "context_tokens": 4096, "slots": 8, "gpus": 1},
}  # fmt: skip
VALUES: Mapping[str, tuple[Any, Shape]] = {
    "machine.json": (
        {"host": "gpu01", "clock": 1, "os": "linux", "distribution": "Ubuntu 22.04.5 LTS",
         "kernel": "6.8.0-45-generic", "arch": "x86_64", "libc": "glibc", "glibc": "2.35",
         "glibcxx": "3.4.30", "cpu_model": "AMD EPYC 7763 64-Core Processor", "cpu_count": 8,
         "cpu_flags": ["avx2"], "memory_bytes": 1, "pythons": [{"version": "3.11.2", "path": "/p"}],
         "driver": "580.65.06", "nvidia_smi": "/usr/bin/nvidia-smi",
         "gpus": [{"name": "NVIDIA A100-SXM4-80GB", "driver": "580.65.06", "mig": True,
                   "compute_capability": "8.0", "memory_bytes": 1, "memory_free_bytes": 1,
                   "mig_slices": ["3g.40gb"]}],
         "disks": [{"path": "/opt", "mount": "/", "filesystem": "ext4", "free_bytes": 1,
                    "noexec": False}],
         "home": "/home/anna", "user": "anna", "uid": 1000, "open_files": "1024",
         "locked_memory": "unlimited", "selinux": "enforcing", "fips": False, "container": "docker",
         "init": "systemd", "tools": {"openssl": True}, "ssh_address": "10.1.2.3", "ssh_port": 22},
        hardware.MACHINE,
    ),
    "gpus.json": (
        {"driver": "580.65.06", "error": "the driver could not be queried", "xids": ["NVRM: Xid"],
         "gpus": [{"index": 0, "name": "NVIDIA L40S", "total_bytes": 1, "free_bytes": 1,
                   "temperature_c": 40, "slowdown_c": 90, "throttles": ["too hot"],
                   "ecc_uncorrected": 0, "remap_pending": False, "remap_failed": False,
                   "processes": [{"pid": 1, "used_bytes": 1}]}]},
        hardware.GPUS,
    ),
    "installed.json": (
        {"prefix": {"exists": True, "default": False, "mode": "755", "free_bytes": 1},
         "generations": [{"recipe": "demo", "number": 1, "active": True, "receipt": RECEIPT,
                          "manifest": MANIFEST}]},
        documents.INSTALLED,
    ),
    "journal.json": (
        {"state": "an installer was interrupted", "step": "venv", "operation": "install",
         "recipe": "demo", "generation": 2, "previous": 1},
        documents.JOURNAL,
    ),
    "servers.json": (
        [{"pid": 1, "port": 7860, "loopback": True, "token": True, "socket": False,
          "controller": False, "models": ["llava-v1.5-7b"], "started": 1, "bundle_id": _DIGEST}],
        documents.SERVERS,
    ),
    "packages.json": ({"torch": "2.7.0+cu126", "gradio": "6.20.0"}, documents.PACKAGES),
    "unit.json": (
        {"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code", "NRestarts": "3"},
        documents.SERVICE,
    ),
    "health.json": (
        {"status": "CRITICAL", "exit_code": 2, "took_s": 1.0, "metrics": {"ttft_s": 0.2},
         "findings": [{**_FINDING, "text": "no server of this installation is running"}]},
        documents.health(frozenset(one.id for one in known_failures())),
    ),
}  # fmt: skip
"""What each document is made of where all is well, and its shape."""


Poison = Callable[[str], Any]


def poisons(value: Any) -> Iterator[Poison]:
    """Yield what returns a copy of a value with one value or key replaced, or followed, by a text."""
    for path in _paths(value):
        yield partial(_poisoned, value, path)
        if isinstance(_replaced(value, path, None)[0], str):
            yield partial(_followed, value, path)
        if isinstance(path[-1], str):
            yield partial(_renamed, value, path)


def _poisoned(value: Any, path: tuple[Any, ...], text: str) -> Any:
    return _replaced(value, path, text)[1]


def _followed(value: Any, path: tuple[Any, ...], text: str) -> Any:
    return _replaced(value, path, f"{_replaced(value, path, None)[0]} {text}")[1]


def _replaced(value: Any, path: tuple[Any, ...], item: Any) -> tuple[Any, Any]:
    """Return what was at a place, and a copy of the whole with another item there."""
    whole = copy.deepcopy(value)
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    before, holder[path[-1]] = holder[path[-1]], item
    return before, whole


def _renamed(value: Any, path: tuple[Any, ...], name: str) -> Any:
    whole = copy.deepcopy(value)
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    holder[name] = holder.pop(path[-1])
    return whole


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        steps = list(value.items() if isinstance(value, dict) else enumerate(value))
    for step, item in steps:
        yield (*path, step)
        yield from _paths(item, (*path, step))


def in_templates(text: str) -> Iterator[str]:
    """Yield lines of a log: each of our messages with `text` in place of each of its values."""
    stamp = "2026-10-01T12:00:00Z 4711"
    for logger, templates in LOGGED.items():
        for template in templates:
            for line in _filled(template, text):
                yield f"{stamp} INFO {logger}: {line}"
                yield f"{stamp} INFO llava_pack.serve.supervision.engine_process: own: ERROR {logger}: {line}"
    for cause in CAUSES:
        for line in _filled(cause, text):
            yield f"{stamp} ERROR llava_pack.engine.process.loop: {line}"


def in_findings(text: str) -> Iterator[str]:
    """Yield what health says: each of its texts with `text` in place of each of its values."""
    for template in FOUND:
        yield from _filled(template, text)


_GOOD = {
    "fence": "Landlock ABI 7 and seccomp",
    "engine": "vLLM 0.33.0",
    "count": "3", "number": "1.5", "version": "2.7.0", "pids": "1, 2", "reason": "stop",
    "request": "0123456789abcdef", "signal": "SIGKILL", "phase": "loading", "device": "cuda",
    "memory": "memory", "resource": "disk", "recipe": "demo", "model": "llava-v1.5-7b",
    "models": "llava-v1.5-7b", "route": "GET /v1/models", "order": "stop", "gpu": "NVIDIA L40S",
    "module": "torch", "exception": "OSError", "files": "model/llava-v1.5-7b/config.json",
    "packages": "torch 2.6.0, locked 2.7.0", "proxies": "HTTPS_PROXY", "throttles": "too hot",
    "cause": "the gateway ended by itself", "driver": "the driver could not be queried", "text": "t",
}  # fmt: skip


def _filled(template: str, text: str) -> Iterator[str]:
    """Yield a template filled with good values, one of them replaced, or followed, by `text`."""
    names = [part[1] for part in string.Formatter().parse(template) if part[1]]
    pieces = [part[0] for part in string.Formatter().parse(template)]
    for bad in range(len(names)):
        for value in (text, f"{_GOOD[names[bad]]} {text}", f"{_GOOD[names[bad]]}, {text}"):
            values = [value if place == bad else _GOOD[name] for place, name in enumerate(names)]
            values += [""] * (len(pieces) - len(names))
            yield "".join(piece + one for piece, one in zip(pieces, values, strict=True))
    yield f"{template} {text}"


_OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of "
    "which 1.20 GiB is free. Process "
)


def loose_lines(text: str) -> Iterator[str]:
    """Yield lines that are nobody's: engines' words, stacks, the kernel's, a unit's."""
    yield from (
        text,
        f"RuntimeError: {text}",
        f"OSError: [Errno 2] No such file or directory: '{text}'",
        f'  File "{text}", line 7, in {text}',
        f'  File "/opt/{text}/site-packages/torch/nn.py", line 7, in x',
        f'  File "/x/llava_pack/serve/{text}.py", line 7, in x',
        f'  File "/x/site-packages/{text}/y.py", line 7, in x',
        f"{text}Error: it failed",
        f"2026-10-01T12:00:00Z 1 INFO {text}: said",
        f"2026-10-01T12:00:00Z 1 INFO llava_pack.{text}: said",
        f"2026-10-01T12:00:00Z 1 INFO llava_pack.serve.supervision.engine_process: {text}: {text}",
        f"NVRM: Xid (PCI:{text}): 79, {text}",
        f"Out of memory: Killed process 77 ({text}) total-vm",
        _OUT_OF_MEMORY + text,
        f"llava-pack.service: Main process exited, code=exited, status=15 {text}",
    )


_SETTINGS = (
    "HF_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY", "no_proxy", "CUDA_VISIBLE_DEVICES", "LANG", "TZ",
    "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_API_KEY", "NO_COLOR",
    "LLAVA_PACK_PREFIX", "LLAVA_PACK_TOKEN", "UV_INDEX_URL", "PIP_INDEX_URL", "SSH_CONNECTION",
    "CUDA_DEVICE_ORDER", "PYTHONDONTWRITEBYTECODE", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip


def planted(seed: int) -> tuple[dict[str, Document], list[Secret]]:
    """Return the parts of a bundle with a secret in every place, one kind after the other."""
    supply = secrets(seed)
    used: list[Secret] = []

    def next_one() -> str:
        used.append(next(supply))
        return used[-1].text

    parts: dict[str, Document] = {}
    for name, (value, shape) in VALUES.items():
        for number, poison in enumerate(poisons(value)):
            parts[f"{number}-{name}"] = Document(read=partial(poison, next_one()), shape=shape)
    texts = {
        "serve.log": [line for _ in KINDS for line in in_templates(next_one())],
        "other.log": [line for _ in KINDS for line in loose_lines(next_one())],
    }
    for name, lines in texts.items():
        parts[name] = Document(read=partial(_same, "\n".join(lines)), shape=Log(), tells=True)
    shape = VALUES["health.json"][1]
    said = [{**_FINDING, "text": line} for _ in KINDS for line in in_findings(next_one())]
    parts["findings.json"] = Document(read=partial(_same, {"findings": said}), shape=shape)
    for name in _SETTINGS:
        environ = {name: next_one(), f"LLAVA_PACK_{next_one()}": "1"}
        parts[f"{name}.json"] = Document(read=partial(_same, environ), shape=Settings())
    for number in range(len(KINDS)):
        parts[f"error-{number}.json"] = Document(read=_raising(next_one()), shape=Log())
    return parts, used


def _same(value: Any) -> Any:
    return value


def _raising(text: str) -> Callable[[], Any]:
    def read() -> Any:
        kind = type(f"{text[:20]}Error", (Exception,), {})
        raise kind(f"cannot read {text}")

    return read


def leaks(parts: Mapping[str, Document], used: list[Secret], seed: int) -> list[str]:
    """Return which secrets stand in a bundle, with the kind and the document."""
    contents = collect(parts, salt=seed.to_bytes(8, "little"))
    assert packed(contents)
    texts = {
        name: f"{text}\n{_unescaped(text)}".lower() for name, text in contents.documents.items()
    }
    whole = "\n".join(texts.values())
    return [
        f"{secret.kind} in {[name for name, text in texts.items() if one.lower() in text]}: {one!r}"
        for secret in used
        for one in secret.needles
        if one.lower() in whole
    ]


def _unescaped(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return ""
