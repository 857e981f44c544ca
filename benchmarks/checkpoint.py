"""Random checkpoints in LLaVA's original layout, as large as one likes.

    python benchmarks/checkpoint.py OUT --hidden 768 --layers 12

With `--tokenizer-model FILE` it has the vocabulary of a published model.

The model says nothing sensible, and never ends an answer early: right for measuring speed.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from llava_pack.checkpoint.expected import language_shapes, projector_shapes
from tests.support.checkpoints import TinyLlava, TinyTower, llava_config, make_llava, make_tower

UNSAID = 259
"""Ids below it end an answer, or are bytes, at which `transformers serve` breaks a stream off."""


def make(folder: Path, spec: TinyLlava) -> Path:
    """Write tower and model below `folder` and return the model's folder."""
    make_tower(folder / "clip-tiny", spec.tower)
    small = TinyLlava(vocabulary=min(spec.vocabulary, 1024))
    model_dir = make_llava(folder / "llava-v1-random", small)
    for path in model_dir.glob("pytorch_model*"):
        path.unlink()
    config = llava_config(spec)
    (model_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shapes = language_shapes(config) | projector_shapes(config)
    generator = torch.Generator().manual_seed(spec.seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) * 0.05
        tensors[name] = (values + ("norm" in name)).half()
    tensors["lm_head.weight"][:UNSAID] = 0  # a score that is never the highest
    torch.save(tensors, model_dir / "pytorch_model.bin")
    return model_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokenizer-model", type=Path)
    given = parser.parse_args()
    spec = TinyLlava(
        hidden=given.hidden,
        inner=given.hidden * 8 // 3 // 64 * 64,
        layers=given.layers,
        heads=given.hidden // 64,
        groups=given.hidden // 64,
        vocabulary=_size(given.tokenizer_model) if given.tokenizer_model else 1024,
        tower=TinyTower(width=64, inner=128, heads=2, picture=112),
    )
    model_dir = make(given.out, spec)
    if given.tokenizer_model:
        shutil.copyfile(given.tokenizer_model, model_dir / "tokenizer.model")
    print(model_dir)


def _size(tokenizer_model: Path) -> int:
    from sentencepiece import SentencePieceProcessor

    return int(SentencePieceProcessor(model_file=str(tokenizer_model)).get_piece_size())


if __name__ == "__main__":
    main()
