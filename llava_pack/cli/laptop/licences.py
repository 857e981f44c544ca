"""The terms of a recipe's models: shown, and accepted by a person or by an option."""

import shlex
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

import typer

from llava_pack.cli import console

if TYPE_CHECKING:
    from llava_pack.recipe import Recipe


def accepted_terms(recipe: "Recipe", given: Collection[str]) -> frozenset[str]:
    """Return the licences that are accepted: those given, and those that a person says yes to.

    Args:
        recipe: what is built.
        given: ids from `--accept-license`.

    Raises:
        AccessError: one that has to be accepted is not; without a terminal nobody is asked.
        UsageError: what is given is no licence of the recipe.
    """
    from llava_pack.assemble.terms import check_accepted, gated

    accepted = set(given)
    if sys.stdin.isatty() and sys.stderr.isatty():
        for name, licence in gated(recipe).items():
            if name in accepted:
                continue
            console.say(f"{recipe.name} is under {name}: {licence.url}")
            if typer.confirm(f"Do you accept the terms of {name}?", err=True):
                accepted.add(name)
    check_accepted(recipe, accepted, shlex.join(["llava-pack", *sys.argv[1:]]))
    return frozenset(accepted)
