"""Known answers are recorded where the whole engine can be imported, and nowhere else."""

from types import SimpleNamespace

import pytest

from llava_pack.assemble import reference_answers as recorded


@pytest.mark.parametrize("missing", ["torch", "PIL", "sentencepiece", "google.protobuf"])
def test_a_laptop_with_part_of_the_engine_says_what_is_missing(monkeypatch, missing):
    def find_spec(name):
        if name == missing and "." in name:
            raise ModuleNotFoundError(name)
        return None if name == missing else name

    monkeypatch.setattr(recorded, "find_spec", find_spec)
    plan = SimpleNamespace()  # not looked at: nothing of a model can be run
    assert recorded._cannot(plan, ("nf4",)) == f"{missing} is not installed here"
