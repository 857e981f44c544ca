"""Where recipes and installers are: in a checkout beside the package, in a wheel inside it."""

from pathlib import Path

from llava_pack.format.errors import PackError

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the folder `bundles` or `installers` of the running llava-pack.

    Raises:
        PackError: this copy of llava-pack was installed without it.
    """
    for root in (_PACKAGE / "_shipped", _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise PackError(
        f"folder {name!r} is missing from this installation of llava-pack",
        hint="reinstall llava-pack",
    )
