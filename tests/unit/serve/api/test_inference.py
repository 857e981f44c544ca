"""What a question holds while it is prepared, and that it is given back whatever comes."""

import asyncio
import gc
import io
import weakref
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from PIL import Image

from llava_pack.engine.limits import Limits
from llava_pack.engine.measures import Timings, Usage
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.port import Delta, Event, Finished, Message, Picture, Request
from llava_pack.format.errors import UsageError
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.admission.visits import Visit
from llava_pack.serve.api.inference import Inference, Question
from llava_pack.serve.api.pacing import paced
from llava_pack.serve.api.pictures import PictureDecoder
from llava_pack.serve.counters import Tally
from llava_pack.serve.port import OverloadedError

if TYPE_CHECKING:
    from llava_pack.serve.port import Served

_SIDE = 4
_PATIENCE_S = 10.0


def _png(colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), colour).save(out, "PNG")
    return out.getvalue()


def _refused(_pictures: Sequence[Picture]) -> tuple[Message, ...]:
    raise UsageError("no such role")


def _asked(pictures: Sequence[Picture]) -> tuple[Message, ...]:
    return (Message("user", tuple(pictures)),)


@pytest.mark.parametrize(("mode", "colour"), [("viewer", "#404040"), ("llava", "#ffffff")])
def test_pictures_become_rgb_as_the_model_that_is_asked_was_loaded_for(
    mode: PictureMode, colour: str
) -> None:
    """Whichever door they come by: all of them ask models here."""
    deep = io.BytesIO()
    Image.new("I;16", (2, 2), 0x4000).save(deep, "PNG")
    asked = Question(
        request=Request(request_id="1", messages=()), pictures=[deep.getvalue()], messages=_asked
    )
    model = Shared(
        cast("Served", SimpleNamespace(info=SimpleNamespace(picture_mode=mode, slots=1)))
    )

    async def ask() -> str:
        with closing(PictureDecoder()) as decoder:
            async with Inference({}, decoder).request(model, Visit(), asked) as request:
                return request.messages[0].pictures[0].only_colour

    assert asyncio.run(ask()) == colour


def test_messages_that_cannot_be_made_give_the_pictures_room_back() -> None:
    whole_share = Limits(pixels=_SIDE * _SIDE, total_pixels=_SIDE * _SIDE)
    refused = Question(
        request=Request(request_id="1", messages=()), pictures=[_png()], messages=_refused
    )
    asked = replace(refused, request=Request(request_id="2", messages=()), messages=_asked)

    async def ask() -> Request:
        with closing(PictureDecoder(whole_share)) as decoder:
            inference, model = (
                Inference({}, decoder),
                Shared(cast("Served", SimpleNamespace(info=None))),
            )
            with pytest.raises(UsageError, match="no such role"):
                async with inference.request(model, Visit(), refused):
                    pass
            async with (
                asyncio.timeout(_PATIENCE_S),
                inference.request(model, Visit(), asked) as request,
            ):
                return request

    assert asyncio.run(ask()).request_id == "2"


def test_a_model_s_own_name_comes_before_another_s_further_name() -> None:
    models = {name: Shared(cast("Served", SimpleNamespace(name=name, info=None))) for name in "ab"}
    with closing(PictureDecoder()) as decoder:
        inference = Inference(models, decoder, {"": ("b", "c")})
        assert inference.find("b") is models["b"]
        assert inference.find("c") is models["a"]


class _Engine:
    """Says a word and ends; it has the pictures once it was asked, and holds no request."""

    name = "m"
    full = False
    tally = Tally()

    def __init__(self, slots: int = 1) -> None:
        self.info: Any = SimpleNamespace(picture_mode=DEFAULT_PICTURE_MODE, slots=slots)

    def admit(self) -> None:
        """Take whatever comes."""

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        name = request.request_id
        del request
        yield Delta(name, "word", (7,))
        yield Finished(name, "stop", Usage(30, 1), Timings(0, 0, 0))


def _question(name: str, *colours: str) -> Question:
    pictures = [_png(colour) for colour in colours]
    return Question(
        request=Request(request_id=name, messages=()), pictures=pictures, messages=_asked
    )


