"""`llava-pack serve` beside `transformers serve`, LLaVA's own worker, and bare `generate`.

    python benchmarks/beside.py MODEL_DIR --precision fp32 bf16 --llava-python PYTHON
    python benchmarks/beside.py --demo --precision fp32 bf16

Wall clock means little on a machine with other work: tokens for a CPU second of the server's
processes, which hardly depend on that, are printed too.

One server at a time, the same weights, the same questions about pictures, streamed over HTTP;
one request, then eight at once. First tokens are timed at the client; tokens per second are those
of all answers from the first request to the last token. `--demo` asks the demo model about pictures
of shapes (its answers end by themselves); a random model answers `--tokens` tokens about noise.
Ratios of one run mean something; tokens per second depend on the machine.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "bundles" / "demo-model"
AT_ONCE = 8
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
QUANTIZED = {"nf4": "bnb-4bit", "int8": "bnb-8bit"}
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True)
class Question:
    """What is asked about a picture."""

    png: bytes
    text: str


@dataclass(frozen=True)
class Timed:
    """How long an answer took."""

    first_s: float
    total_s: float
    tokens: int


class OpenAi:
    """A server with OpenAI's API."""

    def __init__(
        self, name: str, command: list[str], port: int, model: str, probe: str = "/readyz"
    ) -> None:
        self.name, self.command, self.port, self.model = name, command, port, model
        self.probe = probe
        self.path = "/v1/chat/completions"

    def body(self, question: Question, tokens: int) -> dict[str, Any]:
        """Return what is posted."""
        url = "data:image/png;base64," + base64.b64encode(question.png).decode()
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question.text},
        ]
        return {
            "model": self.model, "max_tokens": tokens, "temperature": 0, "stream": True,
            "messages": [{"role": "user", "content": parts}],
            "stream_options": {"include_usage": True},
        }  # fmt: skip

    async def pieces(self, response: httpx.Response) -> AsyncIterator[tuple[str, int]]:
        """Yield pieces of text, with the number of tokens where the server tells it."""
        rest = b""
        async for data in response.aiter_bytes():
            # Not httpx's lines: those end at characters that a random model says, too.
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not line.startswith(b"data: {"):
                    continue
                # Not strict: `transformers serve` leaves control characters in its strings.
                event = json.loads(line.removeprefix(b"data: "), strict=False)
                if "error" in event:
                    raise RuntimeError(event["error"])
                text = "".join(c["delta"].get("content") or "" for c in event.get("choices") or ())
                yield text, (event.get("usage") or {}).get("completion_tokens") or 0


class LlavaWorker(OpenAi):
    """LLaVA's own worker, which sends the whole text each time."""

    def __init__(self, command: list[str], port: int) -> None:
        super().__init__("LLaVA's model_worker", command, port, "", "/docs")
        self.path = "/worker_generate_stream"

    def body(self, question: Question, tokens: int) -> dict[str, Any]:
        """Return what is posted."""
        prompt = f"{SYSTEM} USER: <image>\n{question.text} ASSISTANT:"
        return {
            "prompt": prompt, "max_new_tokens": tokens, "temperature": 0, "stop": "</s>",
            "images": [base64.b64encode(question.png).decode()],
        }  # fmt: skip

    async def pieces(self, response: httpx.Response) -> AsyncIterator[tuple[str, int]]:
        """Yield pieces of text; this server tells no numbers."""
        rest, before = b"", None
        async for data in response.aiter_bytes():
            *whole, rest = (rest + data).split(b"\0")
            for one in whole:
                event = json.loads(one)
                if event["error_code"]:
                    raise RuntimeError(event["text"])
                text = event["text"].rsplit("ASSISTANT:", 1)[-1]
                yield text.removeprefix(before or ""), 0
                before = text


