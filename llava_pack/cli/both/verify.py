"""`llava-pack verify`: read a whole bundle and report every difference."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Bundle
from llava_pack.cli.both.repair import BRING_AGAIN, say_need
from llava_pack.cli.signing_keys import TrustKey
from llava_pack.format.chunks import parse_piece
from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.text import human_bytes

if TYPE_CHECKING:
    from llava_pack.format.part import MediumPart
    from llava_pack.installation.bundle_check import BundleCheck
    from llava_pack.target.trust import Verdict

_SHOWN = 5
"""Names of files that are elsewhere; --json has them all."""


def verify(
    bundle: Bundle,
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    trust_key: TrustKey = None,
    have: Annotated[
        Path | None,
        typer.Option(
            metavar="PREFIX",
            help="Count the files that this installation has; they are read too.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a whole bundle, and list every file that differs.

    Of a medium that `carry` wrote, it verifies what is there, and says what is not.

    Without --expect or --trust-key, this proves that it is complete, not who built it. Exit code
    4: files differ; 5: this is not the bundle that you expect, or its signature is bad; 6: no tool
    here can check the signature.

    \b
    Examples:
      llava-pack verify /media/usb/llava-v1.5-7b --expect 3f9a…
      llava-pack verify /media/usb/llava-v1.5-7b --trust-key llava-pack.pub.pem
      llava-pack verify /media/usb/update --have /opt/llava-pack
      llava-pack verify ./demo-bundle --json
    """
    from llava_pack.installation.bundle_check import examine
    from llava_pack.target import trust
    from llava_pack.target.inventory import read_listing
    from llava_pack.target.parity import volumes
    from llava_pack.target.store import Store

    began = time.monotonic()
    listing = read_listing(bundle, expect=expect)
    verdict = trust.judge(listing, trust_key=trust_key, prefix=None)
    store = None if have is None else Store(have)
    if store is not None and not store.root.is_dir():
        hint = "pass the folder that a bundle was installed in, or leave --have out"
        raise UsageError("nothing is installed there", subject=f"--have {have}", hint=hint)
    found = examine(listing, key=verdict.key, store=store, progress=console.progress())
    facts = {**found.facts(), "trust": verdict.facts()}
    facts["parity"] = {one.name: one.stat().st_size for one in volumes(bundle)}
    facts["took_s"] = round(time.monotonic() - began, 3)
    if found.defects:
        if not as_json:
            raise _refusal(found, parity=bool(facts["parity"]))
        code = int(IntegrityError.exit_code)
        console.document("verify", {**facts, "exit_code": code})
        raise typer.Exit(code)
    if as_json:
        console.document("verify", facts)
        return
    _say_contents(found, have)
    if absent := len(facts["left_out"]):
        console.say(f"! {absent} wheels are left out: the server fetches them from its own index")
    extra = ", ".join(f"{name} ({human_bytes(size)})" for name, size in found.unlisted.items())
    console.say(f"{console.mark('ok')} unlisted files are accounted for: {extra}")
    if found.litter:
        console.say(f"! files of operating systems lie around, {found.litter}: none is ever read")
    if parity := facts["parity"]:
        size = human_bytes(sum(parity.values()))
        console.say(f"! {len(parity)} recovery volumes ({size}) are not listed, and prove nothing")
    for line in _trust_lines(found.listing.expected, verdict):
        console.say(line)
    console.verbatim(found.listing.bundle_id)


def _refusal(found: "BundleCheck", *, parity: bool) -> IntegrityError:
    """Show each defect once, and return the error that says what to do about them."""
    from llava_pack.installation.bad_files import bad_files, need_text
    from llava_pack.target.inventory import COPY_AGAIN

    for defect in found.defects:
        console.say(f"{console.mark('fail')} {defect}")
    why = f"{len(found.defects)} of {len(found.listing.sums)} files differ"
    bad = tuple(bad_files(found, found.defects))
    if bad and parity:
        command = join(["llava-pack", "repair", str(found.listing.root)])
        return IntegrityError(why, hint=f"{command} rebuilds bad files from the recovery data")
    say_need(need_text(bad))
    return IntegrityError(why, hint=BRING_AGAIN if bad else COPY_AGAIN)


def _say_contents(found: "BundleCheck", have: Path | None) -> None:
    total = len(found.listing.sums)
    size = human_bytes(found.size_bytes)
    if not found.absent:
        console.say(f"{console.mark('ok')} {total} files, {size}: every byte is as listed")
        return
    here = total - len(found.absent)
    console.say(f"{console.mark('ok')} {here} of {total} files, {size}: every byte is as listed")
    if found.part is not None:
        of = len(found.part.media)
        number = found.part.medium
        console.say(f"! medium {number} of {of}: {len(found.absent)} files are not here whole")
        _say_elsewhere(found.part, found.absent, have)


def _say_elsewhere(part: "MediumPart", absent: Sequence[str], have: Path | None) -> None:
    """Say which other medium has what of the files that are not here, and what none has."""
    rest = set(absent)
    for number, names in enumerate(part.media, start=1):
        pieces = filter(None, map(parse_piece, names))
        there = {*names, *(path for path, _ in pieces)}.intersection(absent)
        rest -= there
        if there and number != part.medium:
            console.say(f"  medium {number} of {len(part.media)} has {_named(there)}")
    if rest and have is None:
        console.say(f"  on no medium, so the server must have them: {_named(rest)}")
    elif rest:
        console.say(f"  neither on a medium nor in {have}: {_named(rest)}")


def _named(paths: Iterable[str]) -> str:
    """Return paths in one line: the first few, and how many more there are."""
    first, more = sorted(paths)[:_SHOWN], sorted(paths)[_SHOWN:]
    return f"{', '.join(first)} and {len(more)} more" if more else ", ".join(first)


def _trust_lines(expected: bool, verdict: "Verdict") -> list[str]:
    lines = [f"{console.mark('ok')} the bundle id matches the given one"] if expected else []
    if verdict.key is not None and verdict.trusted:
        lines.append(f"{console.mark('ok')} signed by the key {verdict.key.fingerprint}")
    elif verdict.key is not None:
        lines.append(
            f"! signed by {verdict.key.fingerprint}, a key named only by the bundle itself"
        )
    if not expected and not verdict.trusted:
        lines.append("! only the bundle vouches for itself: compare this id with the build's card")
    return lines
