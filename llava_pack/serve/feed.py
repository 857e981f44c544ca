"""What supervisor and gateway tell each other, over a pair of sockets that only they have.

The supervisor first sends a `Start`, then a `Bulletin` whenever something changed, and every two
seconds: always all of it, so that the latest one is enough. The gateway sends a `Beat` from its
event loop, twice a second and at every change: as long as they come, it moves. One JSON object a
line, bounded.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llava_pack.engine.fence.value import FenceMode
from llava_pack.engine.port import EngineInfo
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import ServeError
from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.aliases import Aliases
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.plain import from_plain, to_plain
from llava_pack.serve.port import Status, Vitals

TELL_EVERY_S = 0.25
"""How often the supervisor looks whether there is something to tell."""
REPEAT_EVERY_S = 2.0
"""How often the same is told again, so that who hears knows that somebody still looks."""
BEAT_EVERY_S = 0.5
BULLETIN_BYTES = 4 << 20
"""The longest line for the gateway: thousands of models."""
LEFT_AT_ONCE = 256
"""Keys of which a beat tells what is left."""
BEAT_BYTES = 64 << 10
"""The longest line from the gateway, which may have fallen into wrong hands."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a gateway answers; it holds for the life of its process."""

    policy: AccessPolicy
    """Who may ask."""
    audit: AuditPlan
    """Where is written which key asked what."""
    web: bool
    """Whether the page is served."""
    bundle_id: str | None
    """Of what is installed."""
    queue: int
    """Maximum queued requests per model."""
    restarts: int
    """How many gateways there were before this one."""
    log: Path | None
    """Where the log is kept; None keeps none."""
    fence: FenceMode
    """Whether a fence is raised around it, and whether it has to be whole."""
    home: Path
    """A private folder that it makes, when there is a fence."""
    aliases: Aliases = field(default_factory=dict)
    """Further names of the models in the API."""
    left: Mapping[str, tuple[float, ...]]
    """What earlier gateways told of quotas, by key: see `quota.Books`."""
    picture_root: Path | None = None
    """The folder below which pictures may be named by file:// URLs, resolved; None allows none."""


@dataclass(frozen=True, kw_only=True)
class News:
    """How one model stands, as its supervisor sees it."""

    engine: int
    """A number that no other engine of the run ever has; names can be given again."""
    name: str
    """The name for `model` in the API."""
    address: EngineAddress
    """Where its engine is asked, once it listens."""
    status: Status
    info: EngineInfo | None
    vitals: Vitals
    stats: Stats
    restarts: int
    """How often the engine was started again."""
    replica: str = ""
    """Where another server is, which has the engine; empty for an engine of this one's."""


@dataclass(frozen=True, kw_only=True)
class Bulletin:
    """All models as they stand."""

    number: int
    """Grows with every change that somebody waits for."""
    models: tuple[News, ...]
    ending: bool = False
    """The gateway is to close its connections and end."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A gateway's sign of life."""

    seen: int = -1
    """Number of the last bulletin; below every number before the first."""
    listening: bool = False
    """Whether it answers at the port."""
    in_flight: Mapping[int, int]
    """Requests that are being answered, by engine."""
    reached: tuple[int, ...] = ()
    """Engines that would be asked."""
    left: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What is left of quotas, of keys that asked since the last beat."""


def to_line(value: Start | Bulletin | Beat) -> bytes:
    """Return a message as a line."""
    return json.dumps(to_plain(value)).encode() + b"\n"


def from_line(kind: type[T], line: bytes) -> T:
    """Return the message of a line.

    Raises:
        ServeError: it is none of that kind.
    """
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ServeError("another process sent a line that is not JSON") from error
    try:
        return from_plain(kind, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ServeError(f"another process sent an invalid {kind.__name__}") from error


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of the other side until it closes.

    Raises:
        ServeError: one is too long.
    """
    while True:
        try:
            line = await reader.readline()
        except ValueError as error:
            raise ServeError("another process sent a line that is too long") from error
        except OSError:
            return
        if not line.endswith(b"\n"):
            return
        yield line
