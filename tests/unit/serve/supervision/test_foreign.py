"""Engines of others under supervision, from their profiles to their end; the engine is a stub."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.engine.port import Delta, Message, Request
from llava_pack.format.errors import CheckpointError, PackError, ServeError, SpaceError, UsageError
from llava_pack.format.manifest import Engine
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.commands import engine_command
from llava_pack.serve.supervision.engine import SupervisedEngine
from llava_pack.serve.supervision.engine_process import Ask
from llava_pack.serve.supervision.foreign import begun
from llava_pack.serve.supervision.plans import EnginePlan
from llava_pack.serve.supervision.run_folder import Scratch
from tests.conftest import ROOT
from tests.support import engine_program
from tests.support.engine_program import ANSWER, VERSIONS, seen
from tests.support.namespaces import unshared

WITHIN_S = 60.0
ENGINES: tuple[Engine, ...] = ("vllm", "sglang", "lmdeploy")


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[Engine, Path]:
    """Return the interpreter of an environment of each engine."""
    folder = tmp_path_factory.mktemp("engines")
    return {engine: engine_program.environment(folder / engine, engine) for engine in ENGINES}


@pytest.fixture
def private() -> Iterator[Path]:
    """Yield a folder that no other account can change, nor one on the way to it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lp-") as folder:
        yield Path(folder)


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with Scratch() as scratch:
        yield scratch


def command(
    python: Path, engine: Engine, model: Path, socket: Path, compiled: Path | None = None
) -> EngineCommand:
    """Return how a stub is started."""
    plan = EnginePlan(
        name="llava",
        model_dir=model,
        python=python,
        engine=engine,
        version=VERSIONS[engine],
        architecture="LlavaForConditionalGeneration",
        precision="fp16",
        device="cuda",
        context_tokens=4096,
    )
    return engine_command(plan, socket, compiled=compiled)


async def prove(ask: Ask) -> None:
    """Ask one question, and be content with the known answer."""
    request = Request(request_id="r", messages=(Message("user", ("What is it?",)),))
    text = ""
    async with aclosing(ask(request)) as events:
        async for event in events:
            text += event.text if isinstance(event, Delta) else ""
    assert text == ANSWER


@asynccontextmanager
async def supervised(*commands: EngineCommand) -> AsyncIterator[list[SupervisedEngine]]:
    """Keep engines running until the block ends; they are ready when it begins."""
    engines = [SupervisedEngine(one, number=n, proof=prove) for n, one in enumerate(commands)]
    tasks = [asyncio.create_task(engine.run()) for engine in engines]
    try:
        async with asyncio.timeout(WITHIN_S):
            for engine, task in zip(engines, tasks, strict=True):
                waiting = asyncio.create_task(engine.ready.wait())
                await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if task.done():
                    task.result()
        yield engines
    finally:
        await asyncio.gather(*(engine.stop() for engine in engines))
        await asyncio.gather(*tasks, return_exceptions=True)


