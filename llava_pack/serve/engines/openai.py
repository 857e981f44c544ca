"""An engine that is asked over an OpenAI-compatible API, as an `EngineConnection`.

Requests are written anew (`openai_request`), answers are read as events (`openai_events`), and
what an engine refuses is told in our words (`openai_errors`).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.fence.value import Standing
from llava_pack.engine.inputs.turns import conversation
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Failed, Picture, Request
from llava_pack.engine.process.protocol import EngineStatus
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.serve.engines.http_exchange import GoneError
from llava_pack.serve.engines.openai_errors import failure_in, refusal, room_told
from llava_pack.serve.engines.openai_events import AnswerReader, events_of
from llava_pack.serve.engines.openai_facts import ERROR_BYTES, EngineFacts

_READY_EVERY_S = 0.25
_QUICK_S = 5.0

_T = TypeVar("_T")


class OpenAiConnection:
    """A connection to an engine, over which many requests are asked.

    Closing a `generate` iterator, or cancelling the task that reads it, closes its stream, by which
    an engine knows that nobody waits for the answer.

    Args:
        facts: of the engine, and where and how it is asked.
    """

    def __init__(self, facts: EngineFacts) -> None:
        self._facts = facts
        self._status = EngineStatus(state="loading", phase="starting")
        self._changed = asyncio.Event()
        self._gone: ServeError | None = None

    @property
    def status(self) -> EngineStatus:
        """Return what is known of how it stands."""
        return self._status

    @property
    def standing(self) -> Standing | None:
        """Return None: which fence stands around it, an engine of others does not tell."""
        return None

    @property
    def connected(self) -> bool:
        """Return whether somebody still listens there, as far as was seen."""
        return self._gone is None

    async def changed(self) -> EngineStatus:
        """Wait for the next status, or for the end of the connection, and return the last one."""
        if self._gone is None:
            self._changed.clear()
            await self._changed.wait()
        return self._status

    async def ready(self) -> EngineInfo:
        """Wait until the engine serves, and return what.

        Raises:
            ServeError: the engine is gone, or tells nothing of its model.
        """
        while True:
            if await self._serves():
                break
            await asyncio.sleep(_READY_EVERY_S)
        info = (await self._watched(self._facts.writer())).info
        self._say(EngineStatus(state="ready", info=info))
        return info

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a request; the last one is `Finished` or `Failed`.

        Raises:
            ServeError: the connection to the engine was lost.
        """
        bare = without_pixels(request)
        try:
            async with aclosing(self._answers(request, bare)) as events:
                del request  # only what asks the engine holds its pictures
                async for event in events:
                    yield event
        except UsageError as error:
            yield Failed.of(bare.request_id, error)
        except GoneError as error:
            self._lost(error)
            raise

    async def stats(self) -> Stats:
        """Return the engine's counters; the last ones where they were looked at just before.

        Raises:
            ServeError: the engine is gone.
        """
        return await self._watched(self._facts.stats())

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        Raises:
            UsageError: the engine does not tell, or the request is not usable.
            ServeError: the engine is gone.
        """
        return await self._watched(self._facts.tokenize(request))

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question as far as an engine tells: nothing of its picture.

        Raises:
            PackError: the request is not usable.
            ServeError: the engine is gone.
        """
        return await self._watched(self._facts.trace(request))

    async def close(self) -> None:
        """Close the connection; requests that are still running end with their iterators."""
        self._lost(ServeError("the connection to the engine was closed"))
        await self._facts.endpoint.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _answers(self, request: Request, bare: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a request; it is asked again where its answer had to be shorter.

        Raises:
            UsageError: it cannot be asked.
        """
        room: int | None = None
        opened, tokens = _opened(bare), self._facts.tokens
        reader = AnswerReader(bare.request_id, opened=opened, tokens=tokens)  # from now on it waits
        while True:
            writer = await self._facts.writer()
            path, body = writer.generation(request, room)
            async with self._facts.endpoint.asked("POST", path, body) as response:
                del body
                if response.status == 200:
                    del request  # the engine has its pictures
                    failure = partial(self._failure, bare)
                    async with aclosing(events_of(response.pieces(), reader, failure)) as events:
                        async for event in events:
                            yield event
                    return
                told = await response.whole(ERROR_BYTES)
            again, room = room, room_told(response.status, told)
            if room is None or again is not None:
                yield Failed.of(bare.request_id, self._refusal(response.status, told, bare))
                return

    def _failure(self, request: Request, payload: Mapping[str, Any]) -> Failed | None:
        if (failed := failure_in(payload)) is None:
            return None
        return Failed.of(request.request_id, self._refusal(*failed, request))

    def _refusal(self, status: int, told: bytes, request: Request) -> PackError:
        return refusal(status, told, request, self._facts.dialect)

    async def _serves(self) -> bool:
        """Return whether the engine answers as one that has loaded.

        Raises:
            ServeError: nobody listens there any more, or this connection was closed.
        """
        if self._gone is not None:
            raise self._gone
        phase = "starting"
        try:
            async with asyncio.timeout(_QUICK_S):
                if await self._watched(self._facts.serves()):
                    return True
            phase = "loading the model"
        except GoneError:
            raise
        except (ServeError, TimeoutError):
            pass
        self._say(EngineStatus(state="loading", phase=phase))
        return False

    async def _watched(self, asked: Awaitable[_T]) -> _T:
        """Return what comes of it, and take note where nobody listens any more."""
        try:
            return await asked
        except GoneError as error:
            self._lost(error)
            raise

    def _say(self, status: EngineStatus) -> None:
        if status != self._status:
            self._status = status
            self._changed.set()

    def _lost(self, error: ServeError) -> None:
        self._gone = self._gone or error
        self._changed.set()


def without_pixels(request: Request) -> Request:
    """Return a request whose pictures are left out: enough to read its answer by."""
    if not any(message.pictures for message in request.messages):
        return request
    messages = (
        replace(one, parts=tuple(part for part in one.parts if not isinstance(part, Picture)))
        for one in request.messages
    )
    return replace(request, messages=tuple(messages))


def _opened(request: Request) -> bool:
    """Return whether an answer is a turn of its own; a text as it is says so by `new_turn`."""
    if request.conv_mode == RAW:
        return request.new_turn is not False
    return conversation(request.messages, new_turn=request.new_turn).ending == "opened"
