"""A bundle simulator: a real bundle of kilobytes, with one pure wheel and a stub smoke test.

Everything but the sizes is real: the installer's own files, SHA256SUMS, the manifest, a wheel that
uv installs, and a Python that runs.
"""

import base64
import hashlib
import io
import json
import platform
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llava_pack.format.chunks import CHUNK_BYTES, Chunks
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.manifest import (
    FileEntry,
    Floors,
    LicenceEntry,
    Manifest,
    ModelEntry,
    PythonEntry,
    RecipeEntry,
    Rewrite,
    ServingProfile,
    expected_format,
    render_manifest,
)
from llava_pack.format.sums import (
    ENGINE_LOCK,
    LOCK,
    MANIFEST_NAME,
    SUMS_NAME,
    UNLISTED,
    bundle_id,
    render_sums,
)
from llava_pack.format.welcome import START_NAME, start_here
from llava_pack.lock.pylock import LockedWheel, render_pylock

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
PROGRAMS = ("runtime/uv", "runtime/par2")
WHEEL = "wheels/llava_pack-0.0.1-py3-none-any.whl"

_REAL = (
    *("__init__.py", "serve/__init__.py", "serve/handover.py"),
    *("serve/own_servers.py", "serve/origin.py", "serve/background.py"),
)
SMOKE_PASSES = """\
import argparse, json, os, sys
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("manifest", "model-dir", "vision-tower", "precision", "device"):
    parser.add_argument("--" + name)
parser.add_argument("--accept-answer", action="append", default=[])
parser.add_argument("--json", action="store_true")
options = parser.parse_args()
config = json.loads((Path(options.model_dir) / "config.json").read_text())
tower = config["mm_vision_tower"]
ok = tower == options.vision_tower and (Path(tower) / "config.json").is_file()
print(json.dumps({"ok": ok, "answers": [], "precision": options.precision}))
sys.exit(0 if ok else 1)
"""
SMOKE_WRONG = SMOKE_PASSES.replace(
    'print(json.dumps({"ok": ok, "answers": []',
    """accepted = "square" in options.accept_answer
answer = {"name": "square", "ok": False, "text": "a dog", "why": "square: expected 'red', got 'a dog'"}
if accepted:
    answer["accepted"] = True
ok = ok and accepted
print(json.dumps({"ok": ok, "answers": [answer]""",
).replace("sys.exit(0 if ok else 1)", "sys.exit(0)")
"""It says another thing than its known answer, which may be accepted."""
SMOKE_FAILS = 'print(\'{"ok": false, "answers": ["a dog"]}\')\nraise SystemExit(1)\n'
STUB = Path(__file__).with_name("stub_program.py")


