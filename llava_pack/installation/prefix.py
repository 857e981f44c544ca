"""The folder that everything is installed under."""

from pathlib import Path


def chosen_prefix(prefix: Path | None) -> Path:
    """Return the prefix that is meant, absolute."""
    from llava_pack.target.generations import default_prefix

    return (prefix or default_prefix()).absolute()


def own_prefix(prefix: Path | None) -> Path:
    """Return the prefix that is meant, where nobody else could change what is run there.

    Raises:
        PreflightError: another account owns or can write it, or a folder on the way to it.
    """
    from llava_pack.target.ownership import check_prefix

    place = chosen_prefix(prefix)
    if place.exists():
        check_prefix(place)
    return place
