"""What the page says and shows beside the conversation."""

from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import cast

import pytest
from PIL import Image

from llava_pack.engine.port import EngineInfo
from llava_pack.format.text import LANGUAGES, Language
from llava_pack.serve.page.examples import draw_examples
from llava_pack.serve.page.status import Speed, answer_lines, status_lines
from llava_pack.serve.page.words import QUESTIONS, STATUS, WORDS, language_of, translations
from llava_pack.serve.port import PHASE_WORDS, PHASES, Phase, Served, Status

INFO = EngineInfo(
    model="m",
    precision="nf4",
    device="cuda",
    context_tokens=4096,
    slots=4,
    conv_mode="llava_v1",
    image_tokens=576,
)


@dataclass(frozen=True)
class Counts:
    """The vitals that the line reads."""

    running: int
    waiting: int


@dataclass(frozen=True)
class Model:
    """A model as the line sees it."""

    name: str
    status: Status
    info: EngineInfo | None = None
    vitals: Counts = Counts(running=2, waiting=1)


READY = Model("llava", Status(phase="ready"), INFO)


def _line(model: Model, language: Language = "en") -> str:
    return status_lines([cast("Served", model)], language)


def test_a_model_that_is_ready_tells_precision_device_and_queue() -> None:
    told = "**llava** · nf4 on cuda · context of 4096 tokens · 2 running, 1 waiting"
    assert _line(READY) == told
    assert "2 个请求运行中" in _line(READY, "zh")


def test_a_model_that_loads_tells_how_far_it_is() -> None:
    loading = Status(phase="loading", done_bytes=25, total_bytes=100)
    assert _line(replace(READY, status=loading)) == "**llava** · loading 25 %"
    assert _line(Model("llava", Status(phase="loading"))) == "**llava** · loading"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_its_words_in_both_languages(phase: Phase, language: Language) -> None:
    said = _line(Model("llava", Status(phase=phase)), language)
    assert said == f"**llava** · {PHASE_WORDS[language][phase]}"


def test_an_engine_that_died_is_seen() -> None:
    assert _line(replace(READY, status=Status(phase="restarting"))) == "**llava** · restarting"


def test_the_speed_counts_from_the_first_token() -> None:
    speed = Speed(tokens=21, first_s=0.25, rest_s=2.0)
    assert answer_lines(speed, [], "en") == "21 tokens, 10.0 tokens/s, first token after 0.25 s"
    assert Speed(tokens=1, first_s=0.25, rest_s=0.0).rate == 0


def test_both_languages_fill_in_the_same_values() -> None:
    for name, text in STATUS["en"].items():
        assert _fields(text) == _fields(STATUS["zh"][name])


def _fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9", "zh"), ("ZH-tw", "zh"), ("en-US,en", "en"), ("fr, zh;q=0.1", "en"), ("", "en")],
)  # fmt: skip
def test_the_browser_asks_for_a_language(accepted: str, language: str) -> None:
    assert language_of(accepted) == language
    assert translations()["zh-CN"] == WORDS["zh"]


def test_examples_are_drawn_small_and_have_a_question_each(tmp_path: Path) -> None:
    for example in draw_examples(tmp_path / "examples"):
        assert example.picture.stat().st_size < 4000
        with Image.open(example.picture) as picture:
            assert len(picture.convert("RGB").getcolors(4096) or ()) > 1
        assert example.question == QUESTIONS["en"][example.drawn]
