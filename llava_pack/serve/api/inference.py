"""The one way from a route to a model: a turn, the pictures, the request, the answer."""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass, replace

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.port import Event, Message, Picture, Request
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.serve.admission.bodies import drop_copies
from llava_pack.serve.admission.fair_models import Prepared, Shared
from llava_pack.serve.admission.fair_queue import Party
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
        (events,) = self.choices(model, visit, question, 1)
        return events

    def admit(self, name: str, visit: Visit, count: int, field: str) -> None:
        """Refuse as many answers as could not wait, before the first of them begins.

        Args:
            name: the model's, one of them.
            visit: of who asks.
            count: of the answers.
            field: of the request, which asks for so many.

        Raises:
            HTTPException: 404, there is no such model.
            UsageError: there is never room for so many.
            PackError: there is none just now.
        """
        check_room(self.find(name), visit, count, field)

    def choices(
        self, model: Shared, visit: Visit, question: Question, count: int
    ) -> list[AsyncGenerator[Event, None]]:
        """Return several answers to one question, each drawn with a seed of its own.

        Its pictures are decoded once. The others begin once the first one is under way: by then
        what was computed of the prompt is there, and they take it over. They are admitted
        together, and not at all where the line has no room for all of them.

        Raises:
            UsageError: there is never room for so many.
            PackError: there is none just now; and while they are iterated, as `answer`.
        """
        if count > 1:
            check_room(model, visit, count, "n")
        visit.takes(count)
        decode = functools.partial(self._decoded, model, visit, question)
        group = _Group(model, visit, decode, count)
        return [
            visit.counted(model.name, group.answer(number), has_prompt=not number)
            for number in range(count)
        ]

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
        self._decode: Callable[[], Awaitable[tuple[Request, Admitted]]] | None = decode
        self._unseen = count
        self._party = Party(count)
        self._failed = False
        self._unmade = count
        self._common: Request | None = None
        self._give_back: Callable[[], None] = lambda: None

    async def answer(self, number: int) -> AsyncGenerator[Event, None]:
        """Answer one of the requests; all but the first wait until that one is under way.

        Where one has failed there is no answer, and whoever has not begun asks for nothing.
        """
        if self._failed:
            return
        seen = functools.cache(self._seen)

        async def prepare() -> Prepared:
            return Prepared(request=await self._request(number), seen=seen)

        try:
            events = self._model.answer(self._visit.caller, prepare, self._party)
            async with aclosing(events):
                async for event in events:
                    yield event
        except PackError:
            self._failed = True
            raise
        finally:
            seen()

    async def _request(self, number: int) -> Request:
        if self._decode is not None:
            decode, self._decode = self._decode, None  # it holds the pictures as they came
            self._common, admitted = await decode()
            self._give_back = admitted.close
            del admitted
            self._visit.asks(self._common)
            # Others wait on their seats for its pictures' room: it has to go on by itself.
            self._party.keeps = self._visit.pictures > 0
        if (first := self._common) is None:
            raise ServeError("the question could not be asked: its first choice failed")
        self._unmade -= 1
        if not self._unmade:
            self._common = None
        seed = first.sampling.seed
        own = None if seed is None else (seed + number) % 2**63
        name = f"{first.request_id}-{number}" if number else first.request_id
        return replace(first, request_id=name, sampling=replace(first.sampling, seed=own))

    def _seen(self) -> None:
        """Give the pictures' room back once the last of the requests needs it no more."""
        self._unseen -= 1
        if self._unseen == 0:
            self._common = None
            self._give_back()


def check_room(model: Shared, visit: Visit, count: int, field: str) -> None:
    """Refuse more answers at once than a model has room for.

    Args:
        model: that is asked.
        visit: of who asks.
        count: of the answers.
        field: of the request, which asks for so many.

    Raises:
        UsageError: there is never room for so many.
        PackError: there is none just now.
    """
    if model.info is not None and count > model.most:
        raise UsageError(
            f"expected at most {model.most} answers in one request, got {count}",
            subject=field,
            hint="no more can run and wait here: ask for fewer, or have the server started with a "
            "larger --queue",
        )
    model.admit(visit.caller, count)


def visit_with(request: HttpRequest) -> Visit:
    """Return the visit of a request; what Starlette keeps of its parsed body is dropped."""
    drop_copies(request)
    return visit_of(request.scope)
