"""Converting published pickles: rate beside a plain copy, and memory.

    python benchmarks/convert.py --size-gb 2 --folder /tmp

Both write to the same disk and wait for it; the page cache is warm for both.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.checkpoints import write_weights
from tests.support.pickles import Stored

TENSOR_BYTES = 64 << 20
CONVERT = """
import json, sys, time
from pathlib import Path
from llava_pack.convert.shards import to_safetensors
def peak():  # ru_maxrss would be that of the parent
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
before = peak()
began = time.perf_counter()
to_safetensors(Path(sys.argv[1]), Path(sys.argv[2]))
took_s = time.perf_counter() - began
print(json.dumps({"took_s": took_s, "peak_bytes": peak() - before}))
"""


def make(folder: Path, count: int) -> None:
    """Write two shards of `count` random tensors of 64 MiB each."""
    data = os.urandom(TENSOR_BYTES)
    tensors = {
        f"model.layers.{n}.w": Stored("F16", (TENSOR_BYTES // 2,), data) for n in range(count)
    }
    write_weights(folder, tensors, weights="bin", shards=2)


def copy(source: Path, target: Path) -> float:
    """Return the seconds that copying the shards takes, flushed to the disk."""
    began = time.perf_counter()
    for path in sorted(source.glob("*.bin")):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb+") as written:
            os.fsync(written.fileno())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    count = max(2, round(given.size_gb * 1e9 / TENSOR_BYTES))
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        source, copied, converted = (Path(name) / part for part in ("source", "copy", "out"))
        for folder in (source, copied, converted):
            folder.mkdir()
        make(source, count)
        os.sync()
        copy_s = copy(source, copied)
        shutil.rmtree(copied)
        os.sync()
        done = subprocess.run(
            [sys.executable, "-c", CONVERT, str(source), str(converted)],
            check=True,
            capture_output=True,
            text=True,
        )
    result = json.loads(done.stdout)
    size_bytes = count * TENSOR_BYTES
    print(
        json.dumps(
            {
                "size_bytes": size_bytes,
                "copy_bytes_per_s": round(size_bytes / copy_s),
                "convert_bytes_per_s": round(size_bytes / result["took_s"]),
                "ratio_to_copy": round(copy_s / result["took_s"], 2),
                "peak_bytes": result["peak_bytes"],
                "peak_in_tensors": round(result["peak_bytes"] / TENSOR_BYTES, 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