@dataclass(kw_only=True)
class BundleSimulator:
    """What a bundle is made from; change a field, then `write`."""

    recipe: str = "tiny"
    title: str = "A tiny LLaVA"
    python: str = PYTHON_MINOR
    uv_first: str = ""
    """Lines of shell that run before uv does."""
    release: int = 1_700_000_000
    smoke: str = SMOKE_PASSES
    fate: str = "works"
    """What becomes of its server: works, crashes or unwell."""
    weights: bytes = b"weights of a very small model"
    floors: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Floors that differ from what this machine has."""
    standalone: bool = False
    """Carry a Python archive, whose interpreter hands over to the one that runs the tests."""
    archive: Path | None = None
    """Carry this archive of a CPython."""
    real_uv: bool = False
    """Carry uv itself, not a script that starts it."""
    extra: Mapping[str, bytes] = field(default_factory=dict)
    """More listed files."""
    left_out: tuple[Path, ...] = ()
    """Wheels that it names and does not hold: an index has them."""
    engine: tuple[Path, ...] = ()
    """Wheels of an engine's own environment."""
    shared: tuple[Path, ...] = ()
    """Wheels that both environments have."""
    welcome: str = ""
    """START-HERE.txt in another version's words, which the manifest states then."""
    chunk_bytes: int = CHUNK_BYTES
    """Of the chunks that large files have digests of."""

    def write(self, root: Path) -> str:
        """Write the bundle into a new folder and return its id."""
        contents = {**self.payload(), **self.extra}
        for path, data in contents.items():
            if path in self._elsewhere():
                continue
            place(root / path, data, 0o755 if path in PROGRAMS else 0o644)
        if self.real_uv:
            (root / "runtime/uv").unlink()
            shutil.copy2(uv_path(), root / "runtime/uv")
            contents["runtime/uv"] = uv_path().read_bytes()
        manifest = self.manifest(contents)
        place(root / MANIFEST_NAME, render_manifest(manifest), 0o644)
        told = start_here(self.recipe, self.title, index=bool(self.left_out))
        welcome = self.welcome or told
        place(root / START_NAME, welcome.encode(), 0o644)
        return seal(root)

    def payload(self) -> dict[str, bytes]:
        """Return every file but the manifest, by path."""
        config = {"model_type": "llava", "mm_vision_tower": "../tower", "hidden_size": 8}
        files = {
            "model/tiny-llava/config.json": json.dumps(config, indent=2).encode(),
            "model/tiny-llava/model-00001-of-00001.safetensors": self.weights,
            "model/tower/config.json": b'{"model_type": "clip_vision_model"}\n',
            "model/tower/model.safetensors": b"weights of a tower",
            WHEEL: stub_wheel(self.smoke, fate=self.fate, release=self.release),
            LOCK: b"",
            "runtime/uv": f'#!/bin/sh\n{self.uv_first}\nexec "{uv_path()}" "$@"\n'.encode(),
            "runtime/python-version.txt": f"{self.python}\n".encode(),
            "licenses/LICENSE": b"Apache-2.0\n",
            **installer_files(),
        }
        files |= {f"wheels/{wheel.name}": wheel.read_bytes() for wheel in self.left_out}
        files |= {f"wheels/{wheel.name}": wheel.read_bytes() for wheel in self.shared}
        wheels = {path: data for path, data in files.items() if path.startswith("wheels/")}
        files[LOCK] = pylock(wheels)
        if self.engine:
            both = (*self.engine, *self.shared)
            own = {f"wheels/{wheel.name}": wheel.read_bytes() for wheel in both}
            files |= {**own, ENGINE_LOCK: pylock(own)}
        if self.standalone:
            files[f"runtime/cpython-{self.python}-test.tar.gz"] = python_archive()
        if self.archive is not None:
            files[f"runtime/{self.archive.name}"] = self.archive.read_bytes()
        return files

    def _elsewhere(self) -> set[str]:
        return {f"wheels/{wheel.name}" for wheel in self.left_out}

    def manifest(self, contents: Mapping[str, bytes]) -> Manifest:
        """Return the manifest over the files `contents`."""
        entries = tuple(
            FileEntry(
                path=path,
                size_bytes=len(data),
                mode=0o755 if path in PROGRAMS else 0o644,
                sha256=hashlib.sha256(data).hexdigest(),
                origin={"kind": "index" if path in self._elsewhere() else "text"},
            )
            for path, data in contents.items()
        )
        archive = next((path for path in contents if path.startswith("runtime/cpython-")), None)
        stated = self.welcome or start_here(self.recipe, self.title, index=True)
        return Manifest(
            format=expected_format(entries),
            release=self.release,
            created_by="bundle simulator",
            recipe=RecipeEntry(name=self.recipe, title=self.title),
            licence=LicenceEntry(id="apache-2.0", url="https://example.org/licence", gated=False),
            model=ModelEntry(
                name="tiny-llava",
                path="model/tiny-llava",
                format="original",
                vision_tower="model/tower",
                conv_mode="v1",
            ),
            python=PythonEntry(
                kind="standalone" if archive else "target", version=self.python, path=archive
            ),
            lock={"wheels": 1},
            files=entries,
            chunks=chunks_of(contents, self.chunk_bytes),
            start_here_sha256=hashlib.sha256(stated.encode()).hexdigest()
            if self.welcome or self.left_out
            else None,
            rewrites=(
                Rewrite(
                    path="model/tiny-llava/config.json",
                    pointer="/mm_vision_tower",
                    old="someone/clip-tiny",
                    new="../tower",
                    installed="{model_root}/tower",
                ),
            ),
            floors=replace(this_machine_floors(), python=self.python, **self.floors),
            serving=ServingProfile(
                engine="vllm" if self.engine else "transformers",
                precision="nf4",
                device="cpu",
                context_tokens=256,
                slots=2,
            ),
            known_answers=(
                KnownAnswer(
                    name="square",
                    picture_png=base64.b64encode(b"no picture").decode(),
                    prompt="What is it?",
                    contains=("square",),
                ),
            ),
        )


