"""nf4 and int8 ahead of time: the language model's linears, tensor by tensor, on the CPU.

What is written is what transformers saves of a bitsandbytes model, taken before any forward pass
(a pass on a CPU repacks the weights). Memory is that of one tensor, however deep the model.

Source: transformers quantizers/quantizer_bnb_4bit.py and quantizer_bnb_8bit.py.
"""

import importlib.util
import json
import logging
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path

from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.convert import quantized_tensors
from llava_pack.convert.late_header import LateHeaderWriter, Written
from llava_pack.convert.native import native_folder
from llava_pack.convert.output import whole_file, write_texts
from llava_pack.convert.parts import Parts
from llava_pack.convert.quantized_tensors import Group
from llava_pack.convert.shards import SHARD_BYTES, SourceTensor, in_shards, shard_name, write_index
from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.precision import Quantized
from llava_pack.format.progress import Progress, Silent

_LINEAR = re.compile(r"language_model\.model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


def need_torch(what: str) -> None:
    """Check that the packages for quantizing and merging are there, without loading them.

    Raises:
        UsageError: one is missing.
    """
    missing = [
        name
        for name in ("torch", "transformers", "bitsandbytes")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UsageError(
            f"needs {', '.join(missing)}, which this Python does not have",
            subject=what,
            hint='in a clone of llava-pack: uv tool install --force ".[quantize]"',
        )


def quantize(
    parts: Parts,
    tower_dir: Path,
    out_dir: Path,
    *,
    precision: Quantized,
    chat_template: str,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write a checkpoint as transformers-native folder with quantized linears; return the files.

    Everything but the language model's linears is written in 16 bits. The same input gives the
    same bytes. What was written is read again and compared.

    Args:
        parts: opened writable.
        tower_dir: its tower.
        out_dir: an existing folder; files of the same names are replaced.
        precision: `nf4` with double quantization, or `int8`.
        chat_template: in Jinja.
        shard_bytes: upper bound of each weight file.
        progress: told the bytes of the source as they are done.

    Raises:
        UsageError: torch, transformers or bitsandbytes is missing.
        CheckpointError: the checkpoint is damaged, or has a part that transformers' LLaVA has not.
        IntegrityError: what was written reads differently.
        SpaceError: the disk is full.
    """
    need_torch(f"--quantize {precision}")
    _quiet()
    with (
        native_folder(
            parts, tower_dir, chat_template=chat_template, precision=precision, writable=True
        ) as folder,
        _workers() as pool,
    ):
        wide = json.loads(folder.texts["config.json"])["dtype"] == "bfloat16"
        dtype = "BF16" if wide else "F16"
        groups = [_group(tensor, precision, dtype, pool) for tensor in folder.tensors]
        paths = _write(groups, out_dir, shard_bytes, progress or Silent())
        return [*write_texts(folder.texts, out_dir), *paths]


def _quiet() -> None:
    """Keep bitsandbytes from asking a hub for kernels, and from telling that there are none."""
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Return a thread for each core, and keep torch from dividing the work of one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as p:
            yield p
    finally:
        torch.set_num_threads(threads)


def _group(
    tensor: SourceTensor, precision: Quantized, dtype: str, pool: ThreadPoolExecutor
) -> Group:
    if not _LINEAR.fullmatch(tensor.entry.name):
        return quantized_tensors.kept(tensor, dtype)
    make = quantized_tensors.nf4 if precision == "nf4" else quantized_tensors.int8
    return make(tensor, dtype, pool)


def _write(
    groups: Sequence[Group], out_dir: Path, shard_bytes: int, progress: Progress
) -> list[Path]:
    sized = [(group.source.entry.name, group.size_bytes, group) for group in groups]
    shards = in_shards(sized, shard_bytes)
    progress.start("quantizing", sum(group.source.entry.size_bytes for group in groups))
    paths: list[Path] = []
    places: dict[str, str] = {}
    total_bytes = 0
    for number, shard in enumerate(shards, start=1):
        path = out_dir / shard_name(number, len(shards))
        written = _write_shard(path, shard, progress)
        check_reloaded(path, written)
        paths.append(path)
        places |= {one.entry.name: path.name for one in written}
        total_bytes += sum(one.entry.size_bytes for one in written)
    progress.done()
    if len(shards) > 1:
        paths += write_index(places, out_dir, total_bytes)
    return paths


def _write_shard(path: Path, shard: Sequence[Group], progress: Progress) -> list[Written]:
    with whole_file(path) as out:
        writer = LateHeaderWriter(out, [e.name for group in shard for e in group.planned])
        for group in shard:
            for entry, data in group.make():
                writer.add(entry, data)
            group.source.release()
            progress.advance(group.source.entry.size_bytes)
        return writer.finish()


def check_reloaded(path: Path, written: Sequence[Written]) -> None:
    """Read a file's header and every tensor of it again.

    Raises:
        IntegrityError: names, types, shapes or bytes are not those that were written.
    """
    with SafetensorsFile(path) as file:
        found = [(entry.name, entry.dtype, entry.shape) for entry in file.entries]
        meant = [(one.entry.name, one.entry.dtype, one.entry.shape) for one in written]
        if found != meant:
            raise IntegrityError("lists tensors other than those written", subject=path.name)
        for entry, one in zip(file.entries, written, strict=True):
            if zlib.crc32(file.read(entry)) != one.crc:
                raise IntegrityError(
                    f"tensor {entry.name!r} does not read back as it was written",
                    subject=path.name,
                    hint="check the disk, then build again",
                )
            file.release(entry)
