"""`llava-pack carry`: write a bundle, or what is missing of one, on media."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Bundle
from llava_pack.format.errors import UsageError
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.format.text import human_bytes
from llava_pack.shells import redirected

if TYPE_CHECKING:
    from llava_pack.crossing.carry import WrittenMedium
    from llava_pack.crossing.media import MediumSize
    from llava_pack.crossing.plan import CarryPlan, MediumPlan
    from llava_pack.crossing.request import CarrySource
    from llava_pack.format.part import MediumPart


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
    from llava_pack.cli.laptop.carry_lines import server_lines, show_lines
    from llava_pack.cli.laptop.carry_plan import medium_label, show_plan
    from llava_pack.crossing.carry import check_installer, write_medium
    from llava_pack.crossing.earlier import earlier_media
    from llava_pack.crossing.medium_folder import check_folder, check_mounted, check_room
    from llava_pack.crossing.request import read_source

    for place in to:
        check_mounted(place)
    source = read_source(bundle, expect=expect)
    name = _name(source, need=need, update=have or base)
    sizes = _sizes(to, media, name)
    free = len(to) > 1 and media is None and not replace
    earlier = earlier_media(source, to, name) if free else ()
    plan = _plan(source, sizes, earlier, (have, need, base), parity)
    check_installer(source, plan)
    console.say(f"bundle id {plan.bundle_id}")
    if plan.media and medium is not None and medium > len(plan.media):
        raise UsageError(f"expected 1 to {len(plan.media)}, got {medium}", subject="--medium")
    chosen = [n for n in range(1, len(plan.media) + 1) if medium in {None, n}]
    folders = _folders(name, to, plan)
    for number in chosen:
        check_folder(source, plan, number, folders[number - 1], replace=replace)
    if dry_run:
        show_plan(source, plan, chosen, as_json=as_json)
        return
    check_room(source, [(folders[number - 1], plan.media[number - 1]) for number in chosen])
    written = []
    for number in chosen:
        done = write_medium(source, plan, number, folders[number - 1], console.progress())
        written.append(done)
        console.say(f"{console.mark('ok')} {_told(done)}")
        label = medium_label(source, plan, number)
        console.say(f"  label: {label}; {_contents(plan.media[number - 1])}")
        if done.parity_bytes:
            console.say(f"  recovery volumes: {human_bytes(done.parity_bytes)}")
    facts = {"bundle_id": plan.bundle_id, "media": [one.facts() for one in written]}
    repair = need is not None
    if as_json:
        lines = server_lines(source, plan, folders, repair=repair) if written else ()
        console.document("carry", {**facts, "install": list(lines)})
    elif written:
        show_lines(source, plan, folders, repair=repair)
    else:
        console.say("nothing is missing there: no medium is needed")


def _plan(
    source: "CarrySource",
    sizes: Sequence["MediumSize | None"],
    earlier: Iterable[Mapping[int, "MediumPart"]],
    lists: tuple[str | None, str | None, Path | None],
    parity: str | None,
) -> "CarryPlan":
    from llava_pack.crossing.earlier import resumed
    from llava_pack.crossing.filling import plan_media
    from llava_pack.crossing.media import parse_percent
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
    list_bytes = sum(map(len, source.head.values()))
    percent = 0 if parity is None else parse_percent(parity)
    for parts in earlier:
        plan = resumed(files, parts, sizes, list_bytes=list_bytes, parity_percent=percent)
        if plan is not None:
            return plan
    return plan_media(
        source.listing.bundle_id,
        files,
        sizes,
        list_bytes=list_bytes,
        parity_percent=percent,
        changed=known is not None and source.listing.sums[MANIFEST_NAME] not in known,
        more=len(sizes) == 1,
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


def _sizes(to: list[Path], media: str | None, name: str) -> "list[MediumSize | None]":
    """Return how large each medium is: as was said, or as they are free; None for any size."""
    from llava_pack.crossing.media import parse_media
    from llava_pack.crossing.medium_folder import room_of

    if media is not None or len(to) == 1:
        return [None if media is None else parse_media(media)] * len(to)
    return [room_of(place, name) for place in to]


def _folders(name: str, to: list[Path], plan: "CarryPlan") -> list[Path]:
    count = len(plan.media)
    names = (
        [name] if count == 1 else [f"{name}-{number}of{count}" for number in range(1, count + 1)]
    )
    places = [to[medium.place] if len(to) > 1 else to[0] for medium in plan.media]
    return [place / one for place, one in zip(places, names, strict=True)]


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
