"""What OpenGVLab's InternVL says of itself, in the words of transformers' own class. Pure.

The code that it is published with is not run: whatever transformers' class computes otherwise is
refused, with the name of the value.

Source: OpenGVLab/InternVL internvl_chat/internvl/model/internvl_chat (configuration: keys and
defaults; modeling_internvl_chat.py: what each decides) and internvl/conversation.py (templates);
transformers models/internvl (configuration, modeling: what the class can be).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.defects import Defect, defect_of, shown
from llava_pack.checkpoint.expected import Shapes, language_shapes
from llava_pack.checkpoint.internvl_names import RowPiece, is_adapted, row_pieces
from llava_pack.checkpoint.internvl_tower import internvl_tower, internvl_tower_shapes
from llava_pack.checkpoint.network import text_values
from llava_pack.checkpoint.templates import Template
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.values import (
    choice,
    is_number,
    refusal,
    size,
)
from llava_pack.format.errors import CheckpointError

Config = Mapping[str, Any]
LANGUAGES: Mapping[str, str] = {"internlm2": "llama", "llama": "llama", "qwen2": "qwen2"}
"""Language models by the type that is published, and the class of transformers that is the same."""
_HF = (
    "take a repository that transformers' own class reads (-hf), for example "
    "OpenGVLab/InternVL3-8B-hf, or an InternVL over InternLM2 or Qwen2"
)
_MERGE = "merge it where it was trained, with InternVL's tools/merge_lora.py"
_INTERNLM_DEFAULTS: Config = {
    "bias": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "vocab_size": 103168,
}
"""Source: OpenGVLab/InternVL internvl/model/internlm2/configuration_internlm2.py."""
_SYSTEM_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "  # noqa: RUF001
    "是一个有用无害的人工智能助手。"
)
_SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"  # noqa: RUF001
    "联合开发的多模态大语言模型。"
)
END = "<|im_end|>"
"""Ends a turn in each of the templates."""


def _turns(system: str, sep: str) -> Template:
    return Template(
        style="turns",
        system=system,
        head="<|im_start|>system\n",
        user="<|im_start|>user\n",
        assistant="<|im_start|>assistant\n",
        sep=sep,
        sep2=sep,
        specials=("<|im_start|>", END),
        stops=(END,),
    )


TEMPLATES: Mapping[str, Template] = {
    "Hermes-2": _turns(_SYSTEM_2, END),
    "internlm2-chat": _turns(_SYSTEM_2, END),
    "internvl2_5": _turns(_SYSTEM_2_5, f"{END}\n"),
}
"""By `template` of config.json. Source: OpenGVLab/InternVL internvl/conversation.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InternVl:
    """An InternVL as transformers' own class has it.

    Attributes:
        language: the language model's type as published.
        text: its configuration in the keys of transformers' class, with the type of that.
        tower: configuration of the tower; layers behind the features left out.
        side: pixels of a tile.
        ratio: what each side of the features shrinks to before they are projected.
        tiles: the fewest and the most that a picture is cut into, beside the small whole.
        template: of a conversation.
    """

    language: str
    text: dict[str, Any]
    tower: dict[str, Any]
    side: int
    ratio: float
    tiles: tuple[int, int]
    template: Template

    @property
    def tile_tokens(self) -> int:
        """Words that a tile takes the place of."""
        return int((self.side // self.tower["patch_size"][0]) ** 2 * self.ratio**2)

    def pieces(self, entry: TensorEntry) -> Iterator[RowPiece]:
        """Yield what becomes of a published tensor.

        Raises:
            CheckpointError: it is part of an adapter, unmerged, or its rows cannot be cut apart.
        """
        if is_adapted(entry.name):
            raise refusal(
                "is part of an adapter that was not merged", subject=entry.name, hint=_MERGE
            )
        heads, groups = (self.text[f"num_{key}_heads"] for key in ("attention", "key_value"))
        return row_pieces(entry, self.language, heads, groups)

    def shapes(self) -> Shapes:
        """Return every tensor that is written, by its name there, the tables as they came."""
        hidden, width = self.text["hidden_size"], self.tower["hidden_size"]
        joined = width * int(1 / self.ratio) ** 2
        return {
            **{f"language_model.{name}": one for name, one in language_shapes(self.text).items()},
            **internvl_tower_shapes(self.tower),
            "multi_modal_projector.layer_norm.weight": (joined,),
            "multi_modal_projector.layer_norm.bias": (joined,),
            "multi_modal_projector.linear_1.weight": (hidden, joined),
            "multi_modal_projector.linear_1.bias": (hidden,),
            "multi_modal_projector.linear_2.weight": (hidden, hidden),
            "multi_modal_projector.linear_2.bias": (hidden,),
        }


def internvl(config: Config) -> InternVl:
    """Return what a config.json of OpenGVLab's says.

    Raises:
        CheckpointError: transformers' own class cannot be that; the message names the value.
    """
    if config.get("quantization_config"):
        raise refusal(
            "an InternVL in its authors' layout that was quantized ahead cannot be converted",
            hint="use the unquantized checkpoint, or one that was quantized in the -hf layout",
        )
    published, vision = _part(config, "llm_config"), _part(config, "vision_config")
    text, tower = _text(published), internvl_tower(vision, config)
    side = size(config, "force_image_size", tower["image_size"][0])
    if side != tower["image_size"][0]:
        pixels = tower["image_size"][0]
        raise refusal(f"force_image_size is {side}, expected image_size of the tower, {pixels}")
    ratio = _ratio(config, side // tower["patch_size"][0])
    choice("ps_version", config.get("ps_version", "v1"), ("v2",), hint=_HF)
    if config.get("pad2square"):
        raise refusal(f"pad2square is {shown(config['pad2square'])}, expected false", hint=_HF)
    name = choice("template", config.get("template"), tuple(TEMPLATES), hint=_HF)
    return InternVl(
        language=str(published.get("model_type")),
        text=text,
        tower=tower,
        side=side,
        ratio=ratio,
        tiles=_tiles(config),
        template=TEMPLATES[name],
    )


def _part(config: Config, key: str) -> Config:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise refusal(f"{key} is {shown(value)}, expected an object")
    return value


def _ratio(config: Config, patches: int) -> float:
    ratio = config.get("downsample_ratio", 0.5)
    if not is_number(ratio, 0.01, 1) or patches * ratio % 1 or (1 / ratio) % 1:
        raise refusal(
            f"downsample_ratio is {shown(ratio)}, expected a fraction 1/n that divides the "
            f"{patches} patches along a picture"
        )
    return float(ratio)


def _tiles(config: Config) -> tuple[int, int]:
    if not config.get("dynamic_image_size", False):
        return 1, 1
    fewest, most = size(config, "min_dynamic_patch", 1), size(config, "max_dynamic_patch", 6)
    if fewest > most:
        raise refusal(f"min_dynamic_patch is {fewest}, expected at most max_dynamic_patch, {most}")
    if most > 1 and config.get("use_thumbnail") is not True:
        given = shown(config.get("use_thumbnail", False))
        raise refusal(f"use_thumbnail is {given}, expected true", hint=_HF)
    return fewest, most


def _text(published: Config) -> dict[str, Any]:
    """Return the language model's configuration in the keys of transformers' class."""
    given = str(published.get("model_type"))
    choice("llm_config: model_type", given, tuple(LANGUAGES), hint=_HF)
    if published.get("rope_pos_id_version", "default") != "default":
        raise refusal("rope_pos_id_version is not 'default', which no other class has", hint=_HF)
    language = LANGUAGES[given]
    named = {**published, "model_type": language, "architectures": []}
    if given == "internlm2":
        named = {**_INTERNLM_DEFAULTS, **named, "mlp_bias": False}
        named["attention_bias"] = named["bias"]
        named.pop("head_dim", None)
    values = text_values(named)
    kept = {"architectures": [f"{language.title()}ForCausalLM"], "model_type": language}
    return {**values, **kept, "vocab_size": size(named, "vocab_size")}


def internvl_entries(made: InternVl, entries: Iterable[TensorEntry]) -> dict[str, TensorEntry]:
    """Return the tensors that are written, by their names there.

    Args:
        made: what config.json says.
        entries: as published.

    Raises:
        CheckpointError: there is an adapter, unmerged, or rows that cannot be cut apart.
    """
    pieces = (piece for entry in entries for piece in made.pieces(entry))
    return {piece.entry.name: piece.entry for piece in pieces}


def internvl_defects(config: Config) -> list[Defect]:
    """Return why a checkpoint cannot be converted, by its config.json alone."""
    try:
        internvl(config)
    except CheckpointError as error:
        return [defect_of(error)]
    return []