async def ready_again(engine: SupervisedEngine) -> None:
    """Wait until an engine is started again, and ready."""
    while engine.status.phase == "ready":  # noqa: ASYNC110 - of a process
        await asyncio.sleep(0.01)
    while engine.status.phase != "ready":  # noqa: ASYNC110 - the same
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def told(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def below(pid: int) -> list[int]:
    """Return everything that runs below a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *below(int(child))]
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_proved_before_it_is_ready_and_ends_with_all_that_it_left(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path, engine: Engine
) -> None:
    model = engine_program.model(tmp_path / "m", slow_s=0.3)
    start = command(environments[engine], engine, model, scratch.socket(0))

    async def run() -> None:
        async with supervised(start) as [one]:
            assert one.info is not None
            assert one.info.engine.endswith(VERSIONS[engine])
            assert (one.info.precision, one.info.context_tokens) == ("fp16", 4096)
            assert one.news.address.standing is not None
            assert not one.news.address.standing.stands
            [facts] = seen(model)
            folder = scratch.socket(0).with_suffix("")
            for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "HF_HOME"):
                assert Path(facts["environment"][name]).is_relative_to(folder)

    asyncio.run(run())
    [facts] = seen(model)
    assert not alive(facts["pid"])
    assert not alive(facts["child"])
    assert {path.name for path in scratch.root.iterdir()} <= {"lock", "empty", "temporary"}


@pytest.mark.parametrize("engine", ["sglang", "lmdeploy"])
def test_its_key_is_in_no_command_line_no_log_and_no_environment_of_its_children(
    environments: dict[Engine, Path],
    scratch: Scratch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    engine: Engine,
) -> None:
    model = engine_program.model(tmp_path / "m")
    start = command(environments[engine], engine, model, scratch.socket(0))
    key = start.address.key.encode()
    caplog.set_level("INFO")

    async def run() -> None:
        async with supervised(start):
            [facts] = seen(model)
            assert facts["argv"].count(key.decode()) == (2 if engine == "sglang" else 1)
            assert key.decode() not in facts["environment"].values()
            tree = below(os.getpid())
            assert {facts["pid"], facts["child"]} <= {*tree}
            for pid in tree:
                assert key not in told(pid, "cmdline")
            assert key not in told(facts["child"], "environ")

    asyncio.run(run())
    assert len(key) >= 32
    assert "INFO loading" in caplog.text
    assert key.decode() not in caplog.text


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_one_that_is_killed_is_started_again_elsewhere_and_its_children_with_it(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path, engine: Engine
) -> None:
    model = engine_program.model(tmp_path / "m")
    start = command(environments[engine], engine, model, scratch.socket(0))

    async def run() -> None:
        async with supervised(start) as [one], asyncio.timeout(WITHIN_S):
            os.kill(seen(model)[0]["pid"], signal.SIGKILL)
            await ready_again(one)

    asyncio.run(run())
    first, second = seen(model)
    assert not alive(first["child"])
    if engine == "sglang":
        ports = [one["argv"][one["argv"].index("--port") + 1] for one in (first, second)]
        assert ports[0] != ports[1]


def test_one_that_ends_with_code_0_untold_has_failed_and_is_restarted(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path
) -> None:
    """As vLLM does seconds after one of its workers was killed."""
    model = engine_program.model(tmp_path / "m", ends_with=0)
    start = command(environments["vllm"], "vllm", model, scratch.socket(0))

    async def run() -> None:
        async with supervised(start) as [one], asyncio.timeout(WITHIN_S):
            pid = seen(model)[0]["pid"]
            os.kill(pid, signal.SIGUSR1)
            while one.status.phase != "restarting":  # noqa: ASYNC110 - of a process
                await asyncio.sleep(0.01)
            assert f"its engine, process {pid}, exited with code 0" in one.status.detail
            await ready_again(one)

    asyncio.run(run())
    assert len(seen(model)) == 2


def test_a_port_that_somebody_took_meanwhile_is_replaced(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path
) -> None:
    model = engine_program.model(tmp_path / "m", taken_once=True)
    start = command(environments["sglang"], "sglang", model, scratch.socket(0))

    async def run() -> None:
        async with supervised(start):
            pass

    asyncio.run(run())
    assert len(seen(model)) == 2


def test_one_that_the_kernel_killed_is_told_what_it_can_do_with_less(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path
) -> None:
    model = engine_program.model(tmp_path / "m", slow_s=WITHIN_S)
    start = command(environments["vllm"], "vllm", model, scratch.socket(0))

    async def run() -> None:
        running = asyncio.create_task(SupervisedEngine(start).run())
        while not seen(model):  # noqa: ASYNC110 - of a process
            await asyncio.sleep(0.05)
        os.kill(seen(model)[0]["pid"], signal.SIGKILL)
        with pytest.raises(ServeError, match="killed by SIGKILL") as caught:
            await running
        assert "--context" in caught.value.hint
        assert "4bit with llava-pack's engine" in caught.value.hint

    asyncio.run(run())


ERRORS: dict[str, tuple[type[PackError], str]] = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB": (SpaceError, "memory"),
    "ValueError: Model architectures ['X'] are not supported for now.": (
        CheckpointError,
        "architecture",
    ),
    "attention heads (32) must be divisible by tensor parallel size (3).": (UsageError, "--gpus"),
    "RuntimeError: something else": (ServeError, "exited with code"),
}


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("error", ERRORS)
def test_a_start_that_fails_tells_its_cause(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path, error: str, code: int
) -> None:
    model = engine_program.model(tmp_path / "m", error=error, code=code)
    start = command(environments["vllm"], "vllm", model, scratch.socket(0))
    kind, word = ERRORS[error]

    async def run() -> None:
        with pytest.raises(PackError) as caught:
            await SupervisedEngine(start).run()
        assert type(caught.value) is kind
        assert word in f"{caught.value}{caught.value.hint}"
        assert caught.value.subject == "llava"

    asyncio.run(run())
    assert len(seen(model)) == 1


@pytest.mark.skipif(not unshared("-rm"), reason="no namespaces for this account")
def test_where_nothing_may_run_an_engine_that_compiles_is_not_started(
    tmp_path: Path, private: Path
) -> None:
    program = f"""
import asyncio, dataclasses
from pathlib import Path
from llava_pack.format.errors import PreflightError
from llava_pack.serve.supervision.foreign import begun
from tests.unit.serve.supervision.test_foreign import command

async def main():
    start = command(Path("/p"), "vllm", Path("/m"), Path({str(tmp_path)!r}) / "engine-0.sock")
    try:
        async with begun(start):
            print("it begins")
    except PreflightError as error:
        print(error)
    kept = command(Path("/p"), "vllm", Path("/m"), start.address.socket, Path({str(private / "compiled")!r}))
    async with begun(kept) as program:
        print(program.environment["TRITON_CACHE_DIR"])
    on_cpu = dataclasses.replace(start, launch=dataclasses.replace(start.launch, device="cpu"))
    async with begun(on_cpu):
        print("and on a CPU it begins")

asyncio.run(main())
"""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o noexec none "$1" && exec "$2" -c "$3"',
         "sh", str(tmp_path), sys.executable, program],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    refused, kept, begins = done.stdout.splitlines()
    assert refused.startswith(f"{tmp_path}: it is mounted noexec")
    assert kept.startswith(str(private))
    assert begins == "and on a CPU it begins"


def test_what_is_compiled_is_kept_for_the_next_start_and_nothing_else(
    environments: dict[Engine, Path], scratch: Scratch, private: Path
) -> None:
    model, kept = engine_program.model(private / "m"), private / "run" / "compiled"
    start = command(environments["sglang"], "sglang", model, scratch.socket(0), kept)

    async def run() -> None:
        async with supervised(start) as [one], asyncio.timeout(WITHIN_S):
            mine = kept / f"sglang-{VERSIONS['sglang']}"
            environment = seen(model)[0]["environment"]
            compiled = {name for name, value in environment.items() if value.startswith(str(kept))}
            assert compiled >= {"TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "SGLANG_CACHE_DIR"}
            assert not compiled & {"HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR"}
            (mine / "program").write_text("compiled")
            os.kill(seen(model)[0]["pid"], signal.SIGKILL)
            await ready_again(one)
            assert (mine / "program").exists()

    asyncio.run(run())
    first, second = (one["environment"] for one in seen(model))
    assert first["TRITON_CACHE_DIR"] == second["TRITON_CACHE_DIR"]
    assert [path.name for path in kept.glob("*/*")] == ["program"]
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("why", ["others can write it", "it is no folder"])
def test_where_nothing_can_be_kept_it_ends_with_the_start(private: Path, why: str) -> None:
    kept = private / "run" / "compiled"
    kept.parent.mkdir()
    if why == "others can write it":
        kept.mkdir()
        kept.chmod(0o777)
    else:
        kept.symlink_to("/dev/null")
    start = command(Path("/p"), "vllm", Path("/m"), private / "engine-0.sock", kept)

    async def run() -> None:
        async with begun(start) as program:
            environment = program.environment
            assert environment["TRITON_CACHE_DIR"].startswith(
                str(private / "engine-0" / "compiled")
            )

    asyncio.run(run())
    assert not (private / "engine-0").exists()


def test_one_that_does_not_listen_when_it_is_told_to_end_is_killed_in_time(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path
) -> None:
    model = engine_program.model(tmp_path / "m", deaf=True)
    start = command(environments["vllm"], "vllm", model, scratch.socket(0))
    assert start.term_s >= 20

    async def run() -> float:
        async with supervised(replace(start, term_s=0.5)):
            ends = asyncio.get_running_loop().time()
        return asyncio.get_running_loop().time() - ends

    assert 0.5 <= asyncio.run(run()) < 10
    assert not alive(seen(model)[0]["pid"])


def test_two_engines_serve_side_by_side(
    environments: dict[Engine, Path], scratch: Scratch, tmp_path: Path
) -> None:
    models = [engine_program.model(tmp_path / name) for name in ("a", "b")]
    starts = [
        command(environments[engine], engine, model, scratch.socket(number))
        for number, (engine, model) in enumerate(zip(("vllm", "sglang"), models, strict=True))
    ]

    async def run() -> None:
        async with supervised(*starts) as engines:
            os.kill(seen(models[0])[0]["pid"], signal.SIGKILL)
            await ready_again(engines[0])
            assert engines[1].status.phase == "ready"

    asyncio.run(run())
    assert [len(seen(model)) for model in models] == [2, 1]


def test_a_fence_that_it_does_not_have_cannot_be_required(tmp_path: Path) -> None:
    plan = EnginePlan(name="m", model_dir=tmp_path, python=Path("/p"), engine="vllm")
    with pytest.raises(ServeError, match="vLLM is none: "):
        engine_command(plan, tmp_path / "s", fence="required")
    told: Any = engine_command(replace(plan, precision="fp16"), tmp_path / "s", fence="off")
    assert "--no-fence" in str(told.address.standing)
