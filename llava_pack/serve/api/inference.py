"""The one way from a route to a model: a turn, the pictures, the request, the answer."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
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


def visit_with(request: HttpRequest) -> Visit:
    """Return the visit of a request; what Starlette keeps of its parsed body is dropped."""
    drop_copies(request)
    return visit_of(request.scope)
