"""What `carry --dry-run` shows: each medium with its label and list, bytes and minutes."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from llava_pack.cli import console
from llava_pack.format.text import clock, human_bytes

if TYPE_CHECKING:
    from llava_pack.crossing.plan import CarryPlan, Load
    from llava_pack.crossing.request import CarrySource

_RATES = {"a USB 2 stick": 20e6, "a USB 3 stick": 100e6}
"""Bytes per second at which such media are written, about."""
_INSTALLER = "installer/"


def medium_label(source: "CarrySource", plan: "CarryPlan", number: int) -> str:
    """Return what is to be written on a medium, counted from 1."""
    return f"{source.manifest.recipe.name} {plan.part(number).label}"


def show_plan(
    source: "CarrySource", plan: "CarryPlan", chosen: Sequence[int], *, as_json: bool
) -> None:
    """Show media, and what would be on each.

    Args:
        source: the bundle.
        plan: of all media.
        chosen: those that would be written, counted from 1.
        as_json: for a program.
    """
    media = {number: plan.media[number - 1] for number in chosen}
    size_bytes = sum(one.size_bytes for one in media.values())
    if as_json:
        each = [
            {
                "medium": number,
                "label": medium_label(source, plan, number),
                "size_bytes": one.size_bytes,
                "parity_bytes": one.parity_bytes,
                "files": [load.name for load in one.loads],
            }
            for number, one in media.items()
        ]
        facts = {"bundle_id": plan.bundle_id, "size_bytes": size_bytes, "media": each}
        console.document("carry-plan", facts)
        return
    if not media:
        console.data("nothing is missing there: no medium is needed")
        return
    for number, one in media.items():
        size = human_bytes(one.size_bytes)
        console.data(f"medium {number} of {len(plan.media)}: {size} in {len(one.loads)} files")
        console.data(f"  label: {medium_label(source, plan, number)}")
        if one.parity_bytes:
            console.data(f"  recovery volumes: {human_bytes(one.parity_bytes)}")
        _list(one.loads)
    for kind, rate in _RATES.items():
        console.data(f"about {clock(size_bytes / rate)} to write with {kind}")


def _list(loads: Sequence["Load"]) -> None:
    """Print each file or piece with its size below its folder; the installer's as one."""

    def folder(load: "Load") -> str:
        return _INSTALLER if load.name.startswith(_INSTALLER) else load.name.rpartition("/")[0]

    for above, below in groupby(loads, key=folder):
        if above == _INSTALLER:
            size = human_bytes(sum(load.size_bytes for load in below))
            console.verbatim(f"  {size:>8}  {_INSTALLER}")
            continue
        if above:
            console.verbatim(f"  {above}/")
        for load in below:
            name = load.name.rpartition("/")[2]
            console.verbatim(
                f"{'    ' if above else '  '}{human_bytes(load.size_bytes):>8}  {name}"
            )
