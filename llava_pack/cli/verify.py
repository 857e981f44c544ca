"""`llava-pack verify`: read a whole bundle and report every difference."""

import time
from pathlib import Path
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.target import AsJson, llava_target


def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder of the bundle.")],
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a bundle once, and name every file that is not as it was built.

    Without --expect this proves that the bundle is whole, not who made it. Exit code 4: files
    differ; 5: this is not the bundle that you expect.

    \b
    Examples:
      llava-pack verify /media/usb/llava-v1.5-7b --expect 3f9a…
      llava-pack verify ./demo-bundle --json
    """
    llava_target()
    from llava_target.inventory import examine, refusal

    began = time.monotonic()
    found = examine(bundle, expect=expect, progress=console.progress())
    facts = {**found.facts(), "took_s": round(time.monotonic() - began, 3)}
    if found.defects:
        error = refusal(found.defects, of=len(found.listing.sums))
        if not as_json:
            for defect in found.defects:
                console.say(f"{console.mark('fail')} {defect}")
            raise error
        console.document("verify", {**facts, "exit_code": int(error.exit_code)})
        raise typer.Exit(int(error.exit_code))
    if as_json:
        console.document("verify", facts)
        return
    size = console.human_bytes(found.size_bytes)
    console.say(f"{console.mark('ok')} {facts['files']} files, {size}: every byte is as listed")
    if found.listing.expected:
        console.say(f"{console.mark('ok')} the bundle id is the one that you gave")
    else:
        console.say("! the bundle vouches for itself only: compare this id with the build's card")
    console.data(found.listing.bundle_id)
