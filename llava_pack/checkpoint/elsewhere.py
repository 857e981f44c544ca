"""Which runtimes beside llava-pack's own can load a model in transformers' own layout. Pure.

Asked of config.json alone.
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.defects import Defect, shown
from llava_pack.checkpoint.internvl import internvl_defects
from llava_pack.checkpoint.kind import STORED, WHOLE, Kind
from llava_pack.checkpoint.native import class_of
from llava_pack.checkpoint.quantized import foreign_method
from llava_pack.profiles.loads import LOADS
from llava_pack.profiles.profile import Loads

Config = Mapping[str, Any]
_BITS = "bitsandbytes"
_ANOTHER = "take a model of one of those classes, or another runtime: llava-pack inspect names them"
_UNQUANTIZED = "take the unquantized checkpoint, or another runtime: llava-pack inspect names them"


def own_defects(kind: Kind, config: Config) -> list[Defect]:
    """Return why llava-pack's own engine, and LLaVA's own code, cannot serve a checkpoint at all.

    Args:
        kind: of the checkpoint.
        config: its config.json.
    """
    if kind not in STORED:
        return []
    elsewhere = served_elsewhere(kind, config, LOADS)
    method = foreign_method(config)
    what = f"weights quantized by {method}" if method else class_of(kind, config)
    others = " or ".join(f"--runtime {name}" for name in elsewhere)
    hint = f"{others} serves it" if others else _ANOTHER
    return [Defect("fail", "config.json", f"llava-pack's own engine does not run {what}", hint)]


def native_defects(kind: Kind, config: Config, runtime: str, loads: Loads) -> list[Defect]:
    """Return why another runtime cannot load what is packed of a checkpoint in one folder.

    Args:
        kind: of the checkpoint, one of `WHOLE`.
        config: its config.json.
        runtime: as people are told of it.
        loads: what it loads.
    """
    if kind is Kind.INTERNVL and (defects := internvl_defects(config)):
        return defects
    defects, name = [], class_of(kind, config)
    if name not in loads.architectures:
        known = ", ".join(sorted(loads.architectures))
        text = f"the class is {shown(name)}, {runtime} loads: {known}"
        defects.append(Defect("fail", "config.json", text, _ANOTHER))
    given = config.get("quantization_config")
    method = given.get("quant_method", _BITS) if isinstance(given, Mapping) else None
    if method is not None and method not in loads.quantized:
        reads = ", ".join(sorted(loads.quantized)) or "none"
        text = f"weights quantized by {shown(method)}, {runtime} reads: {reads}"
        defects.append(Defect("fail", "config.json", text, _UNQUANTIZED))
    return defects


def served_elsewhere(kind: Kind, config: Config, others: Mapping[str, Loads]) -> list[str]:
    """Return those of the other runtimes that can load what is packed of a checkpoint."""
    if kind not in WHOLE:
        return []
    return [name for name, one in others.items() if not native_defects(kind, config, name, one)]
