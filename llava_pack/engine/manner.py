"""How the work is cut: what is best on a device, and what keeps answers the same."""

from dataclasses import dataclass

from llava_pack.format.precision import QUANTIZED, computes_in

_CPU_CHUNK, _GPU_CHUNK = 512, 1024
"""A prompt that fits into one chunk is computed as transformers does, to the last bit; shorter
chunks would let others go on sooner, and change a word now and then in 4 bits."""
_GPU_PICTURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an engine works.

    Attributes:
        chunk_tokens: prompt tokens that one prefill takes at most, and that are prefilled for
            newcomers before those who are being answered get their next token.
        exact: a first question is computed to the same bits whatever was asked before.
        padded: decode in a few fixed shapes, or every row at its own length.
        pictures_at_once: tiles that go through the tower together.
        captured: decodes are captured as CUDA graphs.
    """

    chunk_tokens: int
    exact: bool
    padded: bool
    pictures_at_once: int
    captured: bool = False


def manner(device: str, precision: str, context_tokens: int, *, graphs: bool = True) -> Manner:
    """Return how work is done on a device.

    On a CPU rows are attended at their true lengths and, where 4 or 8 bits would make another
    word of another last bit, pictures go one by one: nothing is lost there, and an answer does
    not depend on its neighbours; but for its last bits in fp16 and bf16, so nothing is exact there.
    int8 decides over a whole prompt which columns stay in 16 bits, so its prompts are not cut; it
    asks the GPU while it computes, which no graph can hold.

    >>> manner("cpu", "nf4", 2048).pictures_at_once, manner("cuda", "nf4", 2048).pictures_at_once
    (1, 8)
    """
    on_cpu = device == "cpu"
    chunk = _CPU_CHUNK if on_cpu else _GPU_CHUNK
    return Manner(
        chunk_tokens=context_tokens if precision == "int8" else min(chunk, context_tokens),
        exact=on_cpu and computes_in(precision, device) == "float32",
        padded=not on_cpu,
        pictures_at_once=1 if on_cpu and precision in QUANTIZED else _GPU_PICTURES,
        captured=graphs and device == "cuda" and precision != "int8",
    )
