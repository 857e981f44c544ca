"""`llava-pack plan`: what a bundle will be, and whether it will run there."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import translated
from llava_pack.cli.laptop.options import PackOptions
from llava_pack.cli.laptop.side import need_laptop
from llava_pack.cli.parameters import expanded, typed_again
from llava_pack.format.errors import UsageError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.text import human_bytes, readable
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.assemble.forecast import Outlook
    from llava_pack.format.target import FloorFinding
    from llava_pack.lock.fit import Fit

_LINKS = {"100Mbit/s": 12.5e6, "1Gbit/s": 125e6, "USB 2": 35e6, "USB 3": 200e6}
"""Bytes per second. USB: what sticks write in practice, not what the bus allows."""
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(bit|B)/s", re.IGNORECASE)
_SHOWN_WHEELS = 8


@expanded
def plan(
    ctx: typer.Context,
    *,
    pack: PackOptions,
    link: Annotated[
        str | None,
        typer.Option(
            help="Speed of the transfer: a rate like 100Mbit/s or 30MB/s, 'USB 2' or 'USB 3'."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Preview a bundle: its contents, and whether it will run.

    It also shows why each version is chosen, what the bundle needs, and whether the target has it.
    Only lists and small files are fetched, no weights and no wheels. Exit code 3: the bundle cannot
    run on the target.

    \b
    Examples:
      llava-pack plan llava-v1.5-7b --target gpu01.json
      llava-pack plan llava-v1.5-7b --target gpu01.json --link 30MB/s
      llava-pack plan llava-v1.5-7b --cuda 12 --platform x86_64-manylinux_2_31
    """
    need_laptop("plan")
    from llava_pack.assemble.forecast import look_ahead
    from llava_pack.fetch.cache import Cache

    links = dict(_LINKS) if link is None else _link(link)
    request = pack.request()
    outlook = look_ahead(request, Cache(), console.progress())
    minutes = {name: round(outlook.bundle_bytes / rate / 60, 1) for name, rate in links.items()}
    if as_json:
        _print_json(outlook, minutes)
    else:
        _print(outlook, minutes)
    if outlook.failed:
        hint = "; ".join(dict.fromkeys(one.fix for one in outlook.failed))
        console.say(f"✗ the bundle cannot run on the target: {hint}")
        raise typer.Exit(int(ExitCode.PREFLIGHT))
    again = pasted(["llava-pack", "build", *typed_again(ctx, PackOptions)])
    console.say(f"next: {again}")


def _link(text: str) -> dict[str, float]:
    """Return what is crossed and its bytes per second: a known name, or a rate."""
    known = {_plain(name): name for name in _LINKS}
    name = known.get(_plain(text))
    return {text: parse_rate(text, "--link")} if name is None else {name: _LINKS[name]}


def _plain(name: str) -> str:
    return name.lower().replace(" ", "")


