"""`llava-pack support-bundle` of a real broken installation: what it answers, and what stays."""

import asyncio
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import tarfile

import pytest

from llava_pack.cli.server.support_bundle import secrets_of
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.logfile import kept
from llava_pack.serve.run_state import RunState, publish
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.engine import SupervisedEngine
from tests.conftest import ROOT
from tests.support.planted import secrets
from tests.support.provocations import no_space_left, port_taken
from tests.support.site import Site

SEED = 4711
PLANTED = 60
ENGINE = """
import os, signal, sys, traceback
sys.path.insert(0, {root!r})
from tests.support.provocations import shared_library_missing
print("INFO llava_pack.engine.process.loop: loading {secret}", file=sys.stderr)
try:
    shared_library_missing(None)
except OSError:
    traceback.print_exc()
print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
      "capacity of 44.99 GiB of which 1.17 GiB is free. Process 77 has 40 GiB", file=sys.stderr)
sys.stderr.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
SMI = """#!/bin/sh
case $* in *query-gpu*) echo '0, NVIDIA L40S, 535.104.05, 46068, 1200, 8.9, N/A' ;; esac
"""


@pytest.fixture(scope="module")
def planted_secrets():
    supply = secrets(SEED)
    return [next(supply) for _ in range(PLANTED)]


@pytest.fixture(scope="module")
def broken(tmp_path_factory, planted_secrets):
    """An upgrade that was killed, a server whose engine died, secrets in all that they wrote."""
    site = Site(folder=tmp_path_factory.mktemp("site"))
    site.write("old")
    site.install("old")
    site.write("new", release=1_800_000_000)
    assert site.killed("step:5", *site.installing("new")).returncode == -9
    asyncio.run(_serve_and_die(site.prefix, planted_secrets))
    (site.folder / "bin").mkdir()
    program = site.folder / "bin" / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    for number, secret in enumerate(planted_secrets):
        name = re.sub(r"[^A-Za-z0-9._-]", "-", secret.text)[:80]
        folder = site.prefix / "models" / f"x{name}" / "generations" / str(number)
        folder.mkdir(parents=True)
        told = {"recipe": secret.text, "smoke": {"ok": secret.text}, secret.text: 1}
        (folder / "receipt.json").write_text(json.dumps(told))
        (folder / "MANIFEST.json").write_text(f"{{broken {secret.text}")
    return site


async def _serve_and_die(prefix, planted_secrets):
    """Have a real supervised engine die after what it said was written down."""
    text = ENGINE.format(root=str(ROOT), secret=planted_secrets[0].text)
    ended = asyncio.Event()

    def hear(_name, status):
        if status.phase == "restarting":
            engine.refuse()
            ended.set()

    command = EngineCommand(
        name="llava-v1.5-7b",
        argv=(sys.executable, "-c", text),
        address=EngineAddress(socket=prefix / "engine.sock"),
        environment=dict(os.environ),
    )
    engine = SupervisedEngine(command, hear)
    engine.ready.set()  # as one that has served: its end is waited out, and told
    log = logging.getLogger("llava_pack.serve.gateway.guard")
    with kept(prefix / "logs" / "serve.log"):
        await engine.run()
        for provoke in (port_taken, no_space_left):
            try:
                provoke(prefix)
            except OSError:
                log.exception("request %s failed", "0123456789abcdef")
        for secret in planted_secrets:
            log.info("request %s: %s is %d after %.3f s", secret.text, secret.text, 401, 0.1)
            logging.getLogger("llava_pack.engine.process.loop").error("%s", secret.text)
    assert ended.is_set()


@pytest.fixture(scope="module")
def written(broken, planted_secrets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    path = folder / "support.tar.gz"
    environ = {
        "PATH": f"{broken.folder / 'bin'}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        **{f"LLAVA_PACK_X{n}": one.text for n, one in enumerate(planted_secrets)},
        **{f"NVIDIA_X{n}": one.text for n, one in enumerate(planted_secrets)},
        "HF_ENDPOINT": planted_secrets[0].text,
        "HTTPS_PROXY": planted_secrets[1].text,
        "HF_TOKEN": planted_secrets[2].text,
    }
    run_state = RunState(
        pid=os.getpid(), host="127.0.0.1", port=7861, token="t0k3n-of-this-start", socket=None,
        models=("llava-v1.5-7b", planted_secrets[3].text), started=1, bundle_id="ab" * 32,
    )  # fmt: skip
    published = publish(broken.prefix / "run", run_state)
    try:
        done = run("--prefix", str(broken.prefix), "--json", "--out", str(path),
                   LLAVA_PACK_PREFIX=str(broken.prefix), **environ)  # fmt: skip
    finally:
        published.withdraw()
    assert done.returncode == 0, done.stderr
    with tarfile.open(path) as archive:
        files = {
            member.name.removeprefix("llava-pack-support/"): archive.extractfile(member)
            .read()
            .decode()
            for member in archive
        }
    return path, json.loads(done.stdout), files


def run(*options, **environ):
    return subprocess.run(
        [sys.executable, "-m", "llava_pack", "support-bundle", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )


def facts(written, name):
    return json.loads(written[2][name])["facts"]


def serve_log(written):
    return next(
        json.loads(text)["facts"] for name, text in written[2].items() if "serve.log" in name
    )


def first_generation(written):
    return next(one for one in facts(written, "installed.json")["generations"] if one["active"])


def said(written):
    return [event["said"] for event in serve_log(written)["events"]]


QUESTIONS = {
    "Which driver is there?": lambda w: facts(w, "machine.json")["driver"] == "535.104.05",
    "Which GPU, and how much of its memory is free now?": lambda w: (
        facts(w, "machine.json")["gpus"][0]["name"] == "NVIDIA L40S"
        and facts(w, "machine.json")["gpus"][0]["memory_free_bytes"] == 1200 << 20
    ),
    "Which C library, system, kernel, and how many CPUs?": lambda w: all(
        facts(w, "machine.json")[name] for name in ("glibc", "kernel", "cpu_count", "memory_bytes")
    ),
    "Which generation serves?": lambda w: first_generation(w)["number"] == 1,
    "Of which bundle is it, and how was that vouched for?": lambda w: (
        len(first_generation(w)["receipt"]["bundle_id"]) == 64
        and first_generation(w)["receipt"]["verified"]["by"] == "--expect"
    ),
    "Did the smoke test pass, and in which precision?": lambda w: (
        first_generation(w)["receipt"]["smoke"]["ok"] is True
        and first_generation(w)["receipt"]["smoke"]["precision"]
    ),
    "What did the machine have against what the bundle needs?": lambda w: (
        {one["name"] for one in first_generation(w)["receipt"]["preflight"]}
        >= {"arch", "disk", "memory"}
    ),
    "What does the bundle serve with?": lambda w: (
        first_generation(w)["manifest"]["serving"]["slots"] > 0
    ),
    "Was an installer interrupted, and in which step?": lambda w: (
        facts(w, "journal.json")["operation"] == "install"
        and facts(w, "journal.json")["step"] in {"place", "python", "venv"}
    ),
    "Why did the engine end?": lambda w: any(
        re.search(r"its engine, process \d+, was killed by SIGKILL; restarting in", line)
        for line in said(w)
    ),
    "How much GPU memory was free when it failed?": lambda w: any(
        "GPU 0 of 44.99 GiB had 1.17 GiB free" in one["shows"] for one in serve_log(w)["signs"]
    ),
    "Which exceptions were there, and where?": lambda w: (
        {one.get("errno") for one in serve_log(w)["not_included"]} >= {28, 98}
    ),
    "Do we know this failure?": lambda w: (
        {"out-of-gpu-memory", "shared-library-missing", "no-space-left"} <= set(w[1]["known"])
    ),
    "Which requests failed, and when?": lambda w: any(
        event["said"] == "request 0123456789abcdef failed" and event["at"]
        for event in serve_log(w)["events"]
    ),
    "Which versions of torch and llava-pack?": lambda w: facts(w, "packages.json")["llava-pack"],
    "Is it told to stay offline, and which GPU may it see?": lambda w: (
        facts(w, "settings.json")["variables"]["HF_HUB_OFFLINE"] == "1"
        and facts(w, "settings.json")["variables"]["CUDA_VISIBLE_DEVICES"] == "0"
    ),
    "Is a proxy, a mirror, a token set?": lambda w: all(
        facts(w, "settings.json")["variables"][name] == "set"
        for name in ("HTTPS_PROXY", "HF_ENDPOINT", "HF_TOKEN")
    ),
    "Is there room on the disk, and may it be written?": lambda w: (
        facts(w, "installed.json")["prefix"]["free_bytes"] > 0
        and facts(w, "installed.json")["prefix"]["writable"]
    ),
    "Does a server run, and for which models?": lambda w: (
        facts(w, "servers.json")[0]["models"][0] == "llava-v1.5-7b"
    ),
    "What does health find?": lambda w: facts(w, "health.json")["status"] == "CRITICAL",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_answers_what_support_asks(written, question):
    assert QUESTIONS[question](written)


def test_nothing_that_was_planted_is_in_it(written, planted_secrets):
    _, told, files = written
    whole = "\n".join([*files, *files.values(), json.dumps(told)]).lower()
    found = [s.kind for s in planted_secrets for one in s.needles if one.lower() in whole]
    assert not found, f"seed {SEED}"
    assert "t0k3n-of-this-start" not in whole
    assert f'"{platform.node().lower()}"' not in whole
    assert str(ROOT).lower() not in whole


def test_it_is_small_private_and_says_what_is_in_it(written):
    path, told, files = written
    assert path.stat().st_mode & 0o777 == 0o600
    assert told["size_bytes"] == path.stat().st_size < 5_000_000
    assert set(told["files"]) == set(files)
    assert told["dropped"] == []
    assert told["redacted"] == {}
    assert all(name in files["ABOUT.txt"] for name in files if name != "ABOUT.txt")


def test_what_it_would_hold_can_be_seen_first(broken, tmp_path):
    done = run("--prefix", str(broken.prefix), "--dry-run", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "--- machine.json\n" in done.stdout
    assert "--- journal.json\n" in done.stdout
    assert list(tmp_path.glob("*.tar.gz")) == []


def test_logs_come_along_only_where_they_are_asked_for_and_are_called_unreviewed(broken, tmp_path):
    path = tmp_path / "with.tar.gz"
    done = run("--prefix", str(broken.prefix), "--with-logs", "--out", str(path))
    assert done.returncode == 0, done.stderr
    assert "Read UNREVIEWED-logs before you send it." in done.stderr
    with tarfile.open(path) as archive:
        names = [name for name in archive.getnames() if "UNREVIEWED-logs/" in name]
        text = archive.extractfile(names[0]).read().decode()
    assert "was killed by SIGKILL" in text


def test_a_file_that_exists_is_never_touched(broken, tmp_path):
    taken = tmp_path / "taken.tar.gz"
    taken.write_text("mine")
    done = run("--prefix", str(broken.prefix), "--out", str(taken))
    assert done.returncode == 2
    assert taken.read_text() == "mine"


def test_each_text_of_a_run_state_is_a_secret_until_somebody_says_that_it_is_not():
    state = RunState(
        pid=1, host="gpu01.bank.internal", port=1, token="t0k3n-of-this-start", socket="/run/long",
        models=("m",), started=1, bundle_id="ab" * 32, control="/run/x", log="/var/log",
    )  # fmt: skip
    assert list(secrets_of(state)) == ["t0k3n-of-this-start"]
    assert socket.gethostname() not in secrets_of(state)
