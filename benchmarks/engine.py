"""Tokens per second of the engine, alone and with many at once, beside transformers' generate.

    python benchmarks/engine.py bundles/demo-model/llava-v1-demo --precision nf4 --at-once 8

Both load the same weights in the same process and answer the same questions about pictures of
noise, `--tokens` tokens each, one after the other where `generate` is concerned. Ratios of one run
mean something; tokens per second depend on the machine.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from llava_pack.engine.checkpoints import read_checkpoint
from llava_pack.engine.load import load_engine
from llava_pack.engine.port import Delta, Message, Picture, Request, Sampling
from llava_pack.engine.templates import render

MODE = "plain"  # no system prompt: the prompt is a picture and a question


def main() -> None:
    given = _parser().parse_args()
    tower = read_checkpoint(given.model_dir, given.vision_tower).tower
    if tower is None:
        raise SystemExit("a checkpoint in the original layout is needed")
    engine: Any = load_engine(
        given.model_dir,
        vision_tower=given.vision_tower,
        precision=given.precision,
        device="cpu",
        slots=given.at_once,
        conv_mode=MODE,
    )
    questions = [_question(number, given.words) for number in range(given.at_once)]
    print(f"{engine.info.model} {given.precision}, {given.tokens} tokens an answer")
    sequential = _generate(given, tower.folder, questions)
    print(f"transformers, one by one: {sequential:.1f} tokens/s")
    for count in sorted({1, 2, 4, given.at_once}):
        rates = [_engine(engine, questions[:count], given.tokens) for _ in range(given.repeat)]
        rate = statistics.median(rates)
        print(f"engine, {count} at once: {rate:.1f} tokens/s, {rate / sequential:.2f} x")


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
    from tests.support.reference import reference

    with tempfile.TemporaryDirectory() as folder:
        oracle = reference(given.model_dir, tower_dir, Path(folder), given.precision)
    pieces = [render(messages, MODE) for messages in questions]
    oracle.answer(pieces[0], 2)
    began_s = time.perf_counter()
    count = sum(len(oracle.answer(one, given.tokens)) for one in pieces)
    return count / (time.perf_counter() - began_s)


def _question(number: int, words: int) -> tuple[Message, ...]:
    chance = random.Random(number)
    picture = Picture(64, 48, chance.randbytes(64 * 48 * 3))
    return (Message("user", (picture, "what is it " * words)),)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--vision-tower", type=Path)
    parser.add_argument("--precision", default="nf4", choices=["fp32", "int8", "nf4"])
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
