"""Record what LLaVA's own code answers with the demo model, token by token.

Runs in an environment of its own (LLaVA 1.2.2.post1, transformers 4.37.2, tokenizers 0.15.1,
numpy below 2, torch for CPU), never in llava-pack's:

    python tests/upstream/record_demo_goldens.py --out tests/upstream/goldens/demo.json

Pictures travel inside the file as PNG, so the comparison needs neither this script nor Pillow's
drawing to stay the same.
"""

from __future__ import annotations

import argparse
import base64
import importlib.metadata
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bundles" / "demo-model"))

import torch
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from PIL import Image
from scenes import held_out

DEMO = Path(__file__).resolve().parents[2] / "bundles" / "demo-model"
LONGEST = 48
SEED = 4242
PACKAGES = ("llava-torch", "transformers", "tokenizers", "torch", "pillow", "sentencepiece")


def main() -> None:
    """Load both repositories from a temporary copy and write the answers as JSON."""
    parser = argparse.ArgumentParser(description="Record LLaVA's own answers with the demo model.")
    parser.add_argument("--model", type=Path, default=DEMO / "llava-v1-demo")
    parser.add_argument("--tower", type=Path, default=DEMO / "clip-demo")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copied = _pointed_at(options.model, options.tower, Path(folder))
        tokenizer, model, processor, _ = load_pretrained_model(
            str(copied), None, copied.name, device_map=None, device="cpu"
        )
    upstream = Upstream(tokenizer, model.float().eval(), processor)
    recorded = {
        "what": "greedy answers of LLaVA's own code, fp32 on CPU, conversation llava_v1",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "image_token_index": IMAGE_TOKEN_INDEX,
        "max_new_tokens": LONGEST,
        "chats": [upstream.chat(**asked) for asked in _chats()],
    }
    options.out.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", "utf-8")


class Upstream:
    """LLaVA's tokenizer, model and image processor, as its loader returns them."""

    def __init__(self, tokenizer: Any, model: Any, processor: Any) -> None:
        self.tokenizer, self.model, self.processor = tokenizer, model, processor

    def chat(self, name: str, questions: list[str], picture: Image.Image | None) -> dict[str, Any]:
        """Return every turn's prompt, input ids (the picture as -200), output ids and text."""
        conversation = conv_templates["llava_v1"].copy()
        turns = []
        for number, question in enumerate(questions):
            shown = picture is not None and number == 0
            text = f"{DEFAULT_IMAGE_TOKEN}\n{question}" if shown else question
            conversation.append_message(conversation.roles[0], text)
            conversation.append_message(conversation.roles[1], None)
            turn = self._answer(conversation.get_prompt(), picture)
            conversation.messages[-1][-1] = turn["text"]
            turns.append({"question": question, **turn})
        return {"name": name, "png": _png(picture) if picture else None, "turns": turns}

    def _answer(self, prompt: str, picture: Image.Image | None) -> dict[str, Any]:
        ids = tokenizer_image_token(prompt, self.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
        images = process_images([picture], self.processor, self.model.config) if picture else None
        with torch.inference_mode():
            produced = self.model.generate(
                ids[None],
                images=images,
                do_sample=False,
                temperature=None,
                top_p=None,
                max_new_tokens=LONGEST,
                use_cache=True,
            )
        output = produced[0].tolist()
        if output[0] == self.tokenizer.bos_token_id:  # transformers 4.37's placeholder
            output = output[1:]
        return {
            "prompt": prompt,
            "input_ids": ids.tolist(),
            "output_ids": output,
            "text": self.tokenizer.decode(output, skip_special_tokens=True).strip(),
        }


def _chats() -> list[dict[str, Any]]:
    """Return eight pictures of different proportions, a chat of two turns, and one of only text."""
    items = held_out(40, SEED)
    wide = [item for item in items if item.picture.width > 1.25 * item.picture.height]
    tall = [item for item in items if item.picture.height > 1.25 * item.picture.width]
    square = [item for item in items if item.picture.width == item.picture.height]
    chats: list[dict[str, Any]] = [
        {
            "name": f"held-out {item.picture.width}x{item.picture.height}",
            "questions": [item.question],
            "picture": item.picture,
        }
        for item in (*wide[:3], *tall[:3], *square[:2])
    ]
    shape = Image.new("RGB", (200, 120), (255, 255, 255))
    shape.paste((255, 0, 0), (70, 25, 140, 95))
    followed = ["What is in this picture?", "What colour is the square?"]
    chats.append({"name": "two turns", "questions": followed, "picture": shape})
    chats.append(
        {"name": "only text", "questions": ["Hello!", "What can you do?"], "picture": None}
    )
    return chats


def _pointed_at(model: Path, tower: Path, folder: Path) -> Path:
    """Copy the model and name the local tower in its configuration, as an installer would."""
    copied = folder / model.name
    shutil.copytree(model, copied)
    config = json.loads((copied / "config.json").read_bytes())
    config["mm_vision_tower"] = str(tower.resolve())
    (copied / "config.json").write_text(json.dumps(config), "utf-8")
    return copied


def _png(picture: Image.Image) -> str:
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode("ascii")


if __name__ == "__main__":
    main()
