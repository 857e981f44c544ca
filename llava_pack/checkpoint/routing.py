"""How LLaVA's own code reads a folder's name, and where that goes wrong.

llava-pack decides by config and tensors; LLaVA's code, and engines that follow it, by the last
part of the path.

Source: haotian-liu/LLaVA llava/model/builder.py load_pretrained_model, llava/serve/cli.py (order of
the tests), llava/mm_utils.py get_model_name_from_path.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.defects import Defect
from llava_pack.checkpoint.kind import UPSTREAM_LANGUAGES, Kind, backbone

_TEMPLATES = ("llama-2", "mistral", "v1.6-34b", "v1", "mpt")


def routing_defects(name: str, kind: Kind, config: Mapping[str, Any]) -> list[Defect]:
    """Return a warning for each way in which LLaVA's own code would misread the folder's name."""
    language = backbone(config)
    if kind not in {Kind.ORIGINAL, Kind.LORA, Kind.PROJECTOR}:
        return []
    if language not in UPSTREAM_LANGUAGES:  # that code refuses it under any name
        return []
    hint = "rename the folder, for example to llava-v1.5-7b, before LLaVA's own code opens it"
    return [
        Defect("warn", name, f"LLaVA's own code would misread this folder name: {text}", hint)
        for text in _misreadings(name.lower(), kind, language)
    ]


def _misreadings(name: str, kind: Kind, language: str) -> Iterator[str]:
    if "llava" not in name:
        yield "it lacks 'llava', so pictures would be ignored"
        return
    if "lora" in name and kind is not Kind.LORA:
        yield "it has 'lora', so an adapter would be expected"
    if "lora" not in name and kind is Kind.LORA:
        yield "it lacks 'lora', so the adapter would be taken for a whole model"
    if "mpt" in name:
        yield "it has 'mpt', so an MPT model would be expected"
    elif "mistral" in name and language == "llama":
        yield "it has 'mistral', but the language model is a Llama"
    elif "mistral" not in name and language == "mistral":
        yield "it lacks 'mistral', so a Llama would be expected"
    if not any(part in name for part in _TEMPLATES):
        yield "nothing in it names a conversation template, so llava_v0 would be used"
