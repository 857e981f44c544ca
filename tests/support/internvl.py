"""InternVL in miniature as OpenGVLab publishes it, taken apart from transformers' own class.

The names and the order of rows are written down here a second time, the other way round, so that
what llava-pack makes of them is held against something that does not come from it.

Source: OpenGVLab/InternVL internvl_chat/internvl/model (names, InternLM2Attention.forward: a
key-value head's queries, then its key, then its value); config.json and tokenizer_config.json as
OpenGVLab/InternVL2-2B and OpenGVLab/InternVL3-1B have them.
"""

import json
from pathlib import Path
from typing import Any

import torch

from tests.support.internvl_files import PATCH, SIDE, TinyInternVl, llm_config, write_texts

_TOWER_BACK = {
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection.weight": "patch_embedding.weight",
    "patch_embeddings.projection.bias": "patch_embedding.bias",
}
_LAYER_BACK = {
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_INTERNLM_BACK = {
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_PROJECTOR_BACK = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


def make_internvl(folder: Path, spec: TinyInternVl | None = None) -> Any:
    """Write a model as published, and return the one that it was taken apart from, in 32 bits."""
    spec = spec or TinyInternVl()
    model = _whole(spec, write_texts(folder, spec))
    tensors = {name: one.clone() for name, one in published_tensors(model, spec).items()}
    _write(folder, tensors, spec)
    return model


def _whole(spec: TinyInternVl, words: int) -> Any:
    from transformers import (
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLVisionConfig,
        LlamaConfig,
        Qwen2Config,
    )

    torch.manual_seed(7)
    text = Qwen2Config if spec.language == "qwen2" else LlamaConfig
    values = {k: v for k, v in llm_config(spec, words).items() if k not in ("model_type", "bias")}
    big = spec.big_tower
    kept = spec.layers + 1 + spec.select if spec.select < 0 else spec.select
    config = InternVLConfig(
        text_config=text(**values),
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            num_hidden_layers=kept,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=[SIDE, SIDE],
            patch_size=[PATCH, PATCH],
            attention_bias=not big,
            use_qk_norm=big,
            norm_type="rms_norm" if big else "layer_norm",
            use_absolute_position_embeddings=True,
        ),
        tie_word_embeddings=spec.tied,
        image_token_id=0,
    )
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for name, one in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            one.copy_((torch.randn_like(one) * 0.15 + centre).to(torch.bfloat16).float())
    return model.eval()


def published_tensors(model: Any, spec: TinyInternVl) -> dict[str, torch.Tensor]:
    """Return a model's tensors by the published names, joined where they are published so."""
    state = {name: one.to(torch.bfloat16) for name, one in model.state_dict().items()}
    found: dict[str, torch.Tensor] = {}
    for name, one in state.items():
        place, _, rest = name.removeprefix("model.").partition(".")
        if place == "lm_head":
            head = "output" if spec.language == "internlm2" else "lm_head"
            found[f"language_model.{head}.weight"] = one
        elif place == "multi_modal_projector":
            layer, _, part = rest.partition(".")
            found[f"mlp1.{_PROJECTOR_BACK[layer]}.{part}"] = one
        elif place == "vision_tower":
            found |= _tower_back(rest, one, state)
        elif spec.language == "internlm2":
            found |= _internlm_back(rest, one, state, spec)
        else:
            found[f"language_model.model.{rest}"] = one
    if spec.tied:
        found.pop("language_model.lm_head.weight", None)
        found.pop("language_model.output.weight", None)
    if spec.select != -1:  # the layers behind the features are published, too
        for layer in range(model.config.vision_config.num_hidden_layers, spec.layers):
            for name in list(found):
                if name.startswith("vision_model.encoder.layers.0."):
                    found[name.replace(".0.", f".{layer}.", 1)] = found[name] + 1
    return found


def _tower_back(rest: str, one: torch.Tensor, state: Any) -> dict[str, torch.Tensor]:
    if rest.startswith("embeddings."):
        return {f"vision_model.embeddings.{_TOWER_BACK[rest.removeprefix('embeddings.')]}": one}
    number, _, part = rest.removeprefix("encoder.layer.").partition(".")
    where = f"vision_model.encoder.layers.{number}"
    if part.startswith("lambda_"):
        return {f"{where}.ls{part[-1]}": one}
    stem, _, kind = part.rpartition(".")
    if stem in _LAYER_BACK:
        return {f"{where}.{_LAYER_BACK[stem]}.{kind}": one}
    if stem != "attention.q_proj":
        return {}
    near = f"model.vision_tower.encoder.layer.{number}.attention"
    joined = torch.cat([state[f"{near}.{letter}_proj.{kind}"] for letter in "qkv"])
    return {f"{where}.attn.qkv.{kind}": joined}


def _internlm_back(
    rest: str, one: torch.Tensor, state: Any, spec: TinyInternVl
) -> dict[str, torch.Tensor]:
    if rest == "embed_tokens.weight":
        return {"language_model.model.tok_embeddings.weight": one}
    if rest == "norm.weight":
        return {"language_model.model.norm.weight": one}
    number, _, part = rest.removeprefix("layers.").partition(".")
    where, (stem, _, kind) = f"language_model.model.layers.{number}", part.rpartition(".")
    if stem in _INTERNLM_BACK:
        return {f"{where}.{_INTERNLM_BACK[stem]}.{kind}": one}
    if stem != "self_attn.q_proj":
        return {}
    near = f"model.language_model.layers.{number}.self_attn"
    width = one.shape[0] // spec.heads
    q, k, v = (state[f"{near}.{letter}_proj.{kind}"] for letter in "qkv")
    by_group = [
        one.reshape(spec.groups, -1, width, *one.shape[1:]) for one in (q, k, v)
    ]  # (groups, heads of a group, width, hidden)
    joined = torch.cat(by_group, dim=1)
    return {f"{where}.attention.wqkv.{kind}": joined.reshape(-1, *one.shape[1:])}


def _write(folder: Path, tensors: dict[str, torch.Tensor], spec: TinyInternVl) -> None:
    from safetensors.torch import save_file

    if spec.weights == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    halves = [names[::2], names[1::2]]
    places: dict[str, str] = {}
    for number, half in enumerate(halves, start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in half}, folder / file)
        places |= dict.fromkeys(half, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
