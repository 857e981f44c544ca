"""Every kind of source there is, by the word that a recipe begins it with."""

from collections.abc import Mapping
from pathlib import Path

from llava_pack.fetch.directory import DirectorySource
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.modelscope import ModelScopeSource
from llava_pack.fetch.source import Source
from llava_pack.format.errors import RecipeError

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
