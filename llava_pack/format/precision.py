"""The precisions that a language model is served in, and what is true of each. Pure.

Whatever lists, ranks or computes with precisions derives it from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Quantized = Literal["int8", "nf4"]
"""Linear layers by bitsandbytes; they can be made ahead of time, while a bundle is packed."""
Precision = Literal["fp32", "fp16", "bf16", Quantized]
QUANTIZED: tuple[Quantized, ...] = get_args(Quantized)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Also the keys of `memory_bytes` in the floors of a manifest."""
DEFAULT_PRECISION: Precision = "nf4"
"""What a model is served in where neither a person nor its checkpoint says a precision."""
PRECISION_CHOICES = ("auto", *PRECISIONS)
"""What may be asked for when a model is loaded."""
BY_QUALITY: tuple[Precision, ...] = ("fp16", *QUANTIZED)
"""What is chosen from where nobody says a precision, best first; LLaVA's own loader has these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is true of one precision.

    Attributes:
        bits: of a weight of the language model's linear layers.
        scale_bytes: beside each of those weights, on average.
        row_bytes: beside each of their outputs.
        dtype: of everything else, as torch names it; `computes_in` knows the exception.
        capability: the least compute capability of a GPU that it runs on; empty for any.
        rounding_nats: how far odds may be from those recorded and still be rounding.
        sure_nats: how much likelier than the next a token is that no rounding changes.

    Source: bitsandbytes functional.py (nf4 blocks of 64 values, their scales quantized in blocks
    of 256; int8 with one scale a row) and its installation guide (int8 needs Turing, the other
    kernels Pascal); docs/explanation/known-answers.md for the nats.
    """

    bits: int
    dtype: str = "float16"
    scale_bytes: float = 0
    row_bytes: int = 0
    capability: tuple[int, ...] = ()
    rounding_nats: float = 0.15
    sure_nats: float = 0.5


FACTS: Mapping[str, Facts] = {
    "fp32": Facts(bits=32, dtype="float32", rounding_nats=0.02, sure_nats=0.05),
    "fp16": Facts(bits=16),
    "bf16": Facts(bits=16, dtype="bfloat16"),
    "int8": Facts(bits=8, row_bytes=4, capability=(7, 5)),
    "nf4": Facts(
        bits=4,
        scale_bytes=1 / 64 + 4 / (64 * 256),
        capability=(6, 0),
        rounding_nats=0.6,
        sure_nats=1.0,
    ),
}
"""By precision."""


def computes_in(precision: str, device: str) -> str:
    """Return the dtype of whatever is not quantized, as torch names it.

    >>> computes_in("nf4", "cuda"), computes_in("nf4", "cpu")  # 16 bits are slow on a CPU
    ('float16', 'float32')
    """
    return "float32" if device == "cpu" and precision in QUANTIZED else FACTS[precision].dtype
