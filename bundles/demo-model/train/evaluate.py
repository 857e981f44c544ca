"""Measure the written demo: read the two repositories back and answer held-out questions.

This path shares nothing with training but the pictures: transformers' Llama and CLIP run the
files, and every answer is generated greedily and compared word for word.

    python bundles/demo-model/train/evaluate.py --precision nf4 --seed 77
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sentencepiece
import torch
from conversations import LLAVA_V1
from pictures import TOKENS, squared
from PIL import Image
from scenes import Item, held_out
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel, LlamaConfig, LlamaForCausalLM

HOME = Path(__file__).resolve().parent.parent
BATCH = 50
LONGEST_ANSWER = 48


class Demo:
    """The demo model as its files describe it."""

    def __init__(self, root: Path, precision: str) -> None:
        """Read both repositories below `root`; `precision` is fp32 or nf4."""
        folder = root / "llava-v1-demo"
        config = json.loads((folder / "config.json").read_bytes())
        tensors = _tensors(folder)
        head = "model.mm_projector."
        projector = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        self.projector = nn.Sequential(
            nn.Linear(config["mm_hidden_size"], config["hidden_size"]),
            nn.GELU(),
            nn.Linear(config["hidden_size"], config["hidden_size"]),
        )
        self.projector.load_state_dict(projector)
        shape = {k: v for k, v in config.items() if not k.startswith(("mm_", "model_type"))}
        shape = {k: v for k, v in shape.items() if k not in {"torch_dtype", "max_length"}}
        self.llama = LlamaForCausalLM(LlamaConfig(**shape)).float()
        rest = {k: v for k, v in tensors.items() if "mm_projector" not in k}
        self.llama.load_state_dict(rest)
        if precision == "nf4":
            _quantize(self.llama.model.layers)
        self.llama.eval()
        self.tower = CLIPModel.from_pretrained(root / "clip-demo", dtype=torch.float32).vision_model
        self.layer = config["mm_vision_select_layer"]
        self.processor = CLIPImageProcessor.from_pretrained(root / "clip-demo")
        self.pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))

    @torch.no_grad()
    def answers(self, asked: list[tuple[Image.Image, str]]) -> list[str]:
        """Return one greedy answer per picture and question."""
        texts: list[str] = []
        for start in range(0, len(asked), BATCH):
            texts += self._batch(asked[start : start + BATCH])
        return texts

    def _batch(self, asked: list[tuple[Image.Image, str]]) -> list[str]:
        pictures = [squared(picture) for picture, _ in asked]
        values = self.processor(pictures, return_tensors="pt")["pixel_values"]
        states = self.tower(values, output_hidden_states=True).hidden_states
        seen = self.projector(states[self.layer][:, 1:])
        assert seen.shape[1] == TOKENS
        look = self.llama.get_input_embeddings()
        before = look(torch.tensor([1, *self.pieces.encode(LLAVA_V1)]))
        prompts = [
            torch.cat([before, picture, look(torch.tensor(self._after(text)))])
            for (_, text), picture in zip(asked, seen, strict=True)
        ]
        length = max(len(prompt) for prompt in prompts)
        values = torch.zeros(len(prompts), length, before.shape[1])
        mask = torch.zeros(len(prompts), length, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            values[row, length - len(prompt) :] = prompt
            mask[row, length - len(prompt) :] = 1
        ids = self.llama.generate(
            inputs_embeds=values,
            attention_mask=mask,
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
        )
        return [self._text(row) for row in ids.tolist()]

    def _after(self, question: str) -> list[int]:
        return list(self.pieces.encode(f"\n{question} ASSISTANT:"))

    def _text(self, ids: list[int]) -> str:
        ended = ids[: ids.index(2)] if 2 in ids else ids
        return str(self.pieces.decode(ended)).strip()


def report(demo: Demo, items: list[Item], name: str) -> list[str]:
    """Print the share of right answers, in all and by kind; return the wrong ones."""
    right, seen, misses = Counter[str](), Counter[str](), []
    answers = demo.answers([(item.picture, item.question) for item in items])
    for item, answer in zip(items, answers, strict=True):
        seen[item.kind] += 1
        right[item.kind] += answer == item.answer
        if answer != item.answer:
            misses.append(f"{item.question} | {item.answer} | {answer}")
    parts = ", ".join(f"{kind} {right[kind]}/{seen[kind]}" for kind in sorted(seen))
    print(f"{name}: {right.total()}/{len(items)} = {right.total() / len(items):.1%} ({parts})")
    return misses


def main() -> None:
    """Measure plain, black and swapped pictures."""
    parser = argparse.ArgumentParser(description="Measure the demo model on held-out pictures.")
    parser.add_argument("--model", type=Path, default=HOME, help="folder of both repositories")
    parser.add_argument("--precision", choices=("fp32", "nf4"), default="fp32")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--misses", action="store_true", help="print the wrong answers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    demo = Demo(options.model, options.precision)
    items = held_out(options.items, options.seed)
    misses = report(demo, items, options.precision)
    black = [_with(item, Image.new("RGB", item.picture.size)) for item in items]
    report(demo, black, "black picture")
    others = [item.picture for item in items]
    Random(options.seed).shuffle(others)
    swapped = [_with(item, other) for item, other in zip(items, others, strict=True)]
    report(demo, swapped, "swapped pictures")
    if options.misses:
        print("\n".join(misses))


def _with(item: Item, picture: Image.Image) -> Item:
    return Item(picture, item.question, item.answer, item.kind)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    index: dict[str, Any] = json.loads((folder / "pytorch_model.bin.index.json").read_bytes())
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        tensors.update(torch.load(folder / file, weights_only=True))
    assert set(tensors) == set(index["weight_map"])
    return {name: value.float() for name, value in tensors.items()}


def _quantize(layers: nn.Module) -> None:
    """Replace every linear map by bitsandbytes' nf4 with doubly quantized scales."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in list(layers.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear:
                continue
            small = Linear4bit(
                child.in_features,
                child.out_features,
                bias=False,
                compute_dtype=torch.float32,
                compress_statistics=True,
                quant_type="nf4",
            )
            small.weight = Params4bit(
                child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            setattr(module, name, small.to("cpu"))


if __name__ == "__main__":
    main()
