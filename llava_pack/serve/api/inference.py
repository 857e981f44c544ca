"""The one way from a route to a model: a turn, the pictures, the request, the answer."""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass, replace

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.port import Event, Message, Picture, Request
from llava_pack.serve.admission.bodies import drop_copies
from llava_pack.serve.admission.fair_models import Prepared, Shared
from llava_pack.serve.admission.visits import Visit, visit_of
from llava_pack.serve.aliases import Aliases
from llava_pack.serve.api.pictures import Admitted, PictureDecoder, Source
from llava_pack.serve.errors import ErrorBody


@dataclass(frozen=True, slots=True)
class Question:
    """What a route asks of a model; whoever holds it holds the pictures as they came."""

    request: Request
    """Still without its messages."""
    pictures: Sequence[Source] | Callable[[], Awaitable[Sequence[Source]]]
    """As they came, or what reads them once it is their turn."""
    messages: Callable[[Sequence[Picture]], tuple[Message, ...]]
    """Makes the messages, once the pictures are decoded."""


class Inference:
    """What routes ask models with.

    Args:
        models: by their own names.
        decoder: for the pictures.
        aliases: further names of theirs.
    """

    def __init__(
        self, models: Mapping[str, Shared], decoder: PictureDecoder, aliases: Aliases | None = None
    ) -> None:
        self.models = models
        self._decoder = decoder
        self._aliases = aliases or {}

    def names_of(self, model: str) -> tuple[str, ...]:
        """Return all names of a model; by the first of them its answers call it."""
        first = next(iter(self.models), None)
        of_first = self._aliases.get("", ()) if model == first else ()
        return (*of_first, *self._aliases.get(model, ()), model)

    def find(self, name: str) -> Shared:
        """Return a model by one of its names.

        Raises:
            HTTPException: 404, there is none.
        """
        names = {own: self.names_of(own) for own in self.models}
        if name in self.models:  # before another one's further names
            return self.models[name]
        if (own := next((one for one in names if name in names[one]), None)) is not None:
            return self.models[own]
        served = ", ".join(one for several in names.values() for one in several)
        message = f"the model {name[:200]!r} is not served here; served: {served}"
        raise HTTPException(
            404,
            ErrorBody(  # type: ignore[arg-type] # our handler takes the whole body
                message=message, type="invalid_request_error", param="model", code="model_not_found"
            ),
        )

    def called(self, name: str) -> str:
        """Return what answers call the model of a name.

        Raises:
            HTTPException: 404, there is none.
        """
        return self.names_of(self.find(name).name)[0]

    def answer(
        self, model: Shared, visit: Visit, question: Question
    ) -> AsyncGenerator[Event, None]:
        """Return the answer to a question, counted for who asks; closing it frees the seat.

        Raises:
            PackError: while it is iterated; it is not admitted, or its pictures are not.
        """

        async def prepare() -> Prepared:
            request, admitted = await self._decoded(model, visit, question)
            visit.asks(request)
            return Prepared(request=request, seen=admitted.close)

        return visit.counted(model.name, model.answer(visit.caller, prepare))

    def choices(
        self, model: Shared, visit: Visit, question: Question, count: int
    ) -> list[AsyncGenerator[Event, None]]:
        """Return several answers to one question, each drawn with a seed of its own.

        Its pictures are decoded once. The others begin once the first one is under way: by then
        what was computed of the prompt is there, and they take it over.

        Raises:
            PackError: while they are iterated, as `answer`.
        """
        if count == 1:
            return [self.answer(model, visit, question)]
        decode = functools.partial(self._decoded, model, visit, question)
        group = _Group(model, visit, decode, count)
        return [visit.counted(model.name, group.answer(number)) for number in range(count)]

    @asynccontextmanager
    async def request(
        self, model: Shared, visit: Visit, question: Question
    ) -> AsyncIterator[Request]:
        """Hold a question's pictures decoded until the block ends, and yield its request.

        Raises:
            PackError: its pictures are not admitted.
        """
        request, admitted = await self._decoded(model, visit, question)
        with closing(admitted):
            yield request

    async def _decoded(
        self, model: Shared, visit: Visit, question: Question
    ) -> tuple[Request, Admitted]:
        pictures = question.pictures
        sources = await pictures() if callable(pictures) else pictures
        mode = model.info.picture_mode if model.info else DEFAULT_PICTURE_MODE
        admitted = await self._decoder.admitted(sources, visit.caller, mode)
        try:
            messages = question.messages(admitted.pictures)
        except BaseException:
            admitted.close()
            raise
        return replace(question.request, messages=messages), admitted


class _Group:
    """Several requests that ask the same of a model.

    Args:
        model: that is asked.
        visit: of who asks.
        decode: returns the first request, with the room that its pictures take.
        count: of the requests.
    """

    def __init__(
        self,
        model: Shared,
        visit: Visit,
        decode: Callable[[], Awaitable[tuple[Request, Admitted]]],
        count: int,
    ) -> None:
        self._model = model
        self._visit = visit
        self._decode = decode
        self._unseen = count
        self._under_way = asyncio.Event()
        self._first: tuple[Request, Admitted] | None = None

    async def answer(self, number: int) -> AsyncGenerator[Event, None]:
        """Answer one of the requests; all but the first wait until that one is under way."""
        seen = functools.cache(self._seen)

        async def prepare() -> Prepared:
            return Prepared(request=await self._request(number), seen=seen)

        try:
            if number:
                await self._under_way.wait()
            async with aclosing(self._model.answer(self._visit.caller, prepare)) as events:
                async for event in events:
                    self._under_way.set()
                    yield event
        finally:
            seen()

    async def _request(self, number: int) -> Request:
        if self._first is None:
            self._first = await self._decode()
            self._visit.asks(self._first[0])
        first, _ = self._first
        seed = first.sampling.seed
        own = None if seed is None else (seed + number) % 2**63
        name = f"{first.request_id}-{number}" if number else first.request_id
        return replace(first, request_id=name, sampling=replace(first.sampling, seed=own))

    def _seen(self) -> None:
        """Give the pictures' room back once the last of the requests needs it no more."""
        self._unseen -= 1
        if self._unseen == 0 and self._first is not None:
            self._first[1].close()


def visit_with(request: HttpRequest) -> Visit:
    """Return the visit of a request; what Starlette keeps of its parsed body is dropped."""
    drop_copies(request)
    return visit_of(request.scope)
