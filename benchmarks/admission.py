"""What admission costs: counting a large body, and decoding in a process instead of a thread.

    python benchmarks/admission.py

Both ways of decoding take turns, so that what else this machine does meets both.
"""

import asyncio
import io
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llava_pack.engine.inputs.picture_decoder import decode_picture
from llava_pack.serve.admission.json_bounds import JsonCount, JsonLimits
from llava_pack.serve.api.pictures import PictureDecoder

_ROUNDS = 15
_PIECE = 1 << 16


def _pictures() -> Iterator[tuple[str, bytes]]:
    whole = Image.radial_gradient("L").resize((4000, 3000)).convert("RGB")
    for name, size in (("12 MP", (4000, 3000)), ("0.8 MP", (1024, 768)), ("64x48", (64, 48))):
        out = io.BytesIO()
        whole.resize(size).save(out, "JPEG", quality=85)
        yield name, out.getvalue()


def _counted_s(body: bytes) -> float:
    count, began_s = JsonCount(JsonLimits(size_bytes=len(body))), time.perf_counter()
    for at in range(0, len(body), _PIECE):
        count.take(body[at : at + _PIECE])
    return time.perf_counter() - began_s


async def _decoded() -> None:
    loop, decoder, threads = asyncio.get_running_loop(), PictureDecoder(), ThreadPoolExecutor(2)
    decoder.start()
    for name, data in _pictures():
        thread_s, process_s = [], []
        for _ in range(_ROUNDS):
            began_s = time.perf_counter()
            await loop.run_in_executor(threads, decode_picture, data)
            between_s = time.perf_counter()
            (await decoder.admitted([data])).close()
            thread_s.append(between_s - began_s)
            process_s.append(time.perf_counter() - between_s)
        told = [f"{1000 * statistics.median(times):.1f} ms" for times in (thread_s, process_s)]
        print(f"{name} JPEG: {told[0]} in a thread, {told[1]} in a process")
    await asyncio.to_thread(decoder.close)


def main() -> int:
    """Print both."""
    body = b'{"url":"' + b"A" * 60_000_000 + b'"}'
    print(
        f"60 MB of picture are counted in {1000 * min(_counted_s(body) for _ in range(5)):.0f} ms"
    )
    asyncio.run(_decoded())
    return 0


if __name__ == "__main__":
    sys.exit(main())
