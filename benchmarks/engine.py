"""Tokens per second of the engine, alone and with many at once, beside transformers' generate.

Then what a picture that was seen before, and a conversation that goes on, take to the first token.

    python benchmarks/engine.py bundles/demo-model/llava-v1-demo --precision nf4 --at-once 8

    python benchmarks/engine.py llava-v1.5-7b --device cuda --precision nf4 --at-once 32

Both load the same weights in the same process and answer the same questions about pictures of
noise, `--tokens` tokens each, one after the other where `generate` is concerned. Ratios of one run
mean something; tokens per second depend on the machine. On CUDA the engine's memory is told, too:
weights, cache and what a step takes.
"""

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.engine.batching.scheduler import SlotEngine
from llava_pack.engine.inputs.prompt import Prompt
from llava_pack.engine.inputs.templates import render
from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.port import Delta, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.precision import QUANTIZED

MODE = "plain"  # no system prompt: the prompt is a picture and a question


def main() -> None:
    given = _parser().parse_args()
    tower = read_checkpoint(given.model_dir, given.vision_tower).tower
    if tower is None:
        raise SystemExit("a checkpoint in the original layout is needed")
    began_s = time.perf_counter()
    engine: Any = load_engine(
        given.model_dir,
        vision_tower=given.vision_tower,
        precision=given.precision,
        device=given.device,
        slots=given.at_once,
        conv_mode=MODE,
    )
    questions = [_question(number, given.words) for number in range(given.at_once)]
    loaded_s = time.perf_counter() - began_s
    print(f"{engine.info.model} {given.precision} on {engine.info.made_on}")
    print(f"loaded and warm in {loaded_s:.1f} s, {given.tokens} tokens an answer")
    sequential = _generate(given, tower.folder, questions)
    print(f"transformers, one by one: {sequential:.1f} tokens/s")
    for count in [*(n for n in (1, 2, 4, 8, 16) if n < given.at_once), given.at_once]:
        rates = [_engine(engine, questions[:count], given.tokens) for _ in range(given.repeat)]
        rate = statistics.median(rates)
        print(f"engine, {count} at once: {rate:.1f} tokens/s, {rate / sequential:.2f} x{_memory()}")
    _again(engine, given.tokens)


def _memory() -> str:
    """Return the most that the process had of its GPUs so far, empty without one."""
    import torch

    if not torch.cuda.is_available():
        return ""
    peaks = [torch.cuda.max_memory_allocated(one) for one in range(torch.cuda.device_count())]
    return f", {sum(peaks) / 1e9:.2f} GB at most"


def _again(engine: Any, tokens: int) -> None:
    """Print what reuse saves, on questions that were not asked yet."""
    model = engine._model  # noqa: SLF001 - the benchmark looks inside
    tower = _Timer(model._network.model.get_image_features)  # noqa: SLF001
    model._network.model.get_image_features = tower  # noqa: SLF001
    first = model.write(_request(_question(1000, 30), 1))
    other = model.write(_request(_question(1000, 29), 1))
    before, said = _first_token(engine, first, tokens)
    calls = tower.calls
    again, _ = _first_token(SlotEngine(model), other, 2)
    print(
        f"a picture for the first time: first token {before * 1e3:.0f} ms, the tower "
        f"{tower.seconds * 1e3:.0f} ms of it; again: {again * 1e3:.0f} ms, "
        f"{tower.calls - calls} calls of the tower"
    )
    longer = replace(first, ids=(*first.ids, *said, *range(40, 60)))
    reused, _ = _first_token(engine, longer, 2)
    alone, _ = _first_token(SlotEngine(model), longer, 2)
    print(
        f"the next turn, {len(longer)} tokens: first token {reused * 1e3:.0f} ms with what was "
        f"computed before, {alone * 1e3:.0f} ms without, {reused / alone:.2f} x"
    )


def _first_token(engine: Any, prompt: Prompt, tokens: int) -> tuple[float, list[int]]:
    """Return the seconds to the first token of a prompt, and the answer."""
    model = engine._model  # noqa: SLF001
    written, model.write = model.write, lambda _request: prompt
    began_s, first_s, said = time.perf_counter(), 0.0, []
    engine.submit(_request(_question(0, 1), tokens))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Delta):
                first_s = first_s or time.perf_counter() - began_s
                said += event.token_ids
    model.write = written
    return first_s, said


class _Timer:
    """Counts the calls of a function, and their time."""

    def __init__(self, call: Any) -> None:
        self._call, self.calls, self.seconds = call, 0, 0.0

    def __call__(self, **given: Any) -> Any:
        began_s = time.perf_counter()
        found = self._call(**given)
        self.calls, self.seconds = self.calls + 1, self.seconds + time.perf_counter() - began_s
        return found


def _request(messages: tuple[Message, ...], tokens: int) -> Request:
    return Request(request_id="r", messages=messages, sampling=Sampling(max_tokens=tokens))


def _engine(engine: Any, questions: list[tuple[Message, ...]], tokens: int) -> float:
    began_s, count = time.perf_counter(), 0
    for number, messages in enumerate(questions):
        sampling = Sampling(max_tokens=tokens)
        engine.submit(Request(request_id=str(number), messages=messages, sampling=sampling))
    while not engine.idle:
        count += sum(len(e.token_ids) for e in engine.step() if isinstance(e, Delta))
    return count / (time.perf_counter() - began_s)


def _generate(
    given: argparse.Namespace, tower_dir: Path, questions: list[tuple[Message, ...]]
) -> float:
    import torch

    from llava_pack.engine.loading.assembly import compute_dtype
    from tests.support.reference import reference

    cuda = given.device == "cuda"
    dtype = compute_dtype(given.precision, given.device)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        oracle = reference(given.model_dir, tower_dir, work, given.precision, dtype)
    if cuda and given.precision not in QUANTIZED:
        oracle.model.to("cuda")
    pieces = [render(messages, MODE) for messages in questions]
    oracle.answer(pieces[0], 2)
    began_s = time.perf_counter()
    count = sum(len(oracle.answer(one, given.tokens)) for one in pieces)
    took_s = time.perf_counter() - began_s
    if cuda:  # what is told from here on is the engine's own
        del oracle
        torch.cuda.reset_peak_memory_stats()
    return count / took_s


def _question(number: int, words: int) -> tuple[Message, ...]:
    chance = random.Random(number)
    picture = Picture(64, 48, chance.randbytes(64 * 48 * 3))
    return (Message("user", (picture, "what is it " * words)),)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--vision-tower", type=Path)
    precisions = ["fp32", "bf16", "fp16", "int8", "nf4"]
    parser.add_argument("--precision", default="nf4", choices=precisions)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
