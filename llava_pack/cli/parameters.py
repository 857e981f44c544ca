"""A dataclass as a part of a command's options: written once, taken whole by many commands.

A command that is `expanded` names a dataclass as the type of a parameter; typer sees one option
for each of its fields instead, and the command is handed the value. So an option's name, type,
help and check stand in one place, however many commands have it.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command as typer is to see it: with the fields of its dataclasses as options.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size:
    ...     width: int = 1
    >>> @expanded
    ... def area(*, size: Size, height: int = 2) -> None:
    ...     print(size.width * height)
    >>> str(inspect.signature(area))
    '(*, width: int = 1, height: int = 2) -> None'
    >>> area(width=3, height=5)
    15
    """
    signature = inspect.signature(command, eval_str=True)
    taken = signature.parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in taken if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def run(**options: Any) -> None:
        values = {
            name: group(**{field.name: options.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**options, **values)

    shown = [
        parameter
        for each in taken
        for parameter in (_parameters(each.annotation) if each.name in groups else [each])
    ]
    keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
    run.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in keywords}
    return run


def _parameters(group: type[Any]) -> Iterator[inspect.Parameter]:
    """Yield what typer is to see of a dataclass: a parameter for each field."""
    types = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
