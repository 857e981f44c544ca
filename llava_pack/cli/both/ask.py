"""`llava-pack ask`: one question about many pictures, every slot of the engine busy."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, KeepEnv
from llava_pack.cli.both.remote import RemoteOptions, ways_of
from llava_pack.cli.both.sampling import QuestionOptions
from llava_pack.cli.loading import ModelOptions, tell_left_out
from llava_pack.cli.parameters import Ways, expanded
from llava_pack.client.batch import Asker, LocalAsker, ServedAsker, keep_answered
from llava_pack.client.items import LeftOut, left, select_items
from llava_pack.client.libraries import need_libraries
from llava_pack.format.errors import UsageError
from llava_pack.format.text import clock

if TYPE_CHECKING:
    from llava_pack.client.items import Item
    from llava_pack.engine.sampling import Sampling

_TELL_EVERY_S = 5.0
_SHOWN = 20
"""Of what was left out, on a terminal; --json has all."""
_LEFT_OUT = 1
"""Exit code: every picture has an answer, and something of the folder was left out."""


WAYS: Ways = ways_of("images", "out", "prompt", "keep_env", "as_json")


@partial(expanded, ways=WAYS)
def ask(
    ctx: typer.Context,  # noqa: ARG001 - `expanded` looks at it
    *,
    images: Annotated[
        Path, typer.Option(help="A folder of pictures, or a JSONL file with one `image` per line.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the answers, one per line.")],
    prompt: Annotated[str | None, typer.Option(help="The question about each picture.")] = None,
    remote: RemoteOptions,
    options: ModelOptions,
    question: QuestionOptions,
    keep_env: KeepEnv = None,  # noqa: ARG001 - bin/llava-pack has looked at it
    as_json: AsJson = False,
) -> None:
    """Ask one question about every picture of a folder or a list.

    The picture comes before the question, or where the question has <image>. Pictures are
    processed concurrently, as many as the engine has slots. Each answer is written to --out as one
    JSON line, as soon as it is complete. Running the same command again asks only about pictures
    without an answer. What of a folder is not asked about is listed, with the reason. On the
    laptop, --via asks a server through ssh, and --url one at an address; the pictures are read
    here. Exit code 0: every picture has an answer; 1: so it is, but something was left out.

    \b
    Examples:
      llava-pack ask --images photos --prompt "Describe it." --out captions.jsonl
      llava-pack ask --images list.jsonl --out answers.jsonl --model llava-v1.5-13b
      llava-pack ask --images photos --prompt "Any text?" --out t.jsonl --via ada@gpu01 -p 30022
      llava-pack ask --images photos --prompt "Any text?" --out t.jsonl --model-path llava-v1.5-7b
    """
    folder, sampling = options.need_folder(), question.sampling
    if folder is not None or remote.url:
        tell_left_out()
    if question.shrink or not remote.elsewhere:
        need_libraries("asking" if not remote.elsewhere else "--shrink", "PIL")
    chosen = select_items(images, prompt, out)
    items = chosen.items
    remaining = left(items, keep_answered(out))
    before = len(items) - len(remaining)
    console.say(f"{len(items)} pictures, {before} already answered")
    _tell_left_out(chosen.left_out)
    if remaining:
        with _asker(folder, remote, question, options) as asker:
            _write(asker, remaining, sampling, out)
    if as_json:
        facts = {"pictures": len(items), "answered_before": before, "answers": str(out)}
        left_out = [asdict(one) for one in chosen.left_out]
        console.document("ask", {**facts, "left_out": left_out})
    if chosen.left_out:
        raise typer.Exit(_LEFT_OUT)


def _tell_left_out(left_out: Sequence[LeftOut]) -> None:
    """List what is not asked about, and why."""
    for one in left_out[:_SHOWN]:
        console.say(f"left out: {one.path}: {one.why}")
    if len(left_out) > _SHOWN:
        console.say(f"left out: {len(left_out) - _SHOWN} more; --json lists all")


@contextmanager
def _asker(
    folder: Path | None, remote: RemoteOptions, question: QuestionOptions, options: ModelOptions
) -> Iterator[Asker]:
    """Have who answers during the block: a model in this process, or a server that runs."""
    if folder is None:
        with remote.server(question.model) as server:
            yield ServedAsker(server, shrink=question.shrink)
        return
    from llava_pack.engine.loading.load import load_engine

    engine = load_engine(folder, progress=console.progress(), **options.load.given)
    yield LocalAsker(engine, shrink=question.shrink)


def _write(asker: Asker, items: "list[Item]", sampling: "Sampling", out: Path) -> None:
    """Write a line for each answer as it comes.

    Raises:
        UsageError: the file cannot be written, or a picture was not answered.
    """
    failures = tokens = empty = 0
    began_s = told_s = time.monotonic()
    try:
        stream = out.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", subject=str(out)) from error
    with stream:
        for count, (_item, line) in enumerate(asker.answers(items, sampling), 1):
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            stream.flush()
            failures += "error" in line
            empty += "warnings" in line
            tokens += line.get("completion_tokens", 0)
            if time.monotonic() - told_s >= _TELL_EVERY_S or count == len(items):
                told_s = time.monotonic()
                _tell(count, len(items), tokens, told_s - began_s)
        os.fsync(stream.fileno())
    if empty:
        console.warning(f"{empty} pictures have only one colour: see `warnings` in their lines")
    if failures:
        raise UsageError(
            f"{failures} of {len(items)} pictures were not answered: see `error` in their lines",
            subject=str(out),
            hint="run the same command again: only these are retried",
        )


def _tell(count: int, total: int, tokens: int, took_s: float) -> None:
    rate = count / max(took_s, 1e-9)
    left_s = (total - count) / rate
    console.say(
        f"{count} of {total}, {rate:.2f} pictures/s, {tokens / max(took_s, 1e-9):.1f} tokens/s"
        + (f", {clock(left_s)} left" if count < total else "")
    )
