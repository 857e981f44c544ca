"""What is kept of one key's questions tells another nothing: a sample of `tests/attack/salts.py`."""

from pathlib import Path
from typing import Any

import pytest

from llava_pack.engine import environment

pytestmark = pytest.mark.engine
environment.prepare()
pytest.importorskip("torch")

from llava_pack.engine.batching.rows import Rows  # noqa: E402 - needs torch
from llava_pack.engine.inputs.vision import Vision  # noqa: E402 - needs torch
from tests.attack.salts import (  # noqa: E402 - needs torch
    ATTACKER,
    PICTURE,
    TOKENWISE,
    VICTIM,
    WHOLE_CHUNKS,
    asked,
    engine,
    found_of,
)

_SEED, _NUMBERS = 10, 1


@pytest.fixture(scope="module", params=[*TOKENWISE, *WHOLE_CHUNKS])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return engine(tmp_path_factory.mktemp(request.param), request.param)


def test_a_number_of_another_key_is_not_found_and_is_without_salts(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_of(made, _SEED, _NUMBERS, ATTACKER) == 0
    reusable = Rows.reusable
    monkeypatch.setattr(
        Rows, "reusable", lambda self, row, keys, _: reusable(self, row, keys, self._held[row].salt)
    )
    assert found_of(made, _SEED, _NUMBERS, ATTACKER) == _NUMBERS


def test_not_even_the_beginning_that_all_prompts_have_is_shared(made: Any, tmp_path: Path) -> None:
    asked(made, VICTIM, "hello")
    assert asked(made, f"{ATTACKER} who comes first", "hello") == 0
    assert asked(made, VICTIM, "hello") > 0


def test_a_picture_of_another_key_is_seen_anew_and_is_not_without_salts(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(made, VICTIM, "look", PICTURE)
    before = made.work.picture_hits
    asked(made, ATTACKER, "look", PICTURE)
    assert made.work.picture_hits == before
    monkeypatch.setattr(
        Vision, "_key", lambda self, look: (self._preprocessing, look.picture.digest)
    )
    for salt in ("one", "another"):
        asked(made, salt, "look", PICTURE)
    assert made.work.picture_hits > before