async def _ends(choices: Iterable[AsyncGenerator[Event, None]]) -> list[int]:
    """Return which of the choices came to their end."""
    async with aclosing(paced(list(choices), None)) as steps:
        return sorted([step[0] async for step in steps if step and isinstance(step[1], Finished)])


def test_choices_that_hold_room_keep_a_seat_while_others_wait_for_that_room() -> None:
    """A deadlock: the others had all seats, and the choices the whole room for pixels."""
    pixels = _SIDE * _SIDE

    async def ask() -> list[list[int]]:
        with closing(PictureDecoder(Limits(pixels=pixels, total_pixels=2 * pixels))) as decoder:
            inference, model = Inference({}, decoder), Shared(cast("Served", _Engine()))
            two = inference.choices(model, Visit(), _question("2", "red", "blue"), 2)
            ones = [
                inference.choices(model, Visit(), _question(f"1-{n}", "lime"), 1) for n in range(6)
            ]
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.gather(*map(_ends, (two, *ones)))

    assert asyncio.run(ask()) == [[0, 1], *[[0]] * 6]


class _Held(Message):
    """A message that can be watched."""


def test_what_came_is_let_go_once_it_is_decoded_and_that_once_all_choices_have_it() -> None:
    async def ask() -> None:
        with closing(PictureDecoder()) as decoder:
            inference, model = Inference({}, decoder), Shared(cast("Served", _Engine()))
            held: list[weakref.ref[Any]] = []

            async def as_it_came() -> Sequence[bytes]:
                return [_png()]

            def messages(pictures: Sequence[Picture]) -> tuple[Message, ...]:
                made = _Held("user", tuple(pictures))
                held.append(weakref.ref(made))
                return (made,)

            came = weakref.ref(as_it_came)
            question = Question(Request(request_id="1", messages=()), as_it_came, messages)
            first, second = inference.choices(model, Visit(), question, 2)
            del question, as_it_came
            async with aclosing(first), aclosing(second):
                following = asyncio.ensure_future(anext(second))
                await anext(first)
                gc.collect()
                assert came() is None
                await following
                gc.collect()
                assert held[0]() is None

    asyncio.run(ask())


@pytest.mark.parametrize("count", [2, 8])
def test_more_choices_than_ever_fit_are_refused_and_name_the_field(count: int) -> None:
    inference = Inference({}, PictureDecoder())
    model = Shared(cast("Served", _Engine()), queue=0)
    with pytest.raises(UsageError, match="expected at most 1 answers in one request") as refused:
        inference.choices(model, Visit(), _question("1"), count)
    assert refused.value.subject == "n"


def test_choices_that_do_not_fit_now_are_refused_before_the_first_begins() -> None:
    async def ask() -> None:
        with closing(PictureDecoder()) as decoder:
            inference, model = Inference({}, decoder), Shared(cast("Served", _Engine()), queue=1)
            async with model.turn(Visit().caller):
                choices = inference.choices(model, Visit(), _question("1"), 1)
                with pytest.raises(OverloadedError, match="the queue is full") as refused:
                    inference.choices(model, Visit(), _question("2"), 2)
                assert refused.value.retry_s >= 1
            assert await _ends(choices) == [0]
            assert await _ends(inference.choices(model, Visit(), _question("3"), 2)) == [0, 1]

    asyncio.run(ask())


def test_choices_that_wait_count_as_waiting() -> None:
    async def ask() -> None:
        with closing(PictureDecoder()) as decoder:
            inference, model = Inference({}, decoder), Shared(cast("Served", _Engine()), queue=8)
            who = Visit().caller
            async with asyncio.timeout(_PATIENCE_S):
                async with model.turn(who), model.turn(who), model.turn(who):
                    choices = inference.choices(model, Visit(), _question("1"), 6)
                    answering = asyncio.create_task(_ends(choices))
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    assert model.full
                    with pytest.raises(OverloadedError, match="9 requests are running"):
                        model.admit()
                assert await answering == [0, 1, 2, 3, 4, 5]
            assert not model.full

    asyncio.run(ask())
