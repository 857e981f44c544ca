"""A connection to a replica: another llava-pack server, asked over its own API.

It is an `EngineConnection`: whoever asks an engine does not see that this one is far away. Closing
an answer closes its HTTP stream, which the server there takes as a client that left.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Self

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Failed, Request
from llava_pack.engine.process.protocol import EngineStatus
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.serve.engines.http_body import Body
from llava_pack.serve.engines.http_exchange import CutOffError, GoneError, HttpEndpoint
from llava_pack.serve.engines.openai_events import AnswerReader, events_of, payload_of
from llava_pack.serve.replicas.question import TOKENIZE, answer_body, tokenize_body
from llava_pack.serve.replicas.refusals import key_refused, refusal
from llava_pack.serve.replicas.report import PROBES, ReplicaReport, report_of

PROBE_S = 5.0
"""How long a replica may take over its probes."""
_PROBE_BYTES, _ERROR_BYTES, _TOKENS_BYTES = 1 << 20, 1 << 16, 32 << 20
_OK = 200
_STREAMED: dict[str, int] = {"invalid_request_error": 400}
"""What stands in place of a status where an error ends a stream, by its type; else 503."""


class ReplicaConnection:
    """One connection to a replica, over which many requests are asked.

    Args:
        endpoint: where it is asked.
        model: the name that it knows its model by; `report` finds it out.
    """

    def __init__(self, endpoint: HttpEndpoint, model: str = "") -> None:
        self._endpoint = endpoint
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

    async def report(self) -> ReplicaReport:
        """Ask how it stands; no work is made for its engine.

        Raises:
            UsageError: it serves no model, or several, or has replicas itself.
            ServeError: it is not there in time, refuses the key, or is no llava-pack server.
        """
        try:
            async with asyncio.timeout(PROBE_S):
                report = report_of(*[await self._probe(path) for path in PROBES])
        except TimeoutError as error:
            raise ServeError(f"it does not answer within {PROBE_S:g} s") from error
        self._model = report.model
        return report

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a request; the last one is `Finished` or `Failed`.

        Raises:
            ServeError: the replica was lost, or could not answer.
        """
        request_id = request.request_id
        try:
            path, body = await self._written(request)
        except UsageError as error:
            yield Failed.of(request_id, error)
            return
        del request  # it is on its way as a body
        reader = AnswerReader(request_id, opened=False)
        try:
            async with self._endpoint.asked("POST", path, Body((body,))) as response:
                del body
                if response.status != _OK:
                    told = _error_of(await response.whole(_ERROR_BYTES))
                    yield refusal(request_id, response.status, told)
                    return
                failure = partial(_failure, request_id)
                async with aclosing(events_of(response.pieces(), reader, failure)) as events:
                    async for event in events:
                        yield event
        except ServeError:
            self._look_soon()
            raise

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        Raises:
            PackError: the request is not usable, with the replica's own words.
            ServeError: the replica is gone.
        """
        body = await asyncio.to_thread(tokenize_body, request, self._model)
        async with self._endpoint.asked("POST", TOKENIZE, Body((body,))) as response:
            told = await response.whole(_TOKENS_BYTES)
        if response.status != _OK:
            raise refusal(request.request_id, response.status, _error_of(told)).error()
        try:
            return tuple(map(int, payload_of(told)["tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ServeError("a replica's answer is malformed") from error

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
        """Close the connection; requests that are still running end with their iterators."""
        self._gone.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._endpoint.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _written(self, request: Request) -> tuple[str, bytes]:
        """Return what is asked, made elsewhere where pictures have to be written."""
        if any(message.pictures for message in request.messages):
            return await asyncio.to_thread(answer_body, request, self._model)
        return answer_body(request, self._model)

    async def _probe(self, path: str) -> Any:
        try:
            async with self._endpoint.asked("GET", path) as response:
                told = await response.whole(_PROBE_BYTES)
        except (CutOffError, GoneError) as error:
            raise ServeError("it cannot be reached") from error
        if response.status in {401, 403}:
            raise key_refused()
        return payload_of(told)

    def _look_soon(self) -> None:
        """Look whether with an answer the whole replica was lost."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._probe(PROBES[-1])
        except (PackError, TimeoutError):
            self._gone.set()


def _failure(request_id: str, payload: Mapping[str, Any]) -> Failed | None:
    if (error := payload.get("error")) is None:
        return None
    return refusal(request_id, _STREAMED.get(str(error.get("type")), 503), error)


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        error: Any = payload_of(body).get("error")
    except ServeError:
        return {}
    return error if isinstance(error, dict) else {}
