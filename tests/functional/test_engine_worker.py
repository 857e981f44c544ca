"""The worker process with a real model: loading is seen, answers are those of the engine."""

# ruff: noqa: ASYNC110, ASYNC220 - a real process, and a socket that appears some time

import asyncio
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llava_pack.engine.port import Delta, Failed, Finished, Message, Picture, Request
from llava_pack.engine.process import protocol
from llava_pack.engine.process.client import EngineClient
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError, ServeError, SpaceError
from tests.support.checkpoints import TinyLlava, make_llava, make_tower
from tests.support.connection import connected
from tests.support.fences import landlock_abi

pytestmark = pytest.mark.engine
SPEC = TinyLlava(hidden=64, inner=128)


def question(number: int) -> Request:
    picture = Picture(number + 1, 2, bytes(range(6 * (number + 1))))
    return Request(
        request_id=str(number),
        messages=(Message("user", (picture, "what is it? " * (number + 1))),),
        sampling=Sampling(max_tokens=20),
    )


def _compiled() -> list[str]:
    """Have a worker read what this run compiled: behind its fence it writes nothing."""
    return ["-X", f"pycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []


@asynccontextmanager
async def worker(model_dir: Path, folder: Path, *options: str):
    """Run a worker and yield its process and a client, connected as early as can be."""
    path = folder / "run" / "engine.sock"
    command = [sys.executable, "-I", *_compiled(), "-m", "llava_pack.engine.worker"]
    command += ["--model-dir", model_dir]
    process = subprocess.Popen(
        [*command, "--socket", path, "--precision", "fp32", "--device", "cpu", *options],
        stdout=subprocess.PIPE,
    )
    try:
        async with await connected(path, process) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def phases(folder: Path) -> set[str]:
    """Return all phases up to readiness: a client keeps only the last of those that come together."""
    reader, writer = await asyncio.open_unix_connection(folder / "run" / "engine.sock")
    writer.writelines(protocol.encode({"op": "hello", "protocol": protocol.PROTOCOL}))
    found = set()
    while message := await protocol.read_message(reader):
        status = message[0]["status"]
        found.add(status["phase"])
        if status["info"]:
            break
    writer.close()
    return found


async def tokens(client: EngineClient, request: Request) -> list[int]:
    events = [event async for event in client.generate(request)]
    assert isinstance(events[-1], Finished), events[-1]
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


def test_a_worker_from_start_to_end(tmp_path):
    from llava_pack.engine.loading.load import load_engine

    make_tower(tmp_path / "clip-tiny", SPEC.tower)
    model_dir = make_llava(tmp_path / "llava-v1-tiny", SPEC)
    engine = load_engine(model_dir, precision="fp32", slots=1)
    want = []
    for number in range(4):
        engine.submit(question(number))
        events = []
        while not engine.idle:
            events += engine.step()
        want.append([t for e in events if isinstance(e, Delta) for t in e.token_ids])

    async def run():
        async with worker(model_dir, tmp_path, "--slots", "3") as (process, client):
            assert {"libraries", "weights", "warm-up"} <= await phases(tmp_path)
            assert (await client.ready()).slots == 3
            assert client.standing is not None
            assert client.standing.whole == (landlock_abi() > 0), client.standing
            got = await asyncio.gather(*(tokens(client, question(n)) for n in range(4)))
            assert got == want

            long = question(0)
            stream = client.generate(Request(request_id="x", messages=long.messages, sampling=Sampling(max_tokens=900)))  # fmt: skip
            await anext(stream)
            await stream.aclose()
            while (await client.stats()).running:
                await asyncio.sleep(0)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 200) == 0
            assert process.stdout.read() == b""

    asyncio.run(run())


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_a_model_of_scattered_links_is_read_and_nothing_beside_it(tmp_path):
    """As a Hub's cache keeps it: every file a link to somewhere else."""
    blobs, linked = tmp_path / "blobs", tmp_path / "snapshots" / "llava-v1-tiny"
    tower = make_tower(tmp_path / "clip-tiny", SPEC.tower)
    make_llava(blobs, SPEC)
    linked.mkdir(parents=True)
    for file in blobs.iterdir():
        (linked / file.name).symlink_to(file)

    async def run():
        async with worker(linked, tmp_path, "--vision-tower", str(tower)) as (_, client):
            assert (await client.ready()).model == "llava-v1-tiny"

    asyncio.run(run())


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_what_the_fence_refuses_is_told_as_that(tmp_path):
    """Weights that change into a link to outside between the look and the load."""
    make_tower(tmp_path / "clip-tiny", SPEC.tower)
    model_dir = make_llava(tmp_path / "llava-v1-tiny", SPEC)
    outside = tmp_path / "elsewhere.json"
    shutil.copy(model_dir / "tokenizer_config.json", outside)
    code = "import sys; from pathlib import Path; from llava_pack.engine import worker\n"
    code += "from llava_pack.engine.process import enclosure\n"
    code += "enclosure.with_targets = tuple\n"  # the rule is not planned, as if it had been a file
    code += "worker.main(sys.argv[1:])\n"
    (model_dir / "tokenizer_config.json").unlink()
    (model_dir / "tokenizer_config.json").symlink_to(outside)
    command = [sys.executable, *_compiled(), "-c", code, "--model-dir", str(model_dir)]
    command += ["--socket", str(tmp_path / "run" / "engine.sock"), "--precision", "fp32"]
    done = subprocess.run(
        [*command, "--device", "cpu"], capture_output=True, text=True, check=False
    )
    assert "the fence was active" in done.stderr, done.stderr


def test_a_worker_that_cannot_load_says_why_and_ends_with_its_code(tmp_path):
    model_dir = make_llava(tmp_path / "llava-v1-tiny", SPEC)

    async def run():
        async with worker(model_dir, tmp_path) as (process, client):
            with pytest.raises((CheckpointError, ServeError)) as caught:
                await client.ready()
            assert isinstance(caught.value, CheckpointError)
            assert "vision tower" in str(caught.value)
            assert await asyncio.to_thread(process.wait, 200) == 13

    asyncio.run(run())


def address_space_bytes(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmSize"))


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of a running process is Linux's")
def test_memory_that_runs_out_costs_the_request_and_not_the_worker(tmp_path):
    import resource

    make_tower(tmp_path / "clip-tiny", SPEC.tower)
    model_dir = make_llava(tmp_path / "llava-v1-tiny", SPEC)
    # A line longer than any door lets in: a strip of its square takes 153 MB.
    large = Message("user", (Picture(200_000, 1, bytes(600_000)), "what is it?"))

    async def run():
        async with worker(model_dir, tmp_path, "--slots", "2") as (process, client):
            await client.ready()
            before = await tokens(client, question(1))
            limit = address_space_bytes(process.pid) + (100 << 20)
            resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
            asked = Request(request_id="large", messages=(large,))
            events = [event async for event in client.generate(asked)]
            assert isinstance(events[-1], Failed)
            assert isinstance(events[-1].error(), SpaceError)
            assert await tokens(client, question(1)) == before

    asyncio.run(run())
