"""How long `plan` takes: cold (nothing cached, every list asked of the index) and warm.

Run: python benchmarks/plan.py [--target PROFILE.json] [--rounds 3]

The model is a folder that looks like the published llava-v1.5-7b, so the Hub is not asked; the
package index is the configured one. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tests/fixtures/targets/l40s-driver-580.json"
CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32,
}  # fmt: skip
VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 24, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
RECIPE = """
name = "llava-v1.5-7b"
title = "LLaVA 7b"
[licence]
id = "Llama-2-Community"
url = "https://ai.meta.com/llama/license/"
[model]
source = "dir:model"
name = "llava-v1.5-7b"
conv_mode = "llava_v1"
[vision_tower]
source = "dir:tower"
name = "clip"
"""


def write_recipe(root: Path) -> Path:
    for name, config, weights_bytes in (
        ("model", CONFIG, 13_518_798_848),
        ("tower", {"model_type": "clip", "vision_config": VISION}, 1_711_974_081),
    ):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
        (root / name / "preprocessor_config.json").write_text("{}")
        (root / name / "tokenizer.model").write_bytes(b"")
        with (root / name / "pytorch_model.bin").open("wb") as stream:
            stream.truncate(weights_bytes)
    recipe = root / "recipe.toml"
    recipe.write_text(RECIPE)
    return recipe


def seconds(recipe: Path, target: Path, caches: Path) -> float:
    command = [sys.executable, "-m", "llava_pack", "plan", str(recipe), "--json"]
    command += ["--python", "target", "--target", str(target)]
    environ = {"UV_CACHE_DIR": str(caches / "uv"), "LLAVA_PACK_CACHE": str(caches / "own")}
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environ})
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_recipe(Path(folder))
        for number in range(options.rounds):
            caches = Path(folder, f"caches-{number}")
            cold.append(seconds(recipe, options.target, caches))
            warm.append(seconds(recipe, options.target, caches))
    figures = {
        "target": options.target.stem,
        "cold_s": [round(one, 2) for one in cold],
        "cold_median_s": round(statistics.median(cold), 2),
        "warm_s": [round(one, 2) for one in warm],
        "warm_median_s": round(statistics.median(warm), 2),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
