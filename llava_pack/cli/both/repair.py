"""`llava-pack repair`: rebuild the bad files of a bundle, or of a part of one, in place."""

from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Bundle
from llava_pack.cli.signing_keys import TrustKey
from llava_pack.format.errors import IntegrityError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.text import human_bytes

if TYPE_CHECKING:
    from llava_pack.installation.repair import Repair


def repair(
    bundle: Bundle,
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    trust_key: TrustKey = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, say what is bad, write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild the damaged files of a bundle, or of one medium of it, from its recovery data.

    The recovery data is in the folder parity/, and par2 computes with it. A bad file is replaced
    only by one whose SHA-256 is listed. Exit code 4: files remain bad; 6: there is no par2 here
    that can be trusted; 7: there is not enough space for the rebuilt files.

    \b
    Examples:
      llava-pack repair /media/usb/llava-v1.5-7b --expect 3f9a…
      llava-pack repair /media/usb/llava-v1.5-7b --dry-run
      llava-pack repair ./demo-bundle --json
    """
    from llava_pack.installation.bundle_check import examine
    from llava_pack.installation.repair import repair as mend
    from llava_pack.target import trust
    from llava_pack.target.inventory import read_listing

    listing = read_listing(bundle, expect=expect)
    verdict = trust.judge(listing, trust_key=trust_key, prefix=None)
    found = examine(listing, key=verdict.key, progress=console.progress())
    result = mend(found, verdict, console.progress(), dry_run=dry_run)
    error = _remaining(result, dry_run=dry_run) if result.left else None
    if as_json:
        facts = {"bundle_id": listing.bundle_id, "dry_run": dry_run, **result.facts()}
        code = ExitCode.OK if error is None else error.exit_code
        console.document("repair", {**facts, "exit_code": int(code)})
        raise typer.Exit(int(code))
    for path in result.mended:
        console.say(f"{console.mark('ok')} {path}: rebuilt, every byte is as listed")
    for defect in result.left:
        console.say(f"{console.mark('fail')} {defect}")
    if error is not None:
        raise error
    size = human_bytes(found.size_bytes)
    if not result.mended:
        console.say(f"{console.mark('ok')} {len(listing.sums)} files, {size}: nothing to repair")
    console.verbatim(listing.bundle_id)


def _remaining(result: "Repair", *, dry_run: bool) -> IntegrityError:
    """Return what to do about files that are still bad."""
    count = len(result.left)
    if dry_run and len(result.bad) == count:
        return IntegrityError(
            f"{count} files are bad, and the recovery data covers all of them",
            hint="run the same command without --dry-run",
        )
    again = (
        "bring the named files again: copy them, or write a medium with just them: "
        "llava-pack carry BUNDLE --need FILE"
    )
    if not result.volumes:
        return IntegrityError(f"{count} files are bad, and there is no recovery data", hint=again)
    if result.lacking_bytes:
        more = human_bytes(result.lacking_bytes)
        return IntegrityError(
            f"{count} files are still bad: the recovery data is {more} short", hint=again
        )
    return IntegrityError(
        f"{count} files are still bad: the recovery data does not cover them", hint=again
    )
