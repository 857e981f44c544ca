"""The control socket: what `llava-pack start`, `stop` and `swap` say to a server that runs.

It is a Unix socket of mode 0600 in the run's private folder, never a route of the gateway: no
token, no tunnel and no page reaches it, and only the account that serves, or root, is heard. One
JSON object a line each way; until the last, `{"said": …}` lines tell how far it is.

Source: unix(7), SO_PEERCRED.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llava_pack.engine.limits import Limits
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.port import error_of_kind
from llava_pack.format.errors import PackError, ServeError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.serve.plain import from_plain, to_plain
from llava_pack.serve.supervision.fleet import Fleet, FleetMember, phases
from llava_pack.serve.supervision.listener import listen_on_socket
from llava_pack.serve.supervision.plans import EnginePlan
from llava_pack.serve.supervision.replicas import Replicas

_log = logging.getLogger(__name__)
_MAX_BYTES = 64 * 1024 * 1024
_CREDENTIALS = struct.Struct("3i")
_TELL_EVERY_S = 0.5
_REPEAT_EVERY_S = 5.0
"""How often the same is said again: silence for longer means that the server hangs."""
PATIENCE_S = 30.0
_ORDER_S = 10.0
"""How long somebody who connected may take to say what is wanted, or to hear the last line."""
_NEWER: Mapping[str, Any] = {
    "tower": None,
    "picture_mode": DEFAULT_PICTURE_MODE,
    "engine": "transformers",
    "version": "",
    "architecture": "",
    "tokenizer_dir": None,
    "tokens": [],
    "references": [],
    "pictures": Limits().count,
    "node": None,
}
"""Fields that servers of earlier versions do not know, and what they do without them."""
_PATHS = ("model_dir", "vision_tower", "model_base", "python", "tokenizer_dir")


class ControlServer:
    """Obeys orders over a fleet and its replicas.

    Args:
        fleet: what is ordered about.
        replicas: as well.
        drain_s: how long what runs may take to end.
        on_change: called when the models have changed.
    """

    def __init__(
        self, fleet: Fleet, replicas: Replicas, drain_s: float, on_change: Callable[[], None]
    ) -> None:
        self._fleet = fleet
        self._replicas = replicas
        self._drain_s = drain_s
        self._on_change = on_change
        self._heard: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[None]:
        """Listen at `path`, whose folder is private, while the block runs; then wait for nobody."""
        # bound before anything is awaited: its umask must not reach what else is started meanwhile
        listening = listen_on_socket(path)
        server = await asyncio.start_unix_server(self._accepted, sock=listening, limit=_MAX_BYTES)
        try:
            yield
        finally:
            server.close()  # not waited for: that would wait for who is connected
            for task in self._heard:
                task.cancel()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connected(reader, writer))
        self._heard.add(task)
        task.add_done_callback(self._heard.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, TimeoutError):
            if not _is_owner(writer.get_extra_info("socket")):
                return
            try:
                async with asyncio.timeout(_ORDER_S):
                    order: Any = json.loads(await reader.readline())
                work = self._work(order)
            except (ValueError, KeyError, TypeError, AttributeError):
                _write(writer, _error(ServeError("a command that this version does not support")))
                return
            _log.info("control: %s", order["do"])
            _write(writer, await self._obey(work, writer))
            async with asyncio.timeout(_ORDER_S):
                await writer.drain()

    def _work(self, order: Mapping[str, Any]) -> Awaitable[None]:
        match order["do"]:
            case "start":
                return self._fleet.start(_plan(order["plan"]))
            case "stop":
                return self._fleet.stop(str(order["model"]), self._drain_s)
            case "swap":
                plan = _plan(order["plan"])
                return self._fleet.swap(str(order["model"]), plan, self._drain_s)
            case "join":
                return self._replicas.join(str(order["replica"]), str(order["key"]))
            case "drain":
                typed = str(order["replica"])
                return self._replicas.drain(typed, self._drain_s, alone=not self._fleet)
            case other:
                raise ValueError(other)

    async def _obey(self, work: Awaitable[None], writer: asyncio.StreamWriter) -> Mapping[str, Any]:
        """Do it and return the last line; what was begun is ended whoever stays to hear."""
        doing = asyncio.ensure_future(work)
        told, within_s, told_s = "", 0.0, 0.0
        while not doing.done():
            await asyncio.wait({doing}, timeout=within_s)
            within_s = _TELL_EVERY_S
            members: list[FleetMember] = [*self._fleet.values(), *self._replicas.values()]
            now, now_s = phases(members), time.monotonic()
            if now != told or now_s - told_s > _REPEAT_EVERY_S:
                told, told_s = now, now_s
                _write(writer, {"said": told})
        self._on_change()
        error = doing.exception()
        if isinstance(error, PackError):
            return _error(error)
        doing.result()
        return {"done": True, "models": list(self._fleet), "replicas": list(self._replicas)}


def order(
    path: str,
    wanted: Mapping[str, Any],
    hear: Callable[[str], None],
    *,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """Have a running server do something and return its last line.

    Args:
        path: of its control socket.
        wanted: the order.
        hear: called with each line that tells how far it is.
        patience_s: how long it may say nothing at all.

    Raises:
        PackError: it was not done, with the server's own error.
        ServeError: the server cannot be reached.
    """
    told = ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(patience_s)
            control.connect(path)
            control.sendall(json.dumps(wanted).encode() + b"\n")
            for line in _lines(control):
                if "said" in line:
                    said = str(line["said"])
                    if said != told:
                        hear(said)
                    told = said
                elif "error" in line:
                    error = line["error"]
                    raise error_of_kind(error["kind"], error["message"], error["hint"])
                else:
                    return line
    except TimeoutError as error:
        raise ServeError(
            f"the server has not responded for {patience_s:g} s: it hangs",
            hint="llava-pack stop --force; then restart it with `llava-pack serve`",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServeError("the server cannot be reached", hint="llava-pack status") from error
    raise ServeError("the server exited before it was done", hint="llava-pack logs")


def plan_fields(plan: EnginePlan) -> dict[str, Any]:
    """Return a plan as JSON values, as servers of earlier versions take them where they can.

    They know no other way to see pictures than the usual one, and refuse a field that is new.
    """
    fields: dict[str, Any] = to_plain(plan)
    return {name: value for name, value in fields.items() if _NEWER.get(name, ...) != value}


def _plan(fields: Mapping[str, Any]) -> EnginePlan:
    paths = {name: Path(path) if (path := fields.get(name)) else None for name in _PATHS}
    known = tuple(
        KnownAnswer(**{**answer, "contains": tuple(answer["contains"])})
        for answer in fields["known_answers"]
    )
    tokens = tuple(fields.get("tokens", ()))
    recorded = from_plain(tuple[Reference, ...], fields.get("references", []))
    read = {"known_answers": known, "tokens": tokens, "references": recorded}
    return EnginePlan(**{**fields, **paths, **read})


def _lines(control: socket.socket) -> Iterator[dict[str, Any]]:
    with control.makefile("rb") as stream:
        for line in stream:
            yield json.loads(line)


def _is_owner(connection: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder is private everywhere
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(data)
    return uid in {0, os.getuid()}


def _error(error: PackError) -> dict[str, Any]:
    return {"error": {"kind": error.kind, "message": str(error), "hint": error.hint}}


def _write(writer: asyncio.StreamWriter, line: Mapping[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")
