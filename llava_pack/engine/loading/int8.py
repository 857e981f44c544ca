"""LLM.int8() whose rows do not see each other.

bitsandbytes keeps a whole column in 16 bits as soon as one row of the batch has an outlier in it,
so that an answer depends on who else is being answered. Here a batch of several sequences is
quantized row by row: each row gets what it would get alone. A single sequence goes through
bitsandbytes unchanged.

Source: bitsandbytes autograd/_functions.py (MatMul8bitLt) and backends/default/ops.py.
"""

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Int8Params, Linear8bitLt

THRESHOLD = 6.0


class RowwiseInt8(Linear8bitLt):  # type: ignore[misc]
    """A linear in 8 bits; the first dimension of its input counts sequences."""

    def __init__(self, sizes: tuple[int, int], weight: Int8Params) -> None:
        super().__init__(
            *sizes, bias=False, has_fp16_weights=False, threshold=THRESHOLD, device="meta"
        )
        self.weight = weight
        self.init_8bit_state()

    @classmethod
    def of(cls, sizes: tuple[int, int], weight: torch.Tensor) -> "RowwiseInt8":
        """Return the linear of a weight, quantized; it stays on the weight's device."""
        # bitsandbytes quantizes what leaves the CPU, or is sent to it.
        host = Int8Params(weight.to("cpu"), requires_grad=False, has_fp16_weights=False)
        return cls(sizes, host.to(weight.device))

    @classmethod
    def from_codes(
        cls,
        sizes: tuple[int, int],
        codes: torch.Tensor,
        scales: torch.Tensor,
        device: torch.device,
    ) -> "RowwiseInt8":
        """Return the linear of codes and row scales that were made ahead."""
        host = Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
        return cls(sizes, host.to(device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product, as bitsandbytes computes it for each sequence by itself."""
        if x.shape[0] == 1:
            out: torch.Tensor = super().forward(x)
            return out
        rows = x.reshape(-1, x.shape[-1])
        halves = rows.to(torch.float16)
        outliers = halves.abs() >= THRESHOLD
        codes, scales, _ = functional.int8_vectorwise_quant(halves.masked_fill(outliers, 0))
        weight, weight_scales = self.state.CB, self.state.SCB
        product: torch.Tensor = torch.ops.bitsandbytes.int8_scaled_mm(
            codes, weight, scales, weight_scales, bias=self.bias, dtype=x.dtype
        )
        columns = outliers.any(dim=0).nonzero().view(-1)
        if len(columns):
            kept = (rows * outliers)[:, columns]
            restored = functional.int8_vectorwise_dequant(
                weight[:, columns].contiguous(), weight_scales
            )
            product = product.addmm(kept, restored.to(x.dtype).t())
        return product.reshape(*x.shape[:-1], -1)
