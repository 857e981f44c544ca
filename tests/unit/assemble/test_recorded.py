"""Known answers are recorded where the whole engine can be imported, and nowhere else."""

from types import SimpleNamespace

import pytest

from llava_pack.assemble import reference_answers as recorded
from llava_pack.checkpoint.kind import Kind


def planned(kind, config):
    """Return what is looked at of a plan, before anything of its model can be run."""
    model = SimpleNamespace(kind=kind, config=config)
    return SimpleNamespace(sources={"model": model})


@pytest.mark.parametrize("missing", ["torch", "PIL", "sentencepiece", "google.protobuf"])
def test_a_laptop_with_part_of_the_engine_says_what_is_missing(monkeypatch, missing):
    def find_spec(name):
        if name == missing and "." in name:
            raise ModuleNotFoundError(name)
        return None if name == missing else name

    monkeypatch.setattr(recorded, "find_spec", find_spec)
    plan = planned(Kind.ORIGINAL, {})
    assert recorded._cannot(plan, ("nf4",)) == f"{missing} is not installed here"


@pytest.mark.parametrize(
    ("kind", "config", "what"),
    [
        (Kind.INTERNVL, {"architectures": ["InternVLChatModel"]}, "InternVLForCond"),
        (Kind.NATIVE, {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "Qwen2_5_VL"),
        (
            Kind.NATIVE,
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "quantization_config": {"quant_method": "awq"},
            },
            "weights quantized by awq",
        ),
    ],
)
def test_what_our_engine_does_not_run_is_not_recorded(kind, config, what):
    plan = planned(kind, config)
    why = recorded._cannot(plan, ("fp16",))
    assert why.startswith("llava-pack's own engine does not run")
    assert what in why
    assert recorded._hint(plan) == "leave out --record"
