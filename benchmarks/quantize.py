"""Rate of quantizing ahead, beside bitsandbytes' own quantize_4bit, on all cores.

    python benchmarks/quantize.py --layers 2
    python benchmarks/quantize.py --shape 7b          # 13 GB in, 4 GB out; looks at the disk first

The weights are noise in the shape of LLaVA-1.5-7B. Both quantize the same matrices in one process;
the ratio means something, the rates depend on the machine. Peak memory is RssAnon + RssShmem.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from llava_pack.checkpoint.expected import language_shapes, projector_shapes
from llava_pack.checkpoint.safetensors_file import render_header
from llava_pack.checkpoint.tensors import TensorEntry
from tests.support.checkpoints import TinyLlava, TinyTower, llava_config, make_llava, make_tower

SHAPE_7B = TinyLlava(hidden=4096, inner=11008, heads=32, groups=32, vocabulary=32000)
DEPTH_7B = 32
SPARE_BYTES = 2 << 30


def spec_of(layers: int) -> TinyLlava:
    return TinyLlava(
        hidden=SHAPE_7B.hidden,
        inner=SHAPE_7B.inner,
        layers=layers,
        heads=SHAPE_7B.heads,
        groups=SHAPE_7B.groups,
        vocabulary=SHAPE_7B.vocabulary,
        tower=TinyTower(),
    )


def entries_of(layers: int) -> list[TensorEntry]:
    config = llava_config(spec_of(layers))
    shapes = language_shapes(config) | projector_shapes(config)
    return [TensorEntry(name, "F16", shape) for name, shape in shapes.items()]


def largest_bytes() -> int:
    return max(entry.size_bytes for entry in entries_of(1))


def without_weights(folder: Path, *, layers: int) -> Path:
    """Write `model` and `tower` of 7B shape, and return the model's folder, which lacks weights."""
    spec = spec_of(layers)
    make_tower(folder / "tower", spec.tower)
    model_dir = make_llava(folder / "model", TinyLlava())
    for path in model_dir.glob("pytorch_model*"):
        path.unlink()
    (model_dir / "config.json").write_text(json.dumps(llava_config(spec)))
    return model_dir


def sparse_checkpoint(folder: Path, *, layers: int) -> int:
    """Write the same with weights that are a hole; return their bytes."""
    model_dir = without_weights(folder, layers=layers)
    entries = entries_of(layers)
    total_bytes = sum(entry.size_bytes for entry in entries)
    header = render_header(entries)
    with (model_dir / "model.safetensors").open("wb") as out:
        out.write(header)
        out.truncate(len(header) + total_bytes)
    return total_bytes


def noisy_checkpoint(folder: Path, *, layers: int) -> int:
    """Write the same with noise: one matrix of it, repeated."""
    import torch

    total_bytes = sparse_checkpoint(folder, layers=layers)
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(1 << 24, generator=generator) * 0.02).half().numpy().tobytes()
    path = folder / "model" / "model.safetensors"
    begin = path.stat().st_size - total_bytes
    with path.open("r+b") as out:
        out.seek(begin)
        left = total_bytes
        while left:
            left -= out.write(noise[:left])
    return total_bytes


def rss_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


class Peak:
    """The most memory that the process had inside the block."""

    def __enter__(self) -> Self:
        self.bytes, self._stop = rss_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, rss_bytes())


def alone(model_dir: Path) -> float:
    """Return the seconds that quantize_4bit takes for every linear, and nothing else."""
    import torch
    from bitsandbytes import functional

    from llava_pack.checkpoint.safetensors_file import SafetensorsFile

    seconds = 0.0
    with SafetensorsFile(model_dir / "model.safetensors", writable=True) as file:
        for entry in file.entries:
            if not entry.name.endswith("_proj.weight"):
                continue
            weight = torch.frombuffer(file.read(entry), dtype=torch.float16).reshape(entry.shape)
            began_s = time.perf_counter()
            functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
            seconds += time.perf_counter() - began_s
            file.release(entry)
    return seconds


def main() -> None:
    from llava_pack.convert.parts import original_parts
    from llava_pack.convert.quantize import quantize

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["7b"])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    layers = DEPTH_7B if given.shape else given.layers
    needed = round(sum(entry.size_bytes for entry in entries_of(layers)) * 1.4) + SPARE_BYTES
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise SystemExit(f"needs {needed / 1e9:.0f} GB in {folder}, {free / 1e9:.0f} are free")
        total_bytes = noisy_checkpoint(folder, layers=layers)
        (folder / "out").mkdir()
        reference_s = alone(folder / "model")
        began_s = time.perf_counter()
        with Peak() as peak, original_parts(folder / "model", writable=True) as parts:
            quantize(parts, folder / "tower", folder / "out", precision="nf4", chat_template="")
        took_s = time.perf_counter() - began_s
        out_bytes = sum(path.stat().st_size for path in (folder / "out").glob("*.safetensors"))
    print(f"{layers} layers of 7B shape, {total_bytes / 1e9:.2f} GB of fp16")
    print(f"quantize_4bit alone   {reference_s:8.1f} s")
    print(f"quantizing ahead      {took_s:8.1f} s   {reference_s / took_s:.2f} x its rate")
    print(f"written               {out_bytes / total_bytes:8.1%} of the fp16 bytes")
    largest = largest_bytes() / 1e9
    print(f"peak memory           {peak.bytes / 1e9:8.2f} GB, largest tensor {largest:.2f} GB")


if __name__ == "__main__":
    main()
