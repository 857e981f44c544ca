"""Small byte-level tokenizers in the files of Qwen's and of Llama 3's, trained where they are asked for.

Source: the published `tokenizer_config.json` of Qwen/Qwen2-0.5B-Instruct (its keys, its tokens) and
of meta-llama/Meta-Llama-3-8B-Instruct; `tokenizer.json` of the latter (what begins a prompt).
"""

import json
from pathlib import Path
from typing import Any

from tests.support.chat_templates import LLAMA_3, QWEN

QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
LLAMA_3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
)
_CORPUS = (
    "You are a helpful assistant.", "What is in the picture? The star is red, the circle is blue.",
    "user\nassistant\nsystem\n\n", "größe 星 и звезда \U0001f600\U0001f680 don't 2024 300",
)  # fmt: skip


def write_qwen(folder: Path, *, plain_word: str = "<tool>") -> Path:
    """Write `vocab.json` and `merges.txt` with a special token that is not special to readers."""
    model = _trained()
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda pair: pair[1]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    words = [*((token, True) for token in QWEN_TOKENS), (plain_word, False)]
    decoder = {
        str(len(vocabulary) + place): _token(word, special=special)
        for place, (word, special) in enumerate(words)
    }
    _write_config(
        folder,
        {
            "add_prefix_space": False,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<image>"],
            "bos_token": None,
            "chat_template": QWEN,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    return folder


def write_llama_3(folder: Path) -> Path:
    """Write `tokenizer.json` with the token that begins every prompt."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    trained = _trained()
    merges = [tuple(pair) for pair in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=trained["vocab"], merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(one, special=True) for one in LLAMA_3_TOKENS])
    begin = LLAMA_3_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(
        folder,
        {
            "bos_token": begin,
            "chat_template": LLAMA_3,
            "eos_token": "<|eot_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    return folder


def _trained() -> dict[str, Any]:
    """Return vocabulary and merges of a small model."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _token(text: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text, **flags, "special": special}


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