def chunks_of(contents: Mapping[str, bytes], size_bytes: int) -> Chunks:
    """Return the digests of the chunks of files that are larger than one."""
    return Chunks(
        size_bytes=size_bytes,
        sha256={
            hashlib.sha256(data).hexdigest(): tuple(
                hashlib.sha256(data[at : at + size_bytes]).hexdigest()
                for at in range(0, len(data), size_bytes)
            )
            for data in contents.values()
            if len(data) > size_bytes
        },
    )


def this_machine_floors() -> Floors:
    """Return floors that the machine of the tests passes."""
    return Floors(
        python=PYTHON_MINOR,
        python_tag="cp" + PYTHON_MINOR.replace(".", ""),
        platform="linux",
        arch=platform.machine(),
        glibc=None,
        driver=None,
        compute_capability=None,
        disk_bytes=1_000_000,
        memory_bytes={"nf4": 1_000_000},
        cpu_flags=(),
    )


def seal(root: Path) -> str:
    """Write SHA256SUMS over the files of a folder as they are, and return the id."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name not in UNLISTED]
    digests = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }
    data = render_sums(digests)
    place(root / SUMS_NAME, data, 0o644)
    return bundle_id(data)


def installer_files() -> dict[str, bytes]:
    """Return what a bundle carries to install itself, as in this checkout."""
    names = ["__init__.py", *_code("target"), *_code("format"), "target/zh.toml"]
    package = CHECKOUT / "llava_pack"
    files = {f"installer/llava_pack/{name}": (package / name).read_bytes() for name in names}
    files["install.sh"] = (CHECKOUT / "installers" / "install.sh").read_bytes()
    return files


def stub_wheel(smoke: str, *, fate: str = "works", release: int = 0) -> bytes:
    """Return a wheel named llava-pack: the smoke test `smoke`, the stub program, and real code.

    What is real is what a restart needs: the handover and the installer that it calls.
    """
    info = "llava_pack-0.0.1.dist-info"
    program = STUB.read_text(encoding="utf-8")
    program = program.replace('FATE = "works"', f"FATE = {fate!r}")
    files = {
        "llava_pack/__main__.py": program.replace("RELEASE = 0", f"RELEASE = {release}"),
        "llava_pack/health/__init__.py": "",
        "llava_pack/health/smoke.py": smoke,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: llava-pack\nVersion: 0.0.1\n",
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    for name in (*_REAL, *_code("format"), *_code("target")):
        files[f"llava_pack/{name}"] = (CHECKOUT / "llava_pack" / name).read_text()
    files[f"{info}/RECORD"] = "".join(map(_recorded, files.items()))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return data.getvalue()


def _code(folder: str) -> list[str]:
    """Return the modules of a folder of the package, relative to the package."""
    return [
        f"{folder}/{path.name}" for path in sorted((CHECKOUT / "llava_pack" / folder).glob("*.py"))
    ]


def _recorded(file: tuple[str, str]) -> str:
    """Return the line of RECORD for a file's name and text."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(file[1].encode()).digest()).decode()
    return f"{file[0]},sha256={digest.rstrip('=')},\n"


def pylock(wheels: Mapping[str, bytes]) -> bytes:
    """Return the lock of wheels, by their paths in the bundle."""
    locked = []
    for path, data in wheels.items():
        filename = path.rpartition("/")[2]
        name, version = filename.split("-")[:2]
        wheel = LockedWheel(
            name=name.replace("_", "-"),
            version=version,
            filename=filename,
            url="",
            sha256=hashlib.sha256(data).hexdigest(),
        )
        locked.append(wheel)
    return render_pylock(locked, python="3.11", folder="../wheels")


def python_archive() -> bytes:
    """Return an archive laid out like a standalone CPython, that starts the tests' own Python."""
    data = io.BytesIO()
    script = f'#!/bin/sh\nexec "{BASE_PYTHON}" "$@"\n'.encode()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        member = tarfile.TarInfo("python/bin/python3")
        member.size, member.mode = len(script), 0o755
        archive.addfile(member, io.BytesIO(script))
    return data.getvalue()


def uv_path() -> Path:
    """Return the uv of the environment that runs the tests."""
    beside = Path(sys.executable).with_name("uv")
    found = beside if beside.is_file() else Path(shutil.which("uv") or "uv")
    return found.absolute()


def place(path: Path, data: bytes, mode: int) -> None:
    """Write one file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    """Rewrite one file by `edit`."""
    path.write_bytes(edit(path.read_bytes()))
