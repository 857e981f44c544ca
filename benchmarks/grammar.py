"""What it costs to hold every answer of a full batch to a JSON Schema: tokens per second.

    PYTHONPATH=. python benchmarks/checkpoint.py OUT --layers 14 --tokenizer-model FILE
    PYTHONPATH=. python benchmarks/grammar.py OUT/llava-v1-random --precision bf16 --at-once 8

Rounds with and without a grammar take turns in one process. Both answer the same questions with as
many tokens:
nothing ends before `--tokens`, and the schema is one that a random model cannot come to an end of.
Then the time of the mask alone, one row of one step.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.port import Delta, Finished, Message, Request
from llava_pack.engine.sampling import Grammar, Sampling

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "colour": {"enum": ["red", "green", "blue"]},
        "box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
    },
    "required": ["name", "colour", "box"],
    "additionalProperties": False,
}
SCHEMA = Grammar("json_schema", json.dumps({"type": "array", "minItems": 1000, "items": ITEM}))


def main() -> None:
    given = _parser().parse_args()
    engine: Any = load_engine(
        given.model_dir, precision=given.precision, device=given.device, slots=given.at_once,
        conv_mode="plain",
    )  # fmt: skip
    began_s = time.perf_counter()
    engine.prepare(Request(request_id="", messages=(), sampling=Sampling(grammar=SCHEMA)))
    print(f"{engine.info.made_on}, {engine.info.precision}: first compiled in", end=" ")
    print(f"{(time.perf_counter() - began_s) * 1e3:.0f} ms, the vocabulary read in it")
    free: list[float] = []
    held: list[float] = []
    for _ in range(given.rounds):
        free.append(_rate(engine, given, None))
        held.append(_rate(engine, given, SCHEMA))
    cost = statistics.median(free) / statistics.median(held) - 1
    print(
        f"{given.at_once} at once, tokens/s: free {_spread(free)}, held {_spread(held)}", end=": "
    )
    print(f"{cost:+.1%} time per token")
    _print_mask(engine)


def _spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


def _rate(engine: Any, given: argparse.Namespace, grammar: Grammar | None) -> float:
    """Return tokens per second between the first token of all and the end."""
    sampling = Sampling(max_tokens=given.tokens, ignore_eos=True, grammar=grammar)
    for number in range(given.at_once):
        message = Message("user", (f"{number} What is in the picture?",))
        engine.submit(Request(request_id=str(number), messages=(message,), sampling=sampling))
    began: set[str] = set()
    began_s, tokens = 0.0, 0
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Delta):
                began.add(event.request_id)
                tokens += bool(began_s)
                if len(began) == given.at_once and not began_s:
                    began_s = time.perf_counter()
            elif not isinstance(event, Finished) or event.reason != "length":
                raise SystemExit(f"unexpected: {event}")
    return tokens / (time.perf_counter() - began_s)


def _print_mask(engine: Any) -> None:
    """Print the time of one row's mask along a random answer."""
    grammars = engine._model._grammars  # noqa: SLF001 - the benchmark looks inside
    held, chance, times = grammars.hold(SCHEMA, ()), np.random.default_rng(0), []
    for _ in range(500):
        began_s = time.perf_counter()
        allowed = held.allowed()
        times.append(time.perf_counter() - began_s)
        held.take(int(chance.choice(np.flatnonzero(allowed))))
    print(f"one mask: median {statistics.median(times) * 1e6:.0f} us", end=", ")
    print(f"{max(times) * 1e3:.1f} ms at most")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    return parser


if __name__ == "__main__":
    main()
