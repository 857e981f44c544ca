"""The JSON files of an InternVL that transformers' own class reads. Pure.

Source: transformers models/internvl (configuration, processor) and models/got_ocr2 (image
processor: arguments); OpenGVLab/InternVL internvl/train/dataset.py build_transform and
dynamic_preprocess (bicubic, ImageNet's mean and deviation, tiles), internvl_chat chat() (what ends
an answer).
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.internvl import InternVl
from llava_pack.checkpoint.native import PICTURE_WORDS, WRITTEN_CLASS
from llava_pack.convert.native_config import VIDEO_TOKEN
from llava_pack.convert.native_tokenizer import named_texts, told_tokens

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BICUBIC = 3
_PROCESSOR = "InternVLProcessor"
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def whole_config(
    config: Mapping[str, Any], made: InternVl, *, rows: int, image: int
) -> dict[str, Any]:
    """Return config.json.

    Args:
        config: as published.
        made: what it says.
        rows: of the embedding table, as it is written.
        image: id of the word that fills the place of a picture.
    """
    tied = bool(made.text.get("tie_word_embeddings", False))
    named = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    return {
        "architectures": [WRITTEN_CLASS],
        "downsample_ratio": made.ratio,
        "dtype": str(named),
        "image_seq_length": made.tile_tokens,
        "image_token_id": image,
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": dict(
            sorted({**made.text, "tie_word_embeddings": tied, "vocab_size": rows}.items())
        ),
        "tie_word_embeddings": tied,
        "vision_config": made.tower,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def generation(made: InternVl, published: Mapping[str, Any], end: int) -> dict[str, Any]:
    """Return generation_config.json: what ends an answer, the end of a turn first.

    Args:
        made: what config.json says.
        published: the file as it came.
        end: id of what ends a turn.
    """
    ends = [end, *_ids(published.get("eos_token_id")), *_ids(made.text.get("eos_token_id"))]
    named = {key: published.get(key, made.text.get(key)) for key in ("bos_token_id",)}
    return {
        **{key: value for key, value in named.items() if value is not None},
        "eos_token_id": list(dict.fromkeys(ends)),
    }


def _ids(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def image_processor(made: InternVl) -> dict[str, Any]:
    """Return preprocessor_config.json: tiles, and the small whole behind them."""
    fewest, most = made.tiles
    return {
        "crop_to_patches": most > 1,
        "image_processor_type": "GotOcr2ImageProcessor",
        "max_patches": most,
        "min_patches": fewest,
        **_prepared(made),
    }


def video_processor(made: InternVl) -> dict[str, Any]:
    """Return video_preprocessor_config.json, without which the processor finds no class for it."""
    return {"video_processor_type": "InternVLVideoProcessor", **_prepared(made)}


def _prepared(made: InternVl) -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(_MEAN),
        "image_std": list(_DEVIATION),
        "processor_class": _PROCESSOR,
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"height": made.side, "width": made.side},
    }


def processor(made: InternVl) -> dict[str, Any]:
    """Return processor_config.json: how many words a tile takes the place of."""
    return {"image_seq_length": made.tile_tokens, "processor_class": _PROCESSOR}


def tokenizer(config: Mapping[str, Any], data: bytes, language: str) -> dict[str, Any]:
    """Return tokenizer_config.json for a tokenizer that is read from `tokenizer.json`.

    Args:
        config: as published.
        data: `tokenizer.json`.
        language: the language model's type as published.
    """
    start, end, fill = PICTURE_WORDS
    length = config.get("model_max_length")
    return {
        "add_bos_token": bool(config.get("add_bos_token", language != "qwen2")),
        "add_eos_token": bool(config.get("add_eos_token", False)),
        "added_tokens_decoder": told_tokens(data),
        **named_texts(config, _NAMED),
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {
            "context_image_token": fill,
            "end_image_token": end,
            "start_image_token": start,
            "video_token": VIDEO_TOKEN,
        },
        **({"model_max_length": length} if isinstance(length, int) else {}),
        "padding_side": "left",
        "processor_class": _PROCESSOR,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