def parse_rate(text: str, option: str) -> float:
    """Return the bytes per second that an option was given.

    Raises:
        UsageError: it is not a rate.

    >>> parse_rate("100Mbit/s", "--link"), parse_rate("30MB/s", "--link")
    (12500000.0, 30000000.0)
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"expected a rate like 100Mbit/s or 30MB/s, got {text!r}", subject=option)
    scale = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2].lower()]
    return float(match[1]) * scale / (8 if match[3].lower() == "bit" else 1)


def _print_json(outlook: "Outlook", minutes: dict[str, float]) -> None:
    from llava_pack.format.records import encode

    fields = encode(outlook)
    for finding in fields["findings"]:
        finding["exit_code"] = int(finding["exit_code"])
    runs = None if not outlook.findings else not outlook.failed
    console.document("plan", {**fields, "runs": runs, "minutes": minutes})


def _print(outlook: "Outlook", minutes: dict[str, float]) -> None:
    size = human_bytes
    console.data(f"{outlook.recipe}   licence: {outlook.licence}")
    for source, files in outlook.weights.items():
        total = size(sum(files.values()))
        console.data(f"  {source}: {total} in {len(files)} files")
    cuda = "for the CPU" if outlook.cuda is None else f"with CUDA {outlook.cuda}"
    carried = "carried" if outlook.python_carried else "the target's own"
    console.data(f"  torch {outlook.torch} {cuda}; Python {outlook.python}, {carried}")
    for reason in outlook.reasons:
        console.data(f"    {reason}")
    _print_wheels(outlook)
    console.data(
        f"  here: fetch {size(outlook.fetch_bytes)}, then a bundle of {size(outlook.bundle_bytes)}"
    )
    console.data(f"  there: {size(outlook.target_bytes)} with the installation")
    if outlook.target_fetch_bytes:
        fetched = size(outlook.target_fetch_bytes)
        console.data(f"    the server fetches {fetched} of wheels itself, from its own index")
    ways = ", ".join(f"{name} {value:g} min" for name, value in minutes.items())
    console.data(f"  crossing: {ways}")
    serving = outlook.serving
    console.data(
        f"  serves {serving.precision}{_over(serving.gpus)}: {serving.slots} concurrent requests, "
        f"{serving.context_tokens} tokens each"
    )
    for fit in outlook.fits:
        _print_fit(fit)
    if not outlook.findings:
        console.data("  needs: " + ", ".join(map(translated, _needs(outlook))))
    for finding in outlook.findings:
        _print_finding(finding)


def _print_fit(fit: "Fit") -> None:
    name, needs = f"{fit.precision:<5}", human_bytes(fit.needs_bytes)
    has = f"{human_bytes(fit.has_bytes)}{_over(fit.gpus)}"
    if fit.fits:
        tokens = fit.context_tokens
        console.data(f"    {name}{fit.slots} of {tokens} tokens, {needs} of {has}")
    else:
        console.data(f"    {name}does not fit, {needs} of {has}")


def _over(gpus: int) -> str:
    """Return how many GPUs share a model, nothing for one.

    >>> _over(1), _over(2)
    ('', ' over 2 GPUs')
    """
    return f" over {gpus} GPUs" if gpus > 1 else ""


def _print_wheels(outlook: "Outlook") -> None:
    known = sorted(outlook.wheels, key=lambda part: part.size_bytes or 0, reverse=True)
    total = sum(part.size_bytes or 0 for part in known)
    unknown = sum(part.size_bytes is None for part in known)
    more = f", {unknown} of unknown size" if unknown else ""
    console.data(f"  {len(known)} wheels, {human_bytes(total)}{more}; the largest:")
    for part in known[:_SHOWN_WHEELS]:
        shown = "unknown" if part.size_bytes is None else human_bytes(part.size_bytes)
        console.verbatim(f"    {part.name + ' ' + part.version:<44}{shown:>12}")


def finding_line(finding: "FloorFinding") -> str:
    """Return what a machine has, and what of it is too little, in the person's language."""
    line = f"{translated(finding.name)}: {translated(finding.value)}"
    if finding.level == "ok":
        return readable(line)
    need = translated(f"needs {translated(finding.need)}")
    return readable(f"{line}, {need}")


def _print_finding(finding: "FloorFinding") -> None:
    console.verbatim(f"{console.mark(finding.level)} {finding_line(finding)}")
    if finding.level != "ok" and finding.fix:
        console.data(f"    → {finding.fix}")


def _needs(outlook: "Outlook") -> list[str]:
    floors = outlook.floors
    needs = [f"{floors.arch}", f"glibc {floors.glibc}"]
    if floors.driver is not None:
        needs.append(f"NVIDIA driver {floors.driver}")
        needs.append(f"compute capability {floors.compute_capability}")
    memory = floors.memory_bytes[outlook.serving.precision]
    size = human_bytes(memory)
    return [*needs, f"{size} of memory" if floors.driver is None else f"{size} of GPU memory"]
