"""LLaVA's own model worker on a CPU, in a type that it does not offer there, without a controller.

    PYTHON benchmarks/llava_worker.py float32|bfloat16|float16 PORT MODEL_DIR TOWER_DIR

Run by benchmarks/beside.py with the Python of LLaVA's own environment (`make test-upstream` makes
one). LLaVA loads in float16 and sends pictures in float16; both are replaced by the type given. The
heartbeat, which waits for a controller before every request, is left out.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any


class TorchIn:
    """torch, with another type in place of float16."""

    def __init__(self, torch: Any, dtype: Any) -> None:
        self._torch, self.float16 = torch, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


def main() -> None:
    """Serve until killed."""
    import torch
    import uvicorn
    from llava.serve import model_worker

    name, port, model_dir, tower_dir = sys.argv[1:]
    dtype = getattr(torch, name)
    loaded = model_worker.load_pretrained_model

    def load(*args: Any, **kwargs: Any) -> Any:
        tokenizer, model, processor, context = loaded(*args, **kwargs)
        return tokenizer, model.to(dtype), processor, context

    model_worker.load_pretrained_model = load
    model_worker.torch = TorchIn(torch, dtype)
    model_worker.ModelWorker.send_heart_beat = lambda _self: None
    with tempfile.TemporaryDirectory() as folder:
        model_worker.worker = model_worker.ModelWorker(
            "", "", "w", True, str(_named(Path(model_dir), tower_dir, Path(folder))), None, None,
            False, False, "cpu",
        )  # fmt: skip
        model_worker.args = type("Arguments", (), {"limit_model_concurrency": 5})
        model_worker.model_semaphore = None
        uvicorn.run(model_worker.app, host="127.0.0.1", port=int(port), log_level="warning")


def _named(model_dir: Path, tower_dir: str, folder: Path) -> Path:
    """Return the checkpoint with the path of its tower in config.json."""
    linked = folder / model_dir.name
    linked.mkdir()
    for path in model_dir.iterdir():
        if path.name != "config.json":
            (linked / path.name).symlink_to(path)
    config = json.loads((model_dir / "config.json").read_bytes())
    config |= {"mm_vision_tower": tower_dir, "architectures": ["LlavaLlamaForCausalLM"]}
    (linked / "config.json").write_text(json.dumps(config))
    return linked


if __name__ == "__main__":
    main()
