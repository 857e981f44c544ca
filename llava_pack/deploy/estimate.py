"""What each step will move and about how long it will take. Pure.

Rates are those of a laptop with two cores, so that a better machine is a nice surprise.
Source: docs/reference/benchmarks.md, "The demo" and "Install".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llava_pack.deploy.work import DeployWork

FETCH_RATE = 12.5e6
"""Bytes per second of a line with 100 Mbit/s: what a mirror gives is not known before."""
_BUILD_RATE = 75e6
_INSTALL_RATE = 150e6
_INSTALL_S = 15.0
_SERVE_RATE = 200e6
_SERVE_S = 5.0
_HEALTH_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, before it is taken.

    Attributes:
        name: of the command that it is.
        does: for a person.
        size_bytes: that it moves at most; 0 where it moves none.
        about_s: how long it may take; 0 where there is nothing to do.
    """

    name: str
    does: str
    size_bytes: int = 0
    about_s: float = 0.0


def steps_of(work: DeployWork, rate: float, missing_bytes: int | None) -> Iterator[Step]:
    """Yield the steps, of a bundle that the server does not have.

    Args:
        work: what is to do.
        rate: bytes per second that reach the server.
        missing_bytes: of the bundle, on the server; None where that is not known before it is
            built.
    """
    outlook = work.outlook
    whole = work.bundle.size_bytes if work.bundle else outlook.bundle_bytes if outlook else 0
    if work.builds and outlook is not None:
        fetch = outlook.fetch_bytes
        took_s = fetch / FETCH_RATE + outlook.bundle_bytes / _BUILD_RATE
        yield Step(name="build", does="fetch and pack", size_bytes=fetch, about_s=took_s)
    else:
        yield Step(name="build", does="built already")
    sent = whole if missing_bytes is None else missing_bytes
    there = "at most: files that the server has are not sent"
    does = there if missing_bytes is None else "what is missing there"
    yield Step(name="send", does=does, size_bytes=sent, about_s=sent / rate)
    took_s = _INSTALL_S + whole / _INSTALL_RATE
    yield Step(name="install", does=f"under {work.prefix}", size_bytes=whole, about_s=took_s)
    serve_s = _SERVE_S + whole / _SERVE_RATE
    yield Step(name="serve", does="unless it serves already", about_s=serve_s)
    yield Step(name="health", does="a known answer of the model", about_s=_HEALTH_S)
