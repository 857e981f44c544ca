"""A copy of the sources in which a check is missing: what an attack must get through."""

import shutil

from tests.support.bundle import CHECKOUT

_SERVE = ("__init__.py", "background.py", "handover.py", "own_servers.py", "origin.py")


def changed_tree(tree, edits):
    """Copy what bundles are made of, and take checks out of it.

    Each edit is a path below the copy, the text that is there, and what takes its place.
    """
    for name in ("installers", "llava_pack/format", "llava_pack/target"):
        _copy(CHECKOUT / name, tree / name)
    for path in (CHECKOUT / "llava_pack").glob("*.py"):
        _copy(path, tree / "llava_pack" / path.name)
    for name in _SERVE:
        _copy(CHECKOUT / "llava_pack/serve" / name, tree / "llava_pack/serve" / name)
    for name, old, new in edits:
        path = tree / name
        text = path.read_text()
        assert text.count(old) >= 1, f"{name} has changed: {old}"
        path.write_text(text.replace(old, new))
    return tree


def _copy(source, destination):
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, destination)
