"""What a question holds while it is prepared, and that it is given back whatever comes."""

import asyncio
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from PIL import Image

from llava_pack.engine.limits import Limits
from llava_pack.engine.picture_mode import PictureMode
from llava_pack.engine.port import Message, Picture, Request
from llava_pack.format.errors import UsageError
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.admission.visits import Visit
from llava_pack.serve.api.inference import Inference, Question
from llava_pack.serve.api.pictures import PictureDecoder

if TYPE_CHECKING:
    from llava_pack.serve.port import Served

_SIDE = 4
_PATIENCE_S = 10.0


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "red").save(out, "PNG")
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
