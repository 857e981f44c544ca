"""An adapter or a projector put into its base model, tensor by tensor.

The sums are those of `checkpoint.adapter`, in 32 bits and rounded once to the base's type, as
loading adapter and base together does. A projector alone is only put beside the language model: no
torch is needed.

Source: haotian-liu/LLaVA llava/model/builder.py (which file gives what).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.adapter import (
    Adapter,
    Change,
    changed_weight,
    read_adapter,
    sorted_contents,
)
from llava_pack.checkpoint.based import adapter_settings, check_based
from llava_pack.checkpoint.keymap import is_weight, original_name
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout
from llava_pack.convert.parts import Parts, needed
from llava_pack.convert.shards import SourceTensor, opened, renamed, weight_paths


@contextmanager
def merged_parts(
    adapter_dir: Path, base_dir: Path, *, config: Mapping[str, Any] | None = None
) -> Iterator[Parts]:
    """Open an adapter or a projector with its base, as the whole LLaVA that they make together.

    Over a converted base the tensors keep the names that the base has for them.

    Args:
        adapter_dir: adapter_model and non_lora_trainables, or mm_projector; config.json.
        base_dir: the language model or the LLaVA, with the tokenizer.
        config: in place of the adapter's config.json.

    Raises:
        CheckpointError: a file is missing or damaged, or an adapter has no place in the base.
    """
    model, base = read_layout(adapter_dir), read_layout(base_dir)
    check_based(model, base)
    main = base if model.over_converted else model
    contents = sorted_contents(model.entries)
    files = [adapter_dir / name for name in model.weight_files]
    with (
        opened(files, writable=True) as given,
        opened(weight_paths(base_dir), writable=True) as all_base,
    ):
        by_name = {one.entry.name: one for one in given}
        kept = [one for one in all_base if is_weight(one.entry.name)]
        names = {original_name(one.entry.name): one.entry.name for one in kept}
        replaced = {
            target: renamed(by_name[name], names.get(target, target))
            for target, name in contents.replaced.items()
        }
        tensors = [one for one in kept if original_name(one.entry.name) not in replaced] + list(
            replaced.values()
        )
        if model.kind is Kind.LORA:
            adapter = read_adapter(adapter_settings(adapter_dir))
            tensors = [
                _merged(one, contents.changes.get(original_name(one.entry.name)), by_name, adapter)
                for one in tensors
            ]
        whole = main.config if config is None else config
        if main.kind is not Kind.CONVERTED:
            tensors = needed(tensors, whole)
        yield Parts(config=whole, tensors=tensors, texts=base_dir)


def _merged(
    tensor: SourceTensor,
    change: Change | None,
    given: Mapping[str, SourceTensor],
    adapter: Adapter,
) -> SourceTensor:
    """Return a tensor of the base with what an adapter adds to it."""
    if change is None:
        return tensor
    scale = adapter.scale(change.module)

    def read() -> memoryview:
        from llava_pack.convert.quantized_tensors import as_bytes, float_types, loaded

        parts = {role: loaded(given[name], "F32") for role, name in change.parts.items()}
        whole = changed_weight(loaded(tensor, "F32"), parts, scale)
        return as_bytes(whole.to(float_types()[tensor.entry.dtype]))

    return SourceTensor(tensor.entry, read, tensor.release)
