"""Bundles of earlier versions, kept as they were written, to be installed on the machine at hand."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from llava_pack.format import canonical
from llava_pack.format.sums import MANIFEST_NAME
from tests.support.bundle import BundleSimulator, place, seal

FOLDER = Path(__file__).resolve().parents[1] / "compatibility"
_OF_THE_MACHINE = ("python", "python_tag", "arch")


def unpack(name: str, root: Path) -> str:
    """Write a kept bundle into a new folder and return its id.

    Its code and the form of its manifest are those of then. What belongs to the machine that runs
    the tests is put in: uv, the Python, and what the floors say of both.
    """
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(root, filter="data")
    own = BundleSimulator()
    now = {path: own.payload()[path] for path in ("runtime/uv", "runtime/python-version.txt")}
    manifest: dict[str, Any] = json.loads((root / MANIFEST_NAME).read_bytes())
    for entry in manifest["files"]:
        if (data := now.get(entry["path"])) is not None:
            mode = 0o755 if entry["path"] == "runtime/uv" else 0o644
            place(root / entry["path"], data, mode)
            entry |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    floors = own.manifest({}).floors
    manifest["floors"] |= {field: getattr(floors, field) for field in _OF_THE_MACHINE}
    manifest["python"]["version"] = own.python
    place(root / MANIFEST_NAME, canonical.dumps(manifest), 0o644)
    return seal(root)
