"""Tensors of OpenGVLab's InternVL, and what transformers' own class calls the same rows.

The tower keeps queries, keys and values in one linear, InternLM2 too: there the heads that share a
key lie together, queries first. They are cut by rows; nothing is computed.

Source: OpenGVLab/InternVL internvl_chat/internvl/model (names; InternLM2Attention, the order of
rows); transformers models/internvl/modeling_internvl.py and models/llama/modeling_llama.py (names).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.values import refusal

_PATTERN = r"\.(weight|bias)"
_TOWER_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)")
_TOWER: Mapping[str, str] = {
    "class_embedding": "cls_token",
    "position_embedding": "position_embeddings",
    "patch_embedding.weight": "patch_embeddings.projection.weight",
    "patch_embedding.bias": "patch_embeddings.projection.bias",
}
_TOWER_PARTS = (
    ("attn.proj.", "attention.projection_layer."),
    ("attn.", "attention."),
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("ls1", "lambda_1"),
    ("ls2", "lambda_2"),
)
_PROJECTOR: Mapping[str, str] = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}
_PROJECTOR_PART = re.compile(rf"mlp1\.([013]){_PATTERN}")
_INTERNLM_LAYER = re.compile(r"language_model\.model\.layers\.(\d+)\.(.+)")
_INTERNLM_PARTS = (
    ("attention.wo.", "self_attn.o_proj."),
    ("feed_forward.w1.", "mlp.gate_proj."),
    ("feed_forward.w2.", "mlp.down_proj."),
    ("feed_forward.w3.", "mlp.up_proj."),
    ("attention_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
)
_INTERNLM_TABLES: Mapping[str, str] = {
    "language_model.model.tok_embeddings.weight": "language_model.model.embed_tokens.weight",
    "language_model.output.weight": "language_model.lm_head.weight",
}
_TOWER_JOINED = re.compile(rf"(vision_tower\.encoder\.layer\.\d+\.attention)\.qkv{_PATTERN}")
_INTERNLM_JOINED = re.compile(rf"(language_model\.model\.layers\.\d+)\.attention\.wqkv{_PATTERN}")
_ADAPTED = re.compile(r"\.lora_[AB]\.|base_model\.model\.|\.base_layer\.")


@dataclass(frozen=True, slots=True)
class RowPiece:
    """A tensor as it is written, and which rows of the published one it is.

    Of each `block` rows, it has those from `start` to `stop`.
    """

    entry: TensorEntry
    block: int
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """Whether it is all rows."""
        return self.stop - self.start == self.block


def is_adapted(name: str) -> bool:
    """Say whether a name is that of a tensor with an adapter beside it, unmerged.

    >>> is_adapted("vision_model.base_model.model.encoder.layers.0.attn.qkv.lora_A.default.weight")
    True
    """
    return _ADAPTED.search(name) is not None


def internvl_name(name: str, language: str) -> str:
    """Return an InternVL tensor's name in the `-hf` layout, before its rows are cut apart.

    Args:
        name: as published.
        language: the language model's type as published.

    >>> internvl_name("vision_model.encoder.layers.0.attn.proj.bias", "qwen2")
    'vision_tower.encoder.layer.0.attention.projection_layer.bias'
    >>> internvl_name("mlp1.3.weight", "qwen2")
    'multi_modal_projector.linear_2.weight'
    >>> internvl_name("language_model.model.layers.1.ffn_norm.weight", "internlm2")
    'language_model.model.layers.1.post_attention_layernorm.weight'
    >>> internvl_name("language_model.model.layers.1.mlp.up_proj.weight", "qwen2")
    'language_model.model.layers.1.mlp.up_proj.weight'
    """
    if match := _TOWER_LAYER.fullmatch(name):
        return f"vision_tower.encoder.layer.{match[1]}.{_part(match[2], _TOWER_PARTS)}"
    if name.startswith("vision_model.embeddings."):
        inner = name.removeprefix("vision_model.embeddings.")
        return f"vision_tower.embeddings.{_TOWER.get(inner, inner)}"
    if match := _PROJECTOR_PART.fullmatch(name):
        return f"multi_modal_projector.{_PROJECTOR[match[1]]}.{match[2]}"
    if language != "internlm2":
        return name
    if match := _INTERNLM_LAYER.fullmatch(name):
        return f"language_model.model.layers.{match[1]}.{_part(match[2], _INTERNLM_PARTS)}"
    return _INTERNLM_TABLES.get(name, name)


def _part(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for before, after in table:
        if name.startswith(before):
            return f"{after}{name.removeprefix(before)}"
    return name


def row_pieces(entry: TensorEntry, language: str, heads: int, groups: int) -> Iterator[RowPiece]:
    """Yield what becomes of a published tensor: itself renamed, or queries, keys and values.

    Args:
        entry: as published.
        language: the language model's type as published.
        heads: of its queries.
        groups: of its keys and values.

    Raises:
        CheckpointError: its rows cannot be cut apart.
    """
    name = internvl_name(entry.name, language)
    if match := _TOWER_JOINED.fullmatch(name):
        prefix, part, heads, groups = match[1], match[2], 1, 1
    elif match := _INTERNLM_JOINED.fullmatch(name):
        prefix, part = f"{match[1]}.self_attn", match[2]
    else:
        rows = entry.shape[0] if entry.shape else 1
        yield RowPiece(replace(entry, name=name), rows, 0, rows)
        return
    rows, shared = (entry.shape[0] if entry.shape else 0), heads // groups
    if not rows or rows % (groups * (shared + 2)):
        raise refusal(
            f"has shape {entry.shape}, which is not queries, keys and values of {groups} key-value "
            f"heads for {shared} heads each",
            subject=entry.name,
        )
    block = rows // groups
    head = block // (shared + 2)
    for letter, start, stop in (
        ("q", 0, shared * head),
        ("k", shared * head, (shared + 1) * head),
        ("v", (shared + 1) * head, block),
    ):
        shape = (groups * (stop - start), *entry.shape[1:])
        renamed = replace(entry, name=f"{prefix}.{letter}_proj.{part}", shape=shape, strides=None)
        yield RowPiece(renamed, block, start, stop)
