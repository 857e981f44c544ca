"""`llava-pack install`: an upgrade, or a first install on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.target import AsJson, Prefix, chosen_prefix
from llava_pack.format import records

if TYPE_CHECKING:
    from llava_target.installer import Plan


def install(
    bundle: Annotated[Path, typer.Argument(help="The folder of the bundle.")],
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    prefix: Prefix = None,
    python: Annotated[
        Path | None, typer.Option(help="The Python to use, for a bundle that carries none.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, say what would happen, write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Install a bundle without any network: verify, place, test, then switch in one step.

    Nothing is run from the bundle. Whatever fails, the version that served before stays active.

    \b
    Examples:
      llava-pack install /media/usb/llava-v1.5-7b --expect 3f9a…
      llava-pack install ./demo-bundle --expect 3f9a… --prefix ~/llava --dry-run
    """
    place = chosen_prefix(prefix)
    from llava_target import installer

    request = installer.Request(bundle=bundle, expect=expect, prefix=place, python=python)
    if dry_run:
        _show_plan(installer.plan(request), as_json=as_json)
        return
    outcome = installer.install(request, console.progress())
    if as_json:
        console.document("install", outcome.facts())
        return
    word = "is installed already" if outcome.unchanged else "is installed"
    console.say(f"{outcome.recipe} generation {outcome.generation} {word}; next:")
    console.data(outcome.facts()["next"])


def _show_plan(plan: "Plan", *, as_json: bool) -> None:
    sizes = {"copy_bytes": plan.copy_bytes, "stored_bytes": plan.stored_bytes}
    if as_json:
        console.document("plan", {**sizes, "findings": records.encode(plan.findings)})
        return
    for found in plan.findings:
        console.say(f"{console.mark(found.level)} {found.name}: {found.value} (need {found.need})")
    console.data(
        f"would copy {console.human_bytes(plan.copy_bytes)}; "
        f"{console.human_bytes(plan.stored_bytes)} are stored already; nothing was written"
    )
