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

BRING_AGAIN = (
    "copy the named files again; or have them written on a medium: on the laptop, paste the lines "
    "from need: on into llava-pack carry BUNDLE --to DIR --need -"
)


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
    """Rebuild damaged files of a bundle from recovery data.

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
        if not (dry_run and result.bad):
            say_need(result.need)
        raise error
    if not result.mended:
        total, size = len(listing.sums), human_bytes(found.size_bytes)
        here = total - len(found.absent)
        console.say(f"{console.mark('ok')} {here} of {total} files, {size}: nothing to repair")
    console.verbatim(listing.bundle_id)


def say_need(need: str) -> None:
    """Print what is pasted on the laptop, where there is any."""
    if need:
        console.say("what to bring, for llava-pack carry BUNDLE --to DIR --need - on the laptop:")
        console.talk(need)


def _remaining(result: "Repair", *, dry_run: bool) -> IntegrityError:
    """Return what to do about files that are still bad."""
    count = len(result.left)
    if dry_run and result.bad:
        most, data = human_bytes(result.bad_bytes), human_bytes(result.recovery_bytes)
        return IntegrityError(
            f"bad files: {count}, at most {most} of them; recovery data for {len(result.bad)}: "
            f"{data}; only the repair shows whether that is enough",
            hint="run the same command without --dry-run",
        )
    if not result.volumes:
        why = f"bad files: {count}, and there is no recovery data"
        return IntegrityError(why, hint=BRING_AGAIN)
    if result.lacking_bytes:
        more = human_bytes(result.lacking_bytes)
        why = f"files still bad: {count}; the recovery data is {more} short"
        return IntegrityError(why, hint=BRING_AGAIN)
    why = f"files still bad: {count}; the recovery data does not cover them"
    return IntegrityError(why, hint=BRING_AGAIN)