@contextmanager
def running(server: OpenAi) -> Iterator[psutil.Process]:
    """Run a server until it answers, and end it."""
    offline = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "PYTHONPATH": str(ROOT),
    }
    with (
        tempfile.TemporaryDirectory() as folder,  # LLaVA's worker writes its log where it is
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            server.command, stdout=log, stderr=log, env=offline, cwd=folder
        ) as process,
    ):
        try:
            deadline_s = time.monotonic() + 240
            while not _there(server.port, server.probe):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    log.seek(0)
                    raise RuntimeError(f"{server.name}: {log.read()[-2000:].decode()}")
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process and its children have taken."""
    spent = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent += sum(one.cpu_times()[:2])
    return spent


def _there(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


async def ask(client: httpx.AsyncClient, server: OpenAi, question: Question, tokens: int) -> Timed:
    """Ask once and return when the first text and the last came."""
    began_s = time.perf_counter()
    first_s, counted = 0.0, 0
    body = server.body(question, tokens)
    async with client.stream("POST", server.path, json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{server.name}: {(await response.aread()).decode()[:500]}")
        async for text, told in server.pieces(response):
            if text and not first_s:
                first_s = time.perf_counter() - began_s
            counted = told or counted
    return Timed(first_s, time.perf_counter() - began_s, counted)


async def measured(
    server: OpenAi,
    process: psutil.Process,
    questions: list[Question],
    tokens: int,
    counts: list[int],
) -> dict[str, float]:
    """Return the figures of one server.

    Args:
        server: that is asked.
        process: its own.
        questions: three are asked alone, then eight at a time, and the last one before all.
        tokens: the most that an answer has.
        counts: tokens of each answer as the first server told them, for one that tells none.
    """
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        await ask(client, server, questions[-1], 4)
        idle_cpu_s = cpu_s(process)
        alone = [await ask(client, server, one, tokens) for one in questions[:3]]
        alone_cpu_s = cpu_s(process)
        together: list[list[Timed]] = []
        took_s: list[float] = []
        for begin in range(3, len(questions) - 1, AT_ONCE):
            began_s = time.perf_counter()
            eight = questions[begin : begin + AT_ONCE]
            asked = (ask(client, server, one, tokens) for one in eight)
            together.append(await asyncio.gather(*asked))
            took_s.append(time.perf_counter() - began_s)
        eight_cpu_s = cpu_s(process)
    told = [one.tokens for one in (*alone, *(one for group in together for one in group))]
    if not counts:
        counts += told
    said = told if all(told) else counts
    rates = [count / one.total_s for count, one in zip(said, alone, strict=False)]
    eights = [sum(said[3 + AT_ONCE * n :][:AT_ONCE]) / s for n, s in enumerate(took_s)]
    return {
        "tokens": sum(said) / len(said),
        "one_rate": statistics.median(rates),
        "one_first_s": statistics.median(one.first_s for one in alone),
        "eight_rate": statistics.median(eights),
        "one_cpu": sum(said[:3]) / (alone_cpu_s - idle_cpu_s),
        "eight_cpu": sum(said[3:]) / (eight_cpu_s - alone_cpu_s),
        "eight_first_s": statistics.median(max(one.first_s for one in g) for g in together),
    }


def noise_questions(rounds: int) -> list[Question]:
    """Pictures of noise, none twice."""
    made = []
    for number in range(AT_ONCE * rounds + 4):
        image = Image.frombytes("RGB", (64, 48), random.Random(number).randbytes(64 * 48 * 3))
        made.append(Question(_png(image), "what is it " * 4))
    return made


def demo_questions(rounds: int) -> list[Question]:
    """Pictures of shapes, to be described."""
    sys.path.insert(0, str(DEMO))
    import scenes

    chance = scenes.training_random(20_261)
    pictures = [scenes.render(scenes.make_scene(chance)) for _ in range(AT_ONCE * rounds + 4)]
    return [Question(_png(picture), "What is in this picture?") for picture in pictures]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def native(model_dir: Path, tower_dir: Path, folder: Path) -> Path:
    """Write the same weights as transformers reads them."""
    import shutil

    from llava_pack.assemble.chat_template import chat_template
    from llava_pack.convert.native import to_native
    from llava_pack.convert.parts import original_parts
    from llava_pack.convert.shards import to_safetensors

    work = folder / model_dir.name
    shutil.copytree(model_dir, work)
    if not list(work.glob("*.safetensors")):
        to_safetensors(model_dir, work)
        for pickle in work.glob("pytorch_model*"):
            pickle.unlink()
    out = folder / "native"
    out.mkdir()
    with original_parts(work) as parts:
        to_native(parts, tower_dir, out, chat_template=chat_template("llava_v1", legacy=True))
    return out


def servers(given: argparse.Namespace, tower: Path, folder: Path, precision: str) -> list[OpenAi]:
    """Return the servers to compare; ours is first."""
    model_dir = given.model_dir
    ports = [_free_port() for _ in range(3)]
    ours = [sys.executable, "-m", "llava_pack", "serve", "--model-path", str(model_dir)]
    ours += ["--vision-tower", str(tower), "--precision", precision, "--device", "cpu", "--no-web"]
    ours += ["--no-token", "--port", str(ports[0]), "--conv-mode", "llava_v1", "--slots", "8"]
    found = [OpenAi("llava-pack serve", ours, ports[0], model_dir.name)]
    theirs = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    theirs += ["--device", "cpu", "--port", str(ports[1])]
    if precision in DTYPES:
        theirs += ["--dtype", DTYPES[precision]]
    else:
        theirs += ["--dtype", "float32", "--quantization", QUANTIZED[precision]]
    found.append(OpenAi("transformers serve", theirs, ports[1], str(folder), "/health"))
    if given.llava_python and precision in DTYPES:
        command = [str(given.llava_python.absolute()), str(ROOT / "benchmarks" / "llava_worker.py")]
        command += [DTYPES[precision], str(ports[2]), str(model_dir), str(tower)]
        found.append(LlavaWorker(command, ports[2]))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Compare, precision by precision."""
    given = _parser().parse_args()
    if given.demo:
        given.model_dir, tower = DEMO / "llava-v1-demo", DEMO / "clip-demo"
    else:
        tower = given.vision_tower or given.model_dir.parent / "clip-tiny"
    questions = (demo_questions if given.demo else noise_questions)(given.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = native(given.model_dir, tower, Path(name))
        for precision in given.precision:
            counts: list[int] = []
            rows = {}
            for server in servers(given, tower, folder, precision):
                try:
                    with running(server) as process:
                        run = measured(server, process, questions, given.tokens, counts)
                        rows[server.name] = asyncio.run(run)
                except RuntimeError as error:
                    print(f"not compared: {error}", file=sys.stderr)
            _print(given.model_dir.name, precision, rows)


def _print(model: str, precision: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"{model}, {precision}")
    for name, row in rows.items():
        print(
            f"  {name:<22} {row['tokens']:.0f} tokens an answer; "
            f"one: {row['one_rate']:7.1f} tokens/s, first {row['one_first_s']:.3f} s; "
            f"eight: {row['eight_rate']:7.1f} tokens/s, first (p95) {row['eight_first_s']:.3f} s; "
            f"for a CPU second {row['one_cpu']:.1f} and {row['eight_cpu']:.1f}"
        )
    mine, *others = rows.values()
    if others:
        rates = ("one_rate", "eight_rate", "one_cpu", "eight_cpu")
        best = {key: max(row[key] for row in others) for key in rates}
        soon = {key: min(row[key] for row in others) for key in ("one_first_s", "eight_first_s")}
        print(
            f"  to the better of the others: one {mine['one_rate'] / best['one_rate']:.2f} x, "
            f"first {mine['one_first_s'] / soon['one_first_s']:.2f} x; "
            f"eight {mine['eight_rate'] / best['eight_rate']:.2f} x, "
            f"first {mine['eight_first_s'] / soon['eight_first_s']:.2f} x; for a CPU second "
            f"{mine['one_cpu'] / best['one_cpu']:.2f} x and "
            f"{mine['eight_cpu'] / best['eight_cpu']:.2f} x",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path, nargs="?")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--vision-tower", type=Path)
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=[*DTYPES, *QUANTIZED])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1, help="of eight; the median counts")
    parser.add_argument("--llava-python", type=Path, help="of LLaVA's own environment")
    return parser


if __name__ == "__main__":
    main()
