"""`llava-pack have`: what is here, by digest, for the laptop to leave out."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.format.errors import UsageError
from llava_pack.installation.prefix import chosen_prefix


def have(
    short: Annotated[
        bool, typer.Option("--short", help="In a few lines, to be pasted or mailed.")
    ] = False,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Print the digests of the files that this installation has.

    Give them to `llava-pack carry --have` on the laptop: it leaves these files out. Where nothing
    is installed yet, the list is empty, and that is said.

    \b
    Examples:
      llava-pack have >/media/usb/have.txt
      llava-pack have --short
    """
    from llava_pack.format.digest_list import short_form
    from llava_pack.format.sums import MANIFEST_NAME
    from llava_pack.target.store import Store

    place = chosen_prefix(prefix)
    store = Store(place)
    if prefix is not None and not place.is_dir():
        hint = "pass the folder that the bundle was installed in; a new server has nothing"
        raise UsageError("no such folder", subject=str(place), hint=hint)
    if not store.root.is_dir():
        console.say(f"nothing is installed under {place}")
    manifests = place.glob(f"models/*/generations/*/{MANIFEST_NAME}")
    digests = [*store.digests(), *(_digest(path) for path in manifests)]
    digests = sorted(set(digests))
    if as_json:
        console.document("have", {"digests": digests})
        return
    lines = short_form("have", digests).splitlines() if short else digests
    for line in lines:
        console.verbatim(line)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
