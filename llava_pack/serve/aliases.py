"""Further names of models for `model` in the API, beside their own.

A name that was given to no model in particular stands for the server's first one, whichever that
is after a swap: clients keep the name that they were set up with.
"""

from collections.abc import Mapping, Sequence

from llava_pack.format.errors import UsageError
from llava_pack.format.text import visible

Aliases = Mapping[str, tuple[str, ...]]
"""Names by the model's own; under an empty one, those of the first model."""
_OPTION = "--served-model-name"
_MAX_CHARS = 200


def aliases_of(typed: Sequence[str], models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the names that were typed, as NAME or MODEL=NAME.

    Args:
        typed: as it was typed.
        models: the own names of those that are served.

    Raises:
        UsageError: a name is none, is there twice, or is for no model that is served.

    >>> aliases_of(["gpt-4o", "llava"], ["llava-v1.5-7b"])
    {'': ('gpt-4o', 'llava')}
    >>> aliases_of(["b=gpt-4o"], ["a", "b"])
    {'b': ('gpt-4o',)}
    """
    aliases: dict[str, tuple[str, ...]] = {}
    for one in typed:
        model, equals, name = one.rpartition("=")
        if not equals and len(models) > 1:
            raise UsageError(
                f"which model is meant by {visible(one)}? Served are {', '.join(models)}",
                subject=_OPTION,
                hint=f"{_OPTION} {models[0]}={visible(one)}",
            )
        if equals and model not in models:
            raise UsageError(
                f"{visible(model)!r} is not served; expected one of {', '.join(models)}",
                subject=_OPTION,
            )
        if not 0 < len(name) <= _MAX_CHARS or not name.isprintable() or name != name.strip():
            raise UsageError(
                f"expected a name of 1 to {_MAX_CHARS} printable characters, got {visible(name)!r}",
                subject=_OPTION,
            )
        if name in models or any(name in names for names in aliases.values()):
            raise UsageError(f"{name} is there twice; expected one model a name", subject=_OPTION)
        aliases[model] = (*aliases.get(model, ()), name)
    return aliases
