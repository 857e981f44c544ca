"""An adapter or a projector put into its base model, tensor by tensor.

Weight + scale · B · A, computed in 32 bits and rounded once to the base's type, as loading adapter
and base together does. A projector alone is only put beside the language model: no torch is needed.

Source: peft tuners/lora/model.py merge_and_unload, tuners/lora/layer.py get_delta_weight (scale,
patterns); haotian-liu/LLaVA llava/model/builder.py (which file gives what).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.adapter import Adapter, changed_tensor, read_adapter, trained_name
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.kind import ADAPTERS, PROJECTORS, TRAINABLES
from llava_pack.convert.parts import Parts, needed, read_json
from llava_pack.convert.shards import SourceTensor, opened, renamed, weight_paths
from llava_pack.format.errors import CheckpointError


@contextmanager
def merged_parts(
    adapter_dir: Path, base_dir: Path, *, config: Mapping[str, Any] | None = None
) -> Iterator[Parts]:
    """Open an adapter or a projector with its base, as the whole LLaVA that they make together.

    Args:
        adapter_dir: adapter_model and non_lora_trainables, or mm_projector; config.json.
        base_dir: the language model, with the tokenizer.
        config: in place of the adapter's config.json.

    Raises:
        CheckpointError: a file is missing or damaged, or an adapter has no place in the base.
    """
    names = {path.name for path in adapter_dir.iterdir()}
    wanted = ADAPTERS if names & set(ADAPTERS) else ()
    beside = TRAINABLES if wanted else PROJECTORS
    files = [_one_of(adapter_dir, names, group) for group in (wanted, beside) if group]
    with (
        opened(files, writable=True) as given,
        opened(weight_paths(base_dir), writable=True) as base,
    ):
        pairs, others = _sorted(given)
        trained = {trained_name(one.entry.name): one for one in others}
        tensors = [t for t in base if is_weight(t.entry.name) and t.entry.name not in trained]
        unplaced = sorted(pairs.keys() - {tensor.entry.name for tensor in tensors})
        if unplaced:
            raise CheckpointError(
                f"the base has no {unplaced[0]}, which the adapter changes",
                subject=base_dir.name,
                hint="use the base model that the adapter was trained on",
            )
        if pairs:
            adapter = read_adapter(read_json(adapter_dir / "adapter_config.json"))
            tensors = [_merged(tensor, pairs, adapter) for tensor in tensors]
        whole = [*tensors, *(renamed(one, name) for name, one in trained.items())]
        said = read_json(adapter_dir / "config.json") if config is None else config
        yield Parts(config=said, tensors=needed(whole, said), texts=base_dir)


Pairs = dict[str, dict[str, SourceTensor]]


def _one_of(folder: Path, names: set[str], group: tuple[str, ...]) -> Path:
    for name in group:
        if name in names:
            return folder / name
    raise CheckpointError(f"there is no {group[0]}", subject=folder.name)


def _sorted(tensors: list[SourceTensor]) -> tuple[Pairs, list[SourceTensor]]:
    """Return the pairs of A and B by the base tensor that they change, and all others."""
    pairs: Pairs = {}
    others: list[SourceTensor] = []
    for tensor in tensors:
        changed = changed_tensor(tensor.entry.name)
        if changed is None:
            others.append(tensor)
        else:
            pairs.setdefault(changed[0], {})[changed[1]] = tensor
    for name, pair in pairs.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{name} has only one of lora_A and lora_B")
    return pairs, others


def _merged(tensor: SourceTensor, pairs: Pairs, adapter: Adapter) -> SourceTensor:
    name = tensor.entry.name
    if name not in pairs:
        return tensor
    pair, scale = pairs[name], adapter.scale(name.removesuffix(".weight"))
    outer, inner = pair["B"].entry.shape, pair["A"].entry.shape
    if (outer[:1] + inner[1:]) != tensor.entry.shape or outer[1:] != inner[:1]:
        raise CheckpointError(
            f"{name} has shape {tensor.entry.shape}, the adapter expects {outer[:1] + inner[1:]}",
            hint="use the base model that the adapter was trained on",
        )

    def read() -> memoryview:
        import torch

        from llava_pack.convert.quantized_tensors import as_bytes, loaded

        delta = loaded(pair["B"], "F32") @ loaded(pair["A"], "F32") * scale
        whole = loaded(tensor, "F32").add(delta)
        types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return as_bytes(whole.to(types[tensor.entry.dtype]))

    return SourceTensor(tensor.entry, read, tensor.release)
