import tomllib

import pytest

from llava_pack.format import errors
from llava_pack.format.text import LANGUAGES
from llava_pack.health.knowledge import known_failures, look_up, recognise
from tests.conftest import ROOT

FAILURES = known_failures()
SYMPTOMS = tomllib.loads((ROOT / "tests/fixtures/failures/symptoms.toml").read_text())


def test_every_failure_is_told_in_both_languages_and_has_one_code():
    ids = [failure.id for failure in FAILURES]
    assert len(ids) == len(set(ids))
    for failure in FAILURES:
        for language in LANGUAGES:
            advice = failure.advice[language]
            assert advice.title
            assert advice.cause
            assert advice.fix, failure.id
        assert failure.sources, failure.id


def test_every_failure_that_has_a_look_has_a_recorded_symptom():
    assert {failure.id for failure in FAILURES if failure.signatures} == set(SYMPTOMS)


@pytest.mark.parametrize("code", sorted(SYMPTOMS))
def test_a_symptom_is_recognised_as_what_it_is_first(code):
    assert recognise(f"a line before\n{SYMPTOMS[code]}\n", FAILURES)[0].id == code


def test_every_exit_code_can_be_looked_up_by_number_and_word():
    kinds = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PackError)
    ]
    for error in kinds:
        by_number = look_up(str(int(error.exit_code)), FAILURES)
        assert by_number is not None
        assert by_number is look_up(error.kind, FAILURES)
        assert by_number.exit_code == error.exit_code


def test_what_goes_well_is_not_taken_for_a_failure():
    fine = [
        "INFO: llava-v1.5-7b is ready on cuda in nf4, 8 slots of 4096 tokens",
        "loading 13.5 GB of 13.5 GB (100 %), 812.0 MB/s, 0 s left",
        "Loading checkpoint shards: 100%|##########| 2/2",
        "fetch openai/clip-vit-large-patch14-336 pytorch_model.bin: 1.7 GB at 90 MB/s",
        "Accepted publickey for me from 10.1.2.3 port 51122 ssh2",
        "127.0.0.1 GET /readyz 200",
    ]
    for text in fine:
        assert not recognise(text, FAILURES), text


def test_the_end_of_a_long_log_is_what_counts():
    long = "CUDA out of memory\n" + "fine\n" * 100_000
    assert not recognise(long, FAILURES)
    assert [one.id for one in recognise(long + "_queue.Empty", FAILURES)] == [
        "first-token-too-late"
    ]
