"""Record what LLaVA's own code makes of a tiny checkpoint of every family.

Runs in an environment of its own (`make test-upstream` makes it), never in llava-pack's:

    python tests/upstream/record_goldens.py --out tests/upstream/goldens [--family NAME ...]

Everything is held in 32 bits: the loader's `torch_dtype=float16` is replaced, because rotary
tables that were made in 16 bits would hide differences that matter. Attention is the plain one:
transformers 4.37 forgets Mistral's window in its fast one.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
)
from llava.conversation import conv_templates
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from PIL import Image
from transformers import PreTrainedModel

from tests.support.families import CHATS, FAMILIES, LOGITS, MAX_TOKENS, Chat, Family, make, rgb

PACKAGES = (
    "llava-torch", "transformers", "tokenizers", "torch", "pillow", "sentencepiece", "peft", "numpy",
)  # fmt: skip
TEMPLATES = (
    "llava_v1", "vicuna_v1", "mistral_instruct", "llava_llama_2", "chatml_direct", "mpt", "llava_v0",
    "plain",
)  # fmt: skip


def main() -> None:
    """Write one file for each family, and one with the prompts of every template."""
    parser = argparse.ArgumentParser(description="Record LLaVA's own answers, family by family.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _load_wide()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.family or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            _write(options.out / f"{name}.json", _recorded(FAMILIES[name], Path(folder)))
    prompts = {name: _prompts(name) for name in TEMPLATES}
    _write(options.out / "prompts.json", {"versions": _versions(), "prompts": prompts})


def _recorded(family: Family, folder: Path) -> dict[str, Any]:
    made = make(family, folder)
    base = str(made.base) if made.base else None
    tokenizer, model, processor, _ = load_pretrained_model(
        str(made.model), base, family.name, device="cpu"
    )
    upstream = Upstream(tokenizer, model.float().eval(), processor, family.conv_mode)
    return {
        "versions": _versions(),
        "chats": {name: upstream.answer(chat) for name, chat in family.asked.items()},
    }


class Upstream:
    """LLaVA's tokenizer, model and image processor, as its loader returns them."""

    def __init__(self, tokenizer: Any, model: Any, processor: Any, conv_mode: str) -> None:
        self.tokenizer, self.model, self.processor = tokenizer, model, processor
        self.conv_mode = conv_mode

    @torch.inference_mode()
    def answer(self, chat: Chat) -> dict[str, Any]:
        """Return the prompt's ids, a digest of the pixels, the logits and the greedy tokens."""
        wrapped = bool(getattr(self.model.config, "mm_use_im_start_end", False))
        prompt = _prompt(self.conv_mode, chat, wrapped=wrapped)
        ids = tokenizer_image_token(prompt, self.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
        given: dict[str, Any] = {}
        digest = None
        if chat.picture:
            image = Image.frombytes("RGB", chat.picture, rgb(chat.picture))
            pixels = process_images([image], self.processor, self.model.config)
            given = {"images": pixels, "image_sizes": [image.size]}
            digest = hashlib.sha256(pixels[0].contiguous().numpy().tobytes()).hexdigest()
        logits = self.model(ids[None], **given).logits[0, -1].contiguous().numpy()
        produced = self.model.generate(
            ids[None],
            **given,
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=MAX_TOKENS,
            use_cache=True,
        )[0].tolist()
        if produced[0] == self.tokenizer.bos_token_id:  # transformers 4.37's placeholder
            produced = produced[1:]
        return {
            "ids": ids.tolist(),
            "pixels": digest,
            "logits": base64.b64encode(logits[:LOGITS].astype("<f4").tobytes()).decode("ascii"),
            "tokens": produced,
        }


def _prompt(conv_mode: str, chat: Chat, *, wrapped: bool = False) -> str:
    """Return the prompt as LLaVA's command line writes it."""
    conversation = conv_templates[conv_mode].copy()
    shown = DEFAULT_IMAGE_TOKEN
    if wrapped:
        shown = DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN
    for number, text in enumerate(chat.turns):
        seen = f"{shown}\n{text}" if chat.picture and not number else text
        conversation.append_message(conversation.roles[number % 2], seen)
    conversation.append_message(conversation.roles[1], None)
    return str(conversation.get_prompt())


def _prompts(conv_mode: str) -> dict[str, str]:
    # Upstream's "plain" is for training on one turn: it has no separator for a second.
    names = ("square",) if conv_mode == "plain" else ("square", "turns", "text")
    return {name: _prompt(conv_mode, CHATS[name]) for name in names}


def _load_wide() -> None:
    """Make every loading of a language model give 32 bits and plain attention."""
    published = PreTrainedModel.from_pretrained.__func__

    def wide(cls: type, *positional: Any, **named: Any) -> Any:
        if "torch_dtype" in named:
            named |= {"torch_dtype": torch.float32, "attn_implementation": "eager"}
        return published(cls, *positional, **named)

    PreTrainedModel.from_pretrained = classmethod(wide)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with one line for each list of numbers and each text."""
    text = json.dumps(value, indent=1, ensure_ascii=True)
    flat = re.sub(r"\[[\s\d,-]*\]", lambda found: re.sub(r"\s+", "", found[0]), text)
    path.write_text(flat + "\n", "utf-8")


if __name__ == "__main__":
    main()
