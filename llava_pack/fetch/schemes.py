"""Every kind of source there is, by the word that a recipe begins it with."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llava_pack.fetch.directory import DirectorySource
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.modelscope import ModelScopeSource
from llava_pack.fetch.source import Source
from llava_pack.format.errors import RecipeError, UsageError

SCHEMES: Mapping[str, type[Source]] = {
    "hf": HubSource,
    "ms": ModelScopeSource,
    "dir": DirectorySource,
}


def parse_source(text: str, *, base: Path | None = None) -> Source:
    """Read `SCHEME:PLACE`, as a recipe writes it.

    Args:
        text: for example `hf:repo@revision`, `ms:owner/repo` or `dir:path`.
        base: what a relative folder is relative to; the working directory by default.

    Raises:
        RecipeError: it is of no known kind, or not written as that kind is.

    >>> str(parse_source("hf:liuhaotian/llava-v1.5-7b"))
    'hf:liuhaotian/llava-v1.5-7b@main'
    """
    scheme, _, place = text.partition(":")
    kind = SCHEMES.get(scheme)
    source = None if kind is None else kind.parse(place, base or Path())
    if source is None:
        raise RecipeError(
            f"not a source, expected {' or '.join(one.FORM for one in SCHEMES.values())}",
            subject=text,
            hint="correct the recipe's source",
        )
    return source


def given_source(text: str, name: str, subject: str) -> Source:
    """Read a source that is typed for a part of a recipe: a folder, or as a recipe writes it.

    Args:
        text: `ms:repo`, `hf:repo@revision`, or the path of a folder.
        name: of the part, which a folder is called by: where it lies is nobody's business.
        subject: the option that it is typed for.

    Raises:
        UsageError: it is neither.
        CheckpointError: it is a hub's cache without a snapshot.

    >>> str(given_source("ms:owner/llava", "llava", "--model"))
    'ms:owner/llava@master'
    """
    scheme, _, place = text.partition(":")
    if scheme in SCHEMES and scheme != "dir":
        return parse_source(text)
    folder = DirectorySource.parse(place if scheme == "dir" else text, Path())
    if folder is None or not folder.folder.is_dir():
        forms = ", ".join(one.FORM for one in SCHEMES.values() if one is not DirectorySource)
        raise UsageError(
            f"expected a folder or {forms}, got {text!r}",
            subject=subject,
            hint="check the path: it is the folder that holds config.json",
        )
    return replace(folder, name=name)
