"""LLaVA-OneVision in every precision: both layouts, alone and together, known answers, memory."""

import base64
import io
from typing import Any

import pytest

from llava_pack.engine import environment
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.precision import PRECISIONS, QUANTIZED

pytestmark = pytest.mark.engine
environment.prepare()
pytest.importorskip("torch")
newer: Any = pytest.importorskip("tests.support.newer")
ASKED = ("wide", "scaled-down", "two", "text")


def load(folder, precision, slots=1):
    from llava_pack.engine.loading.load import load_engine

    return load_engine(folder, precision=precision, slots=slots, conv_mode=newer.MODE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return newer.made_pair(tmp_path_factory.mktemp("onevision"), newer.ONEVISION)


@pytest.fixture(scope="module", params=PRECISIONS)
def engines(request, folders):
    """The original with several slots, and the converted with one, in one precision."""
    original, converted = folders
    return load(original, request.param, slots=3), load(converted, request.param)


def test_both_layouts_answer_alike_alone_and_together(engines):
    original, converted = engines
    assert original.info.precision == converted.info.precision
    alone = {name: newer.answer(converted, newer.asked(name)) for name in ASKED}
    assert {name: newer.answer(original, newer.asked(name)) for name in ASKED} == alone
    together = [newer.request(newer.asked(name), name) for name in ASKED]
    assert newer.answers(original, together) == alone


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantized_while_loading_as_transformers_does(folders, precision):
    """Both compute in 32 bits, as the engine does on a CPU."""
    from transformers import BitsAndBytesConfig

    from llava_pack.convert.native_config import SKIPPED
    from tests.functional.test_parity_forms import KINDS

    config = BitsAndBytesConfig(**KINDS[precision], llm_int8_skip_modules=list(SKIPPED))
    oracle = newer.oracle(folders[1], quantization_config=config)
    engine = load(folders[1], precision)
    for name in ASKED:
        messages = newer.asked(name)
        assert newer.answer(engine, messages) == oracle.answer(engine, messages), name


def picture_text(size):
    """Return a picture as a manifest holds it."""
    from PIL import Image

    picture, out = newer.noise(*size), io.BytesIO()
    Image.frombytes("RGB", picture.size, bytes(picture.rgb)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_known_answers_are_recorded_alike_from_both_layouts(engines):
    from llava_pack.engine.known.recording import observe

    known = KnownAnswer(
        name="noise", picture_png=picture_text((150, 60)), prompt="what is this?", contains=()
    )
    first, second = (observe(engine, known)[0] for engine in engines)
    assert first == second
    assert first.pixels
    assert len(first.tower) == len(first.projector) > 1
    assert len(first.token_ids) > 3
