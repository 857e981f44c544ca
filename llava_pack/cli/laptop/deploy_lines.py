"""What `llava-pack deploy` says of a server and of each step, in the person's language."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llava_pack.cli.language import translated
from llava_pack.cli.laptop.plan import finding_line
from llava_pack.cli.progress_line import columns
from llava_pack.format.errors import UsageError
from llava_pack.format.text import human_bytes, readable

if TYPE_CHECKING:
    from llava_pack.deploy.estimate import Step
    from llava_pack.deploy.work import DeployWork

_TOOK_COLUMNS = 16


def step_line(step: "Step") -> str:
    """Return a row for a step: what it moves, about how long it takes, what it does."""
    size = human_bytes(step.size_bytes) if step.size_bytes else ""
    took = translated(f"about {translated(_minutes(step.about_s))}") if step.about_s else ""
    room = " " * (_TOOK_COLUMNS - columns(took))
    return f"{step.name:<9}{size:>10}  {took}{room}{translated(step.does)}".rstrip()


def machine_lines(work: "DeployWork") -> Iterator[str]:
    """Yield a line about the server, and what is worth knowing before the work."""
    profile = work.profile
    gpus = ", ".join(gpu.name for gpu in profile.gpus or ()) or translated("no GPU")
    system = profile.distribution or translated("unknown system")
    yield f"{profile.host or translated('server')}: {system}, {gpus}"
    for finding in work.outlook.findings if work.outlook else ():
        if finding.level != "ok":
            fix = f"; {readable(translated(finding.fix))}" if finding.fix else ""
            yield f"! {finding_line(finding)}{fix}"
    if work.as_root:
        root = translated("the server serves as root, the account of this login")
        yield f"! {root}"


def _minutes(seconds: float) -> str:
    """Return a time for people.

    >>> _minutes(40), _minutes(400)
    ('40 s', '7 min')
    """
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def reached_as(destination: str, port: int | None, jump: str | None) -> tuple[str, ...]:
    """Return the option that has the server print the way that the person came by.

    >>> reached_as("root@gpu01", 42354, None), reached_as("ssh://gpu01", None, None)
    (('--reached-as', 'root@gpu01:42354'), ())
    """
    from llava_pack.serve.way_in import way_in

    place = destination if port is None else f"{destination}:{port}"
    text = place if jump is None else f"{jump},{place}"
    try:
        way_in(text)
    except UsageError:  # a name that only this laptop's ssh understands
        return ()
    return ("--reached-as", text)
