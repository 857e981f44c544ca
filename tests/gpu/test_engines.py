"""Engines of the field on a CUDA device, through the supervisor, beside llava-pack's own.

    LLAVA_PACK_TEST_VLLM=/PREFIX/…/engine/bin/python python -m pytest -n 0 tests/gpu/test_engines.py

Each is tried whose interpreter such a variable names (`_VLLM`, `_SGLANG`, `_LMDEPLOY`): that of an
installed bundle's second environment, or of any other that has the engine. The others are skipped,
visibly, and all of them where there is no device.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.convert.native import to_native
from llava_pack.convert.parts import original_parts
from llava_pack.engine.port import Delta, Failed, Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.manifest import Engine
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.engines.client import EngineConnection, connect
from llava_pack.serve.supervision.commands import engine_command
from llava_pack.serve.supervision.engine import SupervisedEngine
from llava_pack.serve.supervision.plans import EnginePlan
from llava_pack.serve.supervision.run_folder import Scratch

torch = pytest.importorskip("torch")
DEVICE = os.environ.get("LLAVA_PACK_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]
ENGINES: tuple[Engine, ...] = tuple(name for name, one in RUNTIMES.items() if one.profile)
DEMO = Path(__file__).resolve().parents[2] / "bundles" / "demo-model"
PRECISION = "fp16" if DEVICE == "cuda" else "fp32"
READY_S = 900.0
TOKENS = 12
MANY = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo model in transformers' own layout."""
    out = tmp_path_factory.mktemp("engines") / "llava-v1-demo"
    out.mkdir()
    with original_parts(DEMO / "llava-v1-demo") as parts:
        tower, template = DEMO / "clip-demo", chat_template("llava_v1", legacy=False)
        to_native(parts, tower, out, chat_template=template)
    return out


@pytest.fixture(params=ENGINES)
def plan(request: pytest.FixtureRequest, checkpoint: Path) -> EnginePlan:
    """Return how the model is served by each engine that is there."""
    variable = f"LLAVA_PACK_TEST_{request.param.upper()}"
    if not (python := os.environ.get(variable)):
        pytest.skip(f"{variable} names no interpreter")
    profile = RUNTIMES[request.param].profile
    assert profile is not None
    question = f"from importlib.metadata import version; print(version({profile.package!r}))"
    version = subprocess.check_output([python, "-I", "-c", question], text=True).strip()
    return EnginePlan(
        name="llava-v1-demo",
        model_dir=checkpoint,
        python=Path(python).absolute(),
        engine=request.param,
        version=version,
        architecture="LlavaForConditionalGeneration",
        precision=PRECISION,
        device=DEVICE,
        context_tokens=512,
        slots=MANY,
    )


@asynccontextmanager
async def started(plan: EnginePlan) -> AsyncIterator[tuple[SupervisedEngine, EngineConnection]]:
    """Keep the engine running while the block runs, and ask it as the gateway does."""
    with Scratch() as scratch:
        engine = SupervisedEngine(engine_command(plan, scratch.socket(0)))
        task = asyncio.create_task(engine.run())
        try:
            async with asyncio.timeout(READY_S):
                ready = asyncio.create_task(engine.ready.wait())
                await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
                ready.cancel()
                if task.done():
                    task.result()
            async with await connect(engine.news.address) as connection:
                await connection.ready()
                yield engine, connection
        finally:
            await engine.stop()
            await asyncio.gather(task, return_exceptions=True)


def ask(number: int, tokens: int = TOKENS) -> Request:
    picture = Picture(number + 1, 2, bytes(range(6 * (number + 1))))
    return Request(
        request_id=str(number),
        messages=(Message("user", (picture, "what is it? " * (number + 1))),),
        sampling=Sampling(max_tokens=tokens, ignore_eos=True),
    )


async def answer(connection: EngineConnection, request: Request) -> tuple[str, Finished]:
    text = ""
    async with aclosing(connection.generate(request)) as events:
        async for event in events:
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                return text, event
            text += event.text
    raise AssertionError("it said nothing of the end")


def own_answers(plan: EnginePlan) -> dict[str, str]:
    """Return what llava-pack's own engine says on the same device."""
    from llava_pack.engine import environment
    from llava_pack.engine.loading.load import load_engine

    environment.prepare()
    engine = load_engine(plan.model_dir, precision=PRECISION, device=DEVICE, slots=MANY)
    said = {str(number): "" for number in range(MANY)}
    for number in range(MANY):
        engine.submit(ask(number))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Delta):
                said[event.request_id] += event.text
    return said


def test_it_answers_as_llava_packs_engine_and_leaves_nothing(plan: EnginePlan) -> None:
    """Kernels differ, so that on a GPU an answer may turn away late: its beginning does not."""

    async def served() -> tuple[list[str], list[int]]:
        async with started(plan) as (_, connection):
            alone = await answer(connection, ask(0))
            answers = await asyncio.gather(*(answer(connection, ask(n)) for n in range(MANY)))
            assert alone[1].usage.completion_tokens == TOKENS
            assert all(ended.reason == "length" for _, ended in answers)
            return [text for text, _ in answers], marked(plan)

    texts, pids = asyncio.run(served())
    own = own_answers(replace(plan, engine="transformers"))
    alike = sum(text[:12] == own[str(number)][:12] for number, text in enumerate(texts))
    print(f"{plan.engine} {plan.version}: {alike} of {MANY} begin as llava-pack's engine's")
    assert alike >= MANY - 2
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_who_goes_away_frees_the_slot(plan: EnginePlan) -> None:
    async def served() -> None:
        async with started(plan) as (_, connection):
            async with aclosing(connection.generate(ask(0, tokens=400))) as events:
                await anext(events)
            async with asyncio.timeout(60):
                while (await connection.stats()).running:  # noqa: ASYNC110 - of a process
                    await asyncio.sleep(0.2)

    asyncio.run(served())


def marked(plan: EnginePlan) -> list[int]:
    """Return the processes that run on the engine's interpreter."""
    environment = plan.python.parent.parent
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].startswith(os.fsencode(environment)):
                found.append(int(process.name))
    return found
