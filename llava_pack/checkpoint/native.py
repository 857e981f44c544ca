"""Models of transformers' own classes that only other runtimes serve: packed as they are.

Nothing of their network is known here. What a pack needs is asked for: a class, a tokenizer, a
processor, a chat template of their own; what they take of memory is guessed from a few sizes.

Source: transformers tokenization_utils_base.py and processing_utils.py (where a chat template is);
OpenGVLab/InternVL internvl/train/constants.py (its words for a picture).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.config import read_config
from llava_pack.checkpoint.defects import Defect
from llava_pack.checkpoint.internvl import END, internvl
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.special_tokens import check_tokenizer, read_special_tokens
from llava_pack.checkpoint.tensors import TensorEntry

PICTURE_WORDS = ("<img>", "</img>", "<IMG_CONTEXT>")
"""Begin, end and fill the place of a picture in InternVL's prompts."""
WRITTEN_CLASS = "InternVLForConditionalGeneration"
"""What an InternVL of its authors' is packed as."""
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_INLINE = ("tokenizer_config.json", "processor_config.json")
_TABLE = re.compile(r"(?:.+\.)?embed_tokens\.weight")
_LAYER = re.compile(r"(?:(?:.+\.)?(?:language_model|text_model|model)\.)layers\.(\d+)\.")
_TEXT_PARTS = ("text_config", "llm_config")
_WIDER = 4
"""How much wider a block is inside, where nobody says it. Source: Attention Is All You Need."""


def class_of(kind: Kind, config: Mapping[str, Any]) -> str:
    """Return the class of transformers that a packed folder names, empty where it names none.

    >>> class_of(Kind.NATIVE, {"architectures": ["Qwen2_5_VLForConditionalGeneration"]})
    'Qwen2_5_VLForConditionalGeneration'
    """
    if kind is Kind.INTERNVL:
        return WRITTEN_CLASS
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def stated_dtype(config: Mapping[str, Any]) -> str:
    """Return the type that a model's weights are in, as config.json says; empty where it does not.

    >>> stated_dtype({"text_config": {"torch_dtype": "bfloat16"}})
    'bfloat16'
    """
    parts = (config, *(config.get(name) for name in _TEXT_PARTS))
    told = (part for part in parts if isinstance(part, Mapping))
    named = (part.get("dtype") or part.get("torch_dtype") for part in told)
    return next((str(one) for one in named if one), "")


def native_text_defects(folder: Path, kind: Kind) -> list[Defect]:
    """Return what the small files lack that no other runtime would make up for.

    Raises:
        CheckpointError: the tokenizer of an InternVL of its authors' cannot be read.
    """
    if kind is Kind.INTERNVL:
        check_tokenizer(folder)
        tokens = read_special_tokens(folder)
        lacking = [one for one in (*PICTURE_WORDS, END) if tokens and one not in tokens.texts]
        if lacking:
            return [Defect("fail", "tokenizer_config.json", lacking_words(lacking))]
        return []
    if kind is not Kind.NATIVE or any((folder / name).is_file() for name in _TEMPLATES):
        return []
    if any(read_config(folder / name).get("chat_template") for name in _INLINE):
        return []
    hint = "put the publisher's chat_template.jinja beside it"
    return [Defect("fail", _TEMPLATES[0], "is missing: it has no chat template of its own", hint)]


def lacking_words(words: Iterable[str]) -> str:
    """Return what is said of a vocabulary without words that stand in every prompt."""
    return f"the vocabulary lacks {', '.join(words)}, which stand in every prompt"


def stored_values(
    kind: Kind, config: Mapping[str, Any], entries: Mapping[str, TensorEntry] | None = None
) -> Mapping[str, Any]:
    """Return the sizes of a language model that llava-pack's own engine does not run.

    Args:
        kind: one of `STORED`.
        config: config.json.
        entries: the tensors by name, where they are known.

    Raises:
        CheckpointError: an InternVL is one that transformers' own class cannot be.
    """
    return internvl(config).text if kind is Kind.INTERNVL else native_values(config, entries)


def native_values(
    config: Mapping[str, Any], entries: Mapping[str, TensorEntry] | None = None
) -> dict[str, Any]:
    """Return the sizes of a language model that keys and values are counted with.

    What config.json leaves to its class is taken from the tensors where they are known; without
    the heads, each token is as wide in the cache as in the model, which is the most it can be.

    Args:
        config: config.json, with the language model's part in it or flat.
        entries: the tensors by name.

    >>> native_values({"text_config": {"hidden_size": 64, "num_attention_heads": 4}})["head_dim"]
    16
    """
    parts = (config.get(key) for key in _TEXT_PARTS)
    text = next((one for one in parts if isinstance(one, Mapping)), config)
    values = {key: value for key, value in text.items() if type(value) is int and value > 0}
    held = entries or {}
    table = next((one for name, one in held.items() if _TABLE.fullmatch(name)), None)
    if table is not None and len(table.shape) == 2:
        values.setdefault("vocab_size", table.shape[0])
        values.setdefault("hidden_size", table.shape[1])
    layers = {int(match[1]) for name in held if (match := _LAYER.match(name))}
    if layers:
        values.setdefault("num_hidden_layers", max(layers) + 1)
    heads = values.setdefault("num_attention_heads", 1)
    if "hidden_size" in values:
        values.setdefault("head_dim", values["hidden_size"] // heads)
        values.setdefault("intermediate_size", _WIDER * values["hidden_size"])
    return values
