"""One turn of the page, without the page."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from llava_pack.engine.measures import Timings, Usage
from llava_pack.engine.port import Delta, Event, Failed, Finished, Request
from llava_pack.format.errors import PackError, UsageError
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.pictures import PictureDecoder
from llava_pack.serve.page.turn import Choices, Shown, Talk, before_the_answer, spoken, taken_back
from llava_pack.serve.port import OverloadedError

if TYPE_CHECKING:
    from llava_pack.serve.port import Served

CHOICES = Choices(model="m", temperature=0.5, top_p=0.9, max_tokens=7)
ASKED: Mapping[str, Any] = MappingProxyType({"role": "user", "content": ["hi"]})
SAID: Mapping[str, Any] = MappingProxyType({"role": "assistant", "content": "hello"})


class Scripted:
    """A model that says what it is told to, and remembers what it was asked."""

    name = "m"
    info = None

    def __init__(self, *events: Event) -> None:
        self.events = events
        self.asked: list[Request] = []
        self.closed = False
        self.refusal: PackError | None = None

    def admit(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        try:
            for event in self.events:
                yield event
        finally:
            self.closed = True


def _finished() -> Finished:
    times = Timings(queued_s=0, first_token_s=0, total_s=0)
    return Finished("r", "stop", Usage(1, 2), times)


def _talk(model: Scripted, folder: Path) -> Talk:
    return Talk(Inference({"m": Shared(cast("Served", model))}, PictureDecoder()), folder)


def _shown(model: Scripted, folder: Path, conversation: list[Mapping[str, Any]]) -> list[Shown]:
    async def collect() -> list[Shown]:
        async with aclosing(_talk(model, folder).answer(conversation, CHOICES)) as pieces:
            return [shown async for shown in pieces]

    return asyncio.run(collect())


def test_the_choices_and_the_whole_conversation_reach_the_model(tmp_path: Path) -> None:
    model = Scripted(Delta("r", "a", (1,)), Delta("r", "b", (2,)), _finished())
    last = _shown(model, tmp_path, [ASKED, SAID, ASKED])[-1]
    assert (last.text, last.failure) == ("ab", None)
    assert last.speed is not None
    assert last.speed.tokens == 2
    (request,) = model.asked
    assert [message.text for message in request.messages] == ["hi", "hello", "hi"]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.9, 7)


def test_a_failure_is_told_with_what_was_said_before_it(tmp_path: Path) -> None:
    failed = Failed.of("r", UsageError("the prompt is too long"))
    (_, last) = _shown(Scripted(Delta("r", "so far", (1,)), failed), tmp_path, [ASKED])
    assert last == Shown(text="so far", failure="the prompt is too long")


def test_a_conversation_that_cannot_be_asked_never_reaches_the_model(tmp_path: Path) -> None:
    model = Scripted()
    picture = {"role": "user", "content": [{"path": "/etc/passwd"}]}
    (shown,) = _shown(model, tmp_path, [picture])
    assert shown.failure == "a picture must be uploaded first"
    assert model.asked == []


def test_a_full_queue_is_told_before_a_picture_is_read(tmp_path: Path) -> None:
    model = Scripted()
    model.refusal = OverloadedError("8 requests wait already", hint="try again in a moment")
    gone = {"role": "user", "content": [{"path": str(tmp_path / "gone.png")}]}
    (shown,) = _shown(model, tmp_path, [gone])
    assert shown.failure == "8 requests wait already (try again in a moment)"


def test_a_model_that_went_is_told(tmp_path: Path) -> None:
    async def ask() -> list[Shown]:
        talk = Talk(Inference({}, PictureDecoder()), tmp_path)
        return [shown async for shown in talk.answer([ASKED], CHOICES)]

    (shown,) = asyncio.run(ask())
    assert shown.failure == "m is no longer served; reload the page"


def test_closing_it_closes_the_model(tmp_path: Path) -> None:
    model = Scripted(Delta("r", "a", (1,)), Delta("r", "b", (2,)), _finished())

    async def leave() -> None:
        pieces = _talk(model, tmp_path).answer([ASKED], CHOICES)
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(leave())
    assert model.closed


def test_what_is_in_the_box_becomes_a_message() -> None:
    assert spoken({"text": " hi ", "files": ["/u/a.png"]}) == {
        "role": "user",
        "content": [{"path": "/u/a.png"}, "hi"],
    }
    assert spoken({"text": "", "files": ["/u/a.png"]}) == {
        "role": "user",
        "content": [{"path": "/u/a.png"}],
    }
    assert spoken({"text": "  ", "files": None}) is None


def test_a_question_goes_back_into_the_box() -> None:
    asked = {"role": "user", "content": [{"file": {"path": "/u/a.png"}}, "what?"]}
    before, box = taken_back([ASKED, SAID, asked, SAID])
    assert before == [ASKED, SAID]
    assert box == {"text": "what?", "files": ["/u/a.png"]}
    assert taken_back([]) == ([], {"text": "", "files": []})


def test_an_answer_is_asked_for_again() -> None:
    assert before_the_answer([ASKED, SAID, ASKED, SAID]) == [ASKED, SAID, ASKED]
    assert before_the_answer([SAID]) == []
