"""Decodes as captured CUDA graphs: one launch for what otherwise is a kernel at a time.

Each shape is captured at its first use and compared with the eager result it was captured beside.
Where capture fails, or a comparison does, everything goes on eagerly and the reason is logged. No
compiler is needed. Nobody has run this on a GPU yet: see docs/explanation/engine.md.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from llava_pack.engine.padded import Batch, BatchShape, Buckets

_log = logging.getLogger(__name__)
_WARM_UPS = 2
_TOLERANCE = 0.02
"""Largest difference, as a part of the largest score; the same kernels give the same bits."""

Body = Callable[[Batch], torch.Tensor]


class Capture(Protocol):
    """Records what a function launches."""

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Return what launches it again, and the tensor that it writes its result to."""


class CudaCapture:
    """Captures on a side stream, all graphs in one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Return what launches it again, and the tensor that it writes its result to."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()
        return graph.replay, result


class Graphs:
    """Runs decodes: eagerly, or as graphs where that was captured and compared.

    Args:
        body: gives the scores of a filled batch; it reads nothing but the batch's buffers.
        buckets: the shapes.
        device: of the model.
        capture: None for eager decodes only.
    """

    def __init__(
        self, body: Body, buckets: Buckets, device: torch.device, capture: Capture | None
    ) -> None:
        self._body = body
        self._buckets = buckets
        self._device = device
        self._capture = capture
        self._batches: dict[BatchShape, Batch] = {}
        self._captured: dict[BatchShape, tuple[Callable[[], None], torch.Tensor]] = {}

    def scores(
        self, rows: Sequence[int], tokens: Sequence[int], lengths: Sequence[int]
    ) -> torch.Tensor:
        """Return the scores of rows, as (rows, words), after their last tokens."""
        shape = self._buckets.shape(rows, lengths)
        if shape not in self._batches:
            self._batches[shape] = Batch(shape, self._buckets.columns, self._device)
        batch = self._batches[shape]
        batch.fill(rows, tokens, lengths)
        if shape in self._captured:
            replay, result = self._captured[shape]
            replay()
            return result[list(rows)]
        eager = self._body(batch)[list(rows)]
        if self._capture is not None:
            self._try(self._capture, batch, rows, eager)
        return eager

    def _try(
        self, capture: Capture, batch: Batch, rows: Sequence[int], eager: torch.Tensor
    ) -> None:
        """Capture a shape, and keep it where its first result is the eager one."""
        eager = eager.clone()
        try:
            replay, result = capture(lambda: self._body(batch))
            replay()
            far = float((result[list(rows)] - eager).abs().max() / eager.abs().max())
        except (RuntimeError, ValueError) as error:
            self._give_up(f"{batch.shape} cannot be captured: {error}")
            return
        if not far <= _TOLERANCE:
            self._give_up(f"{batch.shape} differs from the eager result by {far:.3g}")
            return
        self._captured[batch.shape] = (replay, result)

    def _give_up(self, why: str) -> None:
        _log.warning("CUDA graphs are off: %s", " ".join(why.split()))
        self._capture = None
        self._captured.clear()
        self._buckets = self._buckets._replace(captured=False)
