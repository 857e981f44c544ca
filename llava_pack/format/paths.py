"""Names inside a bundle: the same on every filesystem, and none that climbs or hides.

Source: docs/reference/bundle-format.md, "Names".
"""

import re
from collections.abc import Iterable

from llava_pack.format.errors import IntegrityError
from llava_pack.format.records import summary

MAX_NAME_BYTES = 200
MAX_DEPTH = 16
_COMPONENT = re.compile(r"[A-Za-z0-9_+@!=][A-Za-z0-9._+@!=-]*")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def component_defect(name: str) -> str | None:
    """Return what is wrong with one name of a path, None where nothing is.

    >>> component_defect("model-00001-of-00002.safetensors")
    >>> component_defect("..")
    "expected letters, digits and ._+@!=- without a leading '-' or '.'"
    """
    if not _COMPONENT.fullmatch(name):
        return "expected letters, digits and ._+@!=- without a leading '-' or '.'"
    if name.endswith("."):
        return "a trailing dot is lost on Windows"
    if _WINDOWS_DEVICE.fullmatch(name):
        return "a reserved device name on Windows"
    if len(name) > MAX_NAME_BYTES:
        return f"expected at most {MAX_NAME_BYTES} bytes, got {len(name)}"
    return None


def path_defect(path: str) -> str | None:
    """Return what is wrong with a path inside a bundle, None where nothing is.

    >>> path_defect("model/../../etc/passwd")
    "name '..': expected letters, digits and ._+@!=- without a leading '-' or '.'"
    """
    if len(path) > MAX_NAME_BYTES:
        return f"expected at most {MAX_NAME_BYTES} bytes, got {len(path)}"
    if path.count("/") >= MAX_DEPTH:
        return f"expected at most {MAX_DEPTH} nested names"
    for name in path.split("/"):
        if defect := component_defect(name):
            return f"name {name!r}: {defect}"
    return None


def safe_component(name: str) -> str:
    """Return `name` where it may be one name inside a bundle.

    Raises:
        IntegrityError: it may not, and why.
    """
    if defect := component_defect(name):
        raise IntegrityError(f"not a valid name in a bundle: {defect}", subject=repr(name))
    return name


def bundle_path(text: str) -> str:
    """Return `text` where it may be a path inside a bundle: relative, and `/` between names.

    Raises:
        IntegrityError: it may not, and why.
    """
    if defect := path_defect(text):
        raise IntegrityError(f"not a valid path in a bundle: {defect}", subject=repr(text))
    return text


def clashes(paths: Iterable[str]) -> tuple[str, ...]:
    """Return what would collide on a filesystem that ignores case, or be file and folder at once.

    >>> clashes(["a/B.txt", "a/b.txt", "a"])
    ("'a/b.txt' clashes with 'a/B.txt'", "'a' is both a file and a folder")
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    found: list[str] = []
    for path in paths:
        if (other := files.setdefault(path.lower(), path)) is not path:
            found.append(f"{path!r} clashes with {other!r}")
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if (other := folders.setdefault(parent.lower(), parent)) != parent:
                found.append(f"folder {parent!r} clashes with {other!r}")
    found += [f"{files[name]!r} is both a file and a folder" for name in folders if name in files]
    return tuple(dict.fromkeys(found))


def check_unique(paths: Iterable[str]) -> None:
    """Check that no two paths collide where case is ignored.

    Raises:
        IntegrityError: naming every collision.
    """
    if found := clashes(paths):
        raise IntegrityError(summary(found))
