"""A connection to a replica: another llava-pack server, asked over its own API.

It is an `EngineConnection`: whoever asks an engine does not see that this one is far away. Closing
an answer closes its HTTP stream, which the server there takes as a client that left.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Self

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Failed, Finished, Request
from llava_pack.engine.process.protocol import EngineStatus
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.serve.replicas.answer import Answer, refusal
from llava_pack.serve.replicas.question import TOKENIZE, answer_body, tokenize_body
from llava_pack.serve.replicas.report import PROBES, Report, report_of

if TYPE_CHECKING:
    import httpx

PROBE_S = 5.0
"""How long a replica may take over a probe."""
_AUTHORIZATION = "Authorization"


class KeyRefusedError(ServeError):
    """A replica does not take the key that it was shown."""


class ReplicaConnection:
    """One connection to a replica, over which many requests are asked.

    Args:
        http: speaks to it; it is closed with the connection.
        key: what it is shown; empty for none.
        model: the name that it knows its model by.
    """

    def __init__(self, http: "httpx.AsyncClient", key: str = "", model: str = "") -> None:
        self._http = http
        self._headers = {_AUTHORIZATION: f"Bearer {key}"} if key else {}
        self._model = model
        self._gone = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """Return that it can be asked: how it stands is for `report` to tell."""
        return EngineStatus(state="ready")

    @property
    def standing(self) -> Standing | None:
        """Return nothing: its own server tells which fence stands there."""
        return None

    @property
    def connected(self) -> bool:
        """Return whether it can still be reached, as far as anybody tried."""
        return not self._gone.is_set()

    async def changed(self) -> EngineStatus:
        """Wait until it cannot be reached any more."""
        await self._gone.wait()
        return self.status

    async def ready(self) -> EngineInfo:
        """Return what it serves.

        Raises:
            ServeError: it is not ready, or not there.
        """
        info = (await self.report()).info
        if info is None:
            raise ServeError("a replica is still loading")
        return info

    async def stats(self) -> Stats:
        """Return its load; a replica tells the rest of its counters to whoever scrapes it.

        Raises:
            ServeError: it is not there.
        """
        return (await self.report()).stats

    async def report(self) -> Report:
        """Ask how it stands; no work is made for its engine.

        Raises:
            UsageError: it serves no model, or several, or has replicas itself.
            ServeError: it is not there, refuses the key, or is no llava-pack server.
        """
        async with asyncio.timeout(PROBE_S):
            bodies = [await self._probe(path) for path in PROBES]
        report = report_of(*bodies)
        self._model = report.model
        return report

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a request; the last one is `Finished` or `Failed`.

        Raises:
            ServeError: the replica was lost, or could not answer.
        """
        import httpx

        request_id, answer = request.request_id, Answer(request.request_id, time.monotonic())
        try:
            path, body = await self._written(request)
        except UsageError as error:
            yield Failed.of(request_id, error)
            return
        del request  # it is on its way as a body
        posted = self._http.stream("POST", path, content=body, headers=self._json_headers)
        del body
        try:
            async with posted as response:
                if response.status_code != 200:
                    told = _error_of(await response.aread())
                    yield refusal(request_id, response.status_code, told)
                    return
                async for data in response.aiter_raw():
                    for event in answer.take(data, time.monotonic()):
                        yield event
                        if isinstance(event, Finished | Failed):
                            return
        except httpx.TransportError as error:
            raise self._lost(error) from error
        raise self._lost(None)

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        Raises:
            PackError: the request is not usable, with the replica's own words.
            ServeError: the replica is gone.
        """
        import httpx

        body = await asyncio.to_thread(tokenize_body, request, self._model)
        try:
            response = await self._http.post(TOKENIZE, content=body, headers=self._json_headers)
        except httpx.TransportError as error:
            raise self._lost(error) from error
        if response.status_code != 200:
            error_told = _error_of(response.content)
            raise refusal(request.request_id, response.status_code, error_told).error()
        return tuple(response.json()["tokens"])

    async def trace(self, request: Request) -> Trace:  # noqa: ARG002 - as the protocol has it
        """Refuse: what becomes of a question is seen where the model is.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a replica is not traced from elsewhere",
            hint="run `llava-pack health --deep` where the replica runs",
        )

    async def close(self) -> None:
        """Close the connection; requests that are still running are cancelled."""
        self._gone.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _json_headers(self) -> dict[str, str]:
        return {**self._headers, "Content-Type": "application/json"}

    async def _written(self, request: Request) -> tuple[str, bytes]:
        """Return what is asked, made elsewhere where pictures have to be written."""
        if any(message.pictures for message in request.messages):
            return await asyncio.to_thread(answer_body, request, self._model)
        return answer_body(request, self._model)

    async def _probe(self, path: str) -> Any:
        import httpx

        try:
            response = await self._http.get(path, headers=self._headers)
        except httpx.TransportError as error:
            raise ServeError(f"it cannot be reached: {_reason(error)}") from error
        if response.status_code in {401, 403}:
            raise KeyRefusedError(
                "it refuses the key; expected one that may ask and observe",
                hint="llava-pack keys add, where it runs; then --replica-key-file here",
            )
        try:
            return response.json()
        except ValueError as error:
            raise ServeError("it does not answer as a llava-pack server does") from error

    def _lost(self, error: Exception | None) -> ServeError:
        """Return that an answer was lost, and look whether the whole replica is."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        why = "it hung up" if error is None else _reason(error)
        return ServeError(f"the connection to a replica was lost: {why}")

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._probe(PROBES[-1])
        except (PackError, TimeoutError):
            self._gone.set()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        error: Any = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
