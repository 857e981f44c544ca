"""`llava-pack carry`: write a bundle, or what is missing of one, on media."""

import sys
from collections import Counter
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Bundle
from llava_pack.format.errors import UsageError
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.format.text import clock, human_bytes
from llava_pack.shells import redirected

if TYPE_CHECKING:
    from llava_pack.crossing.carry import WrittenMedium
    from llava_pack.crossing.media import MediumSize
    from llava_pack.crossing.plan import CarryPlan, MediumPlan
    from llava_pack.crossing.request import CarrySource

_RATES = {"a USB 2 stick": 20e6, "a USB 3 stick": 100e6}
"""Bytes per second at which such media are written, about."""


def carry(
    bundle: Bundle,
    to: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR",
            help="Where to write: one folder for each medium, or one folder that gets all.",
        ),
    ],
    media: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Size of each medium: 4.7GB, 25GB, 650MB, 32GB-fat32 or a number of bytes. "
            "Default: what is free in each DIR.",
        ),
    ] = None,
    medium: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Write only this medium of the set.")
    ] = None,
    have: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Leave out what the server has: the output of `have`, - for stdin."
        ),
    ] = None,
    need: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Only what the server asks for: need.json, - for stdin."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE", help="Leave out what this earlier bundle, or its SHA256SUMS, has."
        ),
    ] = None,
    parity: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Recovery volumes on each medium, such as 5%: they repair what goes bad on it.",
        ),
    ] = None,
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what DIR holds of another bundle.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the media, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle on media, or only what a server lacks of it.

    A bundle that is larger than a medium is divided. Each medium can be verified by itself, and the
    server takes them in any order (`install --collect`). With --have, --base or --need, only what
    is missing there is written: an update, or a repair. The same command resumes, and replaces what
    went bad on a medium.

    \b
    Examples:
      llava-pack carry llava-v1.5-7b-bundle --to /media/usb
      llava-pack carry llava-v1.5-7b-bundle --to /media/a --to /media/b --media 8GB
      llava-pack carry llava-v1.5-7b-bundle --to ~/dvds --media 4.7GB --parity 5%
      llava-pack carry llava-v1.5-7b-bundle --to /media/usb --base old-bundle
      llava-pack carry llava-v1.5-7b-bundle --to /media/usb --need need.json
    """
    from llava_pack.crossing.carry import write_medium
    from llava_pack.crossing.medium_folder import check_folder, check_mounted, check_room
    from llava_pack.crossing.request import read_source

    for place in to:
        check_mounted(place)
    source = read_source(bundle, expect=expect)
    name = _name(source, need=need, update=have or base)
    sizes = _Sizes(to, media, name)
    plan = _plan(source, sizes, (have, need, base), parity)
    console.say(f"bundle id {plan.bundle_id}")
    if medium is not None and medium > len(plan.media):
        raise UsageError(f"expected 1 to {len(plan.media)}, got {medium}", subject="--medium")
    chosen = [medium] if medium is not None else list(range(1, len(plan.media) + 1))
    folders = _folders(name, to, plan)
    if dry_run:
        _show_plan(plan, as_json=as_json)
        return
    for number in chosen:
        check_folder(source, plan, number, folders[number - 1], replace=replace)
    written = []
    for number in chosen:
        check_room(folders[number - 1], plan.media[number - 1])
        done = write_medium(source, plan, number, folders[number - 1], console.progress())
        written.append(done)
        console.say(f"{console.mark('ok')} {_told(done)}")
        label = f"{source.manifest.recipe.name} {plan.part(number).label}"
        console.say(f"  label: {label}; {_contents(plan.media[number - 1])}")
    facts = {"bundle_id": plan.bundle_id, "media": [one.facts() for one in written]}
    lines = [
        line
        for done in written[:1]
        for line in _lines(source, done, update=bool(have or base), repair=bool(need))
    ]
    if as_json:
        console.document("carry", {**facts, "install": lines[-1] if lines else None})
        return
    if not written:
        console.say("nothing is missing there: no medium is needed")
        return
    if len(plan.media) > 1:
        console.say("on the server, with each medium in turn, in any order:")
    else:
        console.say("on the server:")
    for line in lines:
        console.verbatim(line)


def _plan(
    source: "CarrySource",
    sizes: "_Sizes",
    lists: tuple[str | None, str | None, Path | None],
    parity: str | None,
) -> "CarryPlan":
    from llava_pack.crossing.media import parse_percent
    from llava_pack.crossing.plan import plan_media
    from llava_pack.crossing.request import less, read_base, read_list, wanted

    have, need, base = lists
    if sum(one is not None for one in lists) > 1:
        raise UsageError("expected one of --have, --need and --base", subject="carry")
    files = source.files()
    known = None
    if have is not None:
        known = read_list(_text(have, "--have"), "have")
    if base is not None:
        known = read_base(base)
    if known is not None:
        files = less(files, known)
    if need is not None:
        listed = read_list(_text(need, "--need"), "need")
        listing = source.listing
        manifest = listing.sums[MANIFEST_NAME]
        files = wanted(files, listed, listing.bundle_id, manifest_sha256=manifest)
    return plan_media(
        source.listing.bundle_id,
        files,
        sizes,
        list_bytes=sum(map(len, source.head.values())),
        parity_percent=0 if parity is None else parse_percent(parity),
        changed=known is not None and source.listing.sums[MANIFEST_NAME] not in known,
    )


def _text(name: str, option: str) -> str:
    """Return a file's text, or what is pasted into stdin."""
    try:
        return redirected(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", subject=f"{option} {name}") from error


def _name(source: "CarrySource", *, need: str | None, update: object) -> str:
    """Return the folder's name on a medium: a part never lies where the whole bundle does."""
    name = source.manifest.recipe.name
    return f"{name}-repair" if need else f"{name}-update" if update else name


class _Sizes:
    """How large each medium is."""

    def __init__(self, to: list[Path], media: str | None, name: str) -> None:
        from llava_pack.crossing.media import parse_media

        self._to = to
        self._name = name
        self._said = None if media is None else parse_media(media)

    def __call__(self, index: int) -> "MediumSize | None":
        from llava_pack.crossing.media import MediumSize
        from llava_pack.crossing.medium_folder import held_bytes
        from llava_pack.target.disk import free_bytes

        if len(self._to) > 1 and index >= len(self._to):
            raise UsageError(
                f"more than {len(self._to)} media are needed",
                subject="--to",
                hint="pass more folders, or larger media; --dry-run with one --to counts them",
            )
        if self._said is not None or len(self._to) == 1:
            return self._said
        place = self._to[index]
        held = sum(held_bytes(one) for one in place.glob(f"{self._name}*"))
        return MediumSize(room_bytes=free_bytes(place) + held)


def _folders(name: str, to: list[Path], plan: "CarryPlan") -> list[Path]:
    count = len(plan.media)
    names = (
        [name] if count == 1 else [f"{name}-{number}of{count}" for number in range(1, count + 1)]
    )
    return [
        place / one for place, one in zip(to if len(to) > 1 else to * count, names, strict=False)
    ]


def _show_plan(plan: "CarryPlan", *, as_json: bool) -> None:
    media = [
        {"size_bytes": one.size_bytes, "files": [load.name for load in one.loads]}
        for one in plan.media
    ]
    if as_json:
        facts = {"bundle_id": plan.bundle_id, "size_bytes": plan.size_bytes, "media": media}
        console.document("carry-plan", facts)
        return
    for number, one in enumerate(plan.media, start=1):
        size = human_bytes(one.size_bytes)
        console.data(f"medium {number} of {len(plan.media)}: {size} in {len(one.loads)} files")
    for kind, rate in _RATES.items():
        console.data(f"about {clock(plan.size_bytes / rate)} to write with {kind}")


def _told(done: "WrittenMedium") -> str:
    size = human_bytes(done.size_bytes)
    if not done.copied_bytes:
        return (
            f"medium {done.medium} of {done.media}: {done.folder}, {size} in {done.files} files, "
            "nothing had to be copied"
        )
    return (
        f"medium {done.medium} of {done.media}: {done.folder}, {size} in {done.files} files, "
        f"{human_bytes(done.copied_bytes)} of it written now"
    )


def _contents(medium: "MediumPlan") -> str:
    """Return how many files of each kind a medium holds, to be written on it."""
    counts = Counter(load.name.partition("/")[0] for load in medium.loads)
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _update_line(there: str, bundle_id: str) -> str:
    return join(["llava-pack", "install", there, "--expect", bundle_id])


def _lines(
    source: "CarrySource", done: "WrittenMedium", *, update: bool, repair: bool
) -> tuple[str, ...]:
    """Return what is typed on the server."""
    from llava_pack.format.welcome import contact_lines

    bundle_id = source.listing.bundle_id
    there = f"/path/to/{quote(done.folder.name)}"
    index = bool(source.manifest.left_out)
    more = " --collect" if done.media > 1 or repair else ""
    if update:
        named = " --index URL" if index else ""
        return (_update_line(there, bundle_id) + named + more,)
    *first, last = contact_lines(there, bundle_id, index=index)
    return (*first, last + more)
