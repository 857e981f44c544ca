"""llava-pack's own wheel, repacked from the running package: same files, same bytes, fixed times.

It is not compressed: zlib's bytes differ between its builds, and the bundle id with them.

Source: the binary distribution format specification (PEP 427, 491).
"""

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from llava_pack import __version__
from llava_pack.format.errors import PackError
from llava_pack.shipped import shipped

FILENAME = f"llava_pack-{__version__}-py3-none-any.whl"
_INFO = f"llava_pack-{__version__}.dist-info"
_PACKAGE = Path(__file__).resolve().parent.parent
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3  # Source: APPNOTE.TXT 4.4.2, "version made by"; Python writes the system that it runs on
_WHEEL = (
    f"Wheel-Version: 1.0\nGenerator: llava-pack {__version__}\n"
    "Root-Is-Purelib: true\nTag: py3-none-any\n"
)


def write_own_wheel(folder: Path) -> Path:
    """Write the wheel of the running llava-pack into `folder` and return its path.

    Raises:
        PackError: this llava-pack is not an installed distribution.
    """
    target = folder / FILENAME
    members = sorted([*_code(), *_shipped_files(), *_info()])
    record = []
    with zipfile.ZipFile(target, "w") as wheel:
        for name, content in members:
            _add(wheel, name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{name},sha256={digest.decode()},{len(content)}\n")
        name = f"{_INFO}/RECORD"
        _add(wheel, name, ("".join(record) + f"{name},,\n").encode())
    return target


def _add(wheel: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = _UNIX
    info.external_attr = 0o100644 << 16
    wheel.writestr(info, content)


def _code() -> Iterator[tuple[str, bytes]]:
    for path in _files(_PACKAGE):
        inside = path.relative_to(_PACKAGE)
        if inside.parts[0] != "_shipped":
            yield f"llava_pack/{inside.as_posix()}", path.read_bytes()


def _shipped_files() -> Iterator[tuple[str, bytes]]:
    for path in _files(shipped("installers")):
        inside = path.relative_to(shipped("installers")).as_posix()
        yield f"llava_pack/_shipped/installers/{inside}", path.read_bytes()
    for path in _files(shipped("bundles")):
        inside_path = path.relative_to(shipped("bundles"))
        if inside_path.parts[0] != "demo-model":
            yield f"llava_pack/_shipped/bundles/{inside_path.as_posix()}", path.read_bytes()


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield path


def _info() -> Iterator[tuple[str, bytes]]:
    try:
        installed = metadata.distribution("llava-pack")
    except metadata.PackageNotFoundError as error:
        raise PackError(
            "the running llava-pack is not installed, so its metadata cannot be packed",
            hint="in a clone of llava-pack: uv tool install .",
        ) from error
    for name in ("METADATA", "entry_points.txt"):
        text = installed.read_text(name)
        if text is None:
            raise PackError(f"the running llava-pack has no {name}", hint="reinstall it")
        yield f"{_INFO}/{name}", text.encode()
    yield f"{_INFO}/WHEEL", _WHEEL.encode()
