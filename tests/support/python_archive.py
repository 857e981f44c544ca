"""The running CPython in the layout of a standalone archive, and a server that has it."""

import hashlib
import json
import platform
import sys
import tarfile
from pathlib import Path

from tests.support.loopback import Answer, Asked, Loopback

_LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "__pycache__",
}
VERSION = platform.python_version()
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
TRIPLE = f"{platform.machine()}-unknown-linux-gnu"


def write_archive(folder: Path) -> Path:
    """Write `python/bin/python3` and its library, without tests and packages.

    A CPython that was built with a fixed path to its libpython still needs that file where it is.
    """
    base = Path(sys.base_prefix)
    path = folder / f"cpython-{VERSION}+20260101-{TRIPLE}-install_only.tar.gz"

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = set(Path(member.name).parts)
        left_out = parts & _LEFT_OUT or any(part.startswith("config-") for part in parts)
        return None if left_out else member

    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add((base / "bin" / f"python{MINOR}").resolve(), f"python/bin/python{MINOR}")
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, f"python{MINOR}"
        archive.addfile(link)
        archive.add(base / "lib" / f"python{MINOR}", f"python/lib/python{MINOR}", filter=kept)
        for library in sorted((base / "lib").glob("libpython*.so*")):
            archive.add(library, f"python/lib/{library.name}")
    return path


class PythonMirror(Loopback):
    """Serve one archive, and the list that uv's --python-downloads-json-url wants."""

    def __init__(self, archive: Path) -> None:
        super().__init__()
        self._archive = archive

    @property
    def list_url(self) -> str:
        """What UV_PYTHON_DOWNLOADS_JSON_URL is set to."""
        return f"{self.url}/list.json"

    def respond(self, asked: Asked) -> Answer:
        digest = hashlib.sha256(self._archive.read_bytes()).hexdigest()
        if asked.path == "/list.json":
            return Answer(body=json.dumps(self._list(digest)).encode())
        if asked.path.endswith("/SHA256SUMS"):
            return Answer(body=f"{digest}  {self._archive.name}\n".encode())
        return Answer(body=self._archive, ranged=True)

    def _list(self, digest: str) -> dict[str, object]:
        major, minor, patch = (int(part) for part in VERSION.split("."))
        entry = {
            "name": "cpython",
            "arch": {"family": platform.machine(), "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": major,
            "minor": minor,
            "patch": patch,
            "prerelease": "",
            "url": f"{self.url}/20260101/{self._archive.name.replace('+', '%2B')}",
            "sha256": digest,
            "variant": None,
            "build": "20260101",
        }
        return {f"cpython-{VERSION}-linux-{platform.machine()}-gnu": entry}
