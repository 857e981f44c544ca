"""A command's parameters: shared ones written once, and none that is ignored.

A command that is `expanded` names a dataclass as the type of a parameter; typer sees one option
for each of its fields instead, and the command is handed the value. So an option's name, type,
help and check stand in one place, however many commands have it.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

import typer

from llava_pack.format.errors import UsageError

Ways = Mapping[str, Collection[str]]
"""How a command can be called: by the parameter that chooses a way, those that go with it.

The way without such a parameter has an empty name.
"""


def expanded(command: Callable[..., None], ways: Ways | None = None) -> Callable[..., None]:
    """Return the command as typer is to see it: with the fields of its dataclasses as options.

    Args:
        command: it has a `ctx` where it can be called in several ways.
        ways: these; what does not go with one is refused before any value is checked.

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
        if ways is not None:
            refuse_strangers(options["ctx"], ways)
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


def names_of(group: type[Any]) -> tuple[str, ...]:
    """Return the names of a dataclass's options."""
    return tuple(field.name for field in fields(group))


def refuse_strangers(ctx: typer.Context, ways: Ways) -> None:
    """Refuse the options that do not go with the way in which a command is called.

    So an option that is added is refused in every way that does not name it.

    Raises:
        UsageError: naming the options that the way has no use for.
    """
    shown = {str(one.name): _shown(one) for one in ctx.command.params}
    typed = [str(one.name) for one in _typed(ctx)]
    way = next((name for name in ways if name in typed), "")
    if strangers := [name for name in typed if name not in {way, *ways[way]}]:
        others = ", ".join(shown[name] for name in ways if name and {*strangers} & {*ways[name]})
        raise UsageError(
            f"has no meaning with {shown[way]}" if way else f"goes only with one of: {others}",
            subject=", ".join(shown[name] for name in strangers),
            hint=f"leave it out; {ctx.command_path} --help says what each option is for",
        )


def typed_again(ctx: typer.Context, group: type[Any]) -> list[str]:
    """Return the fields of a dataclass as they were typed, for another command that takes it."""
    names = names_of(group)
    words: list[str] = []
    for one in _typed(ctx):
        if one.name in names:
            value = ctx.params[one.name]
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [one.opts[0]] if one.opts[0].startswith("-") else []
                words += [] if each is True else [str(each)]
    return words


def _shown(parameter: Any) -> str:
    """Return a parameter as people know it: its long option, or an argument in capitals."""
    names = parameter.opts
    argument = parameter.metavar or names[0].upper()
    return str(next((one for one in names if one.startswith("--")), argument))


def _typed(ctx: typer.Context) -> list[Any]:
    """Return the parameters that are on the command line."""
    return [
        one
        for one in ctx.command.params
        # an argument of any number of words that is absent is there as none, for some clicks
        if ctx.params.get(str(one.name)) not in (None, (), [])
        and (source := ctx.get_parameter_source(str(one.name)))
        and source.name == "COMMANDLINE"
    ]
