"""Make the demo model: pictures, vision tower, vocabulary, language model, files.

Run it with torch, transformers, sentencepiece and pillow installed:

    python bundles/demo-model/train/train.py --out somewhere

Everything is drawn from one seed. Floating-point sums differ between processors and library
versions, so another machine gives another model of the same quality, not the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from checkpoint import write_model, write_tower
from language import Material, train_language
from pictures import make_pictures
from tower import tower_features, train_tower
from vocabulary import train_vocabulary

PICTURES = 20_000


def main() -> None:
    """Train and write both repositories below `--out`."""
    options = _options()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter()
    pictures = make_pictures(PICTURES, options.seed)
    print(f"pictures: {time.perf_counter() - clock:.0f} s", flush=True)
    clip = train_tower(pictures, options.seed)
    features = tower_features(clip, pictures).half()
    print(f"tower: {time.perf_counter() - clock:.0f} s", flush=True)
    write_tower(options.out / "clip-demo", clip)
    material = Material(train_vocabulary(options.seed), pictures, features, clip)
    model = train_language(material, options.seed)
    write_model(options.out / "llava-v1-demo", model, material.vocabulary)
    print(f"all: {time.perf_counter() - clock:.0f} s", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train llava-pack's demo model from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder for both repositories")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="more only on an idle machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
