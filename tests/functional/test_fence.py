"""What a fence holds, with the attack as its input; and that the attack works where none stands."""

import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_pack.format.errors import ServeError
from llava_pack.llava_serve.bounds import FENCE_VARIABLE, Bounds
from llava_pack.llava_serve.processes import UpstreamProcesses, free_ports
from llava_pack.llava_serve.programs import Program
from tests.attack import fences
from tests.support import escapes
from tests.support.connection import connected
from tests.support.escapes import (
    FOR_ENGINE,
    FOR_GATEWAY,
    HELD,
    OF_PROGRAMS,
    OF_THE_RUN,
    Surroundings,
)
from tests.support.fences import PORTS_SINCE, landlock_abi
from tests.support.gateway import TOKEN, Gateway
from tests.support.ports import quiet_ports

ROOT = Path(__file__).resolve().parents[2]
ENGINE = str(ROOT / "tests/support/engine.py")
GATEWAY = str(ROOT / "tests/support/fenced_gateway.py")


pytestmark = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")


def _data_url() -> str:
    out = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("account")
    (folder / "secret").write_bytes(b"hunter2")
    (folder / "secret").chmod(0o600)
    (folder / "other-model").write_bytes(b"weights")
    (folder / "home").mkdir()
    abstract = f"llava-pack-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("127.0.0.1", 0)) as within,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as nameless,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim,
    ):
        (unused,) = quiet_ports(1)
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(folder / "unix"))
        nameless.bind(f"\0{abstract}")
        for listening in (unix, nameless):
            listening.listen(64)
        yield Surroundings(
            secret=str(folder / "secret"),
            model=str(folder / "other-model"),
            folder=str(folder),
            home=str(folder / "home"),
            port=tcp.getsockname()[1],
            datagrams=udp.getsockname()[1],
            unix=str(folder / "unix"),
            abstract=abstract,
            victim=victim.pid,
            within=(within.getsockname()[1], unused),
        )
        victim.kill()


def _tried(fence: str, one: Surroundings, tmp_path: Path) -> dict[str, Any]:
    own_model = tmp_path / "own-model"
    own_model.write_bytes(b"own")
    parts = tmp_path / "parts.json"
    told = {"fence": fence, "surroundings": asdict(one), "own_model": str(own_model)}
    parts.write_text(json.dumps(told))
    done = subprocess.run(
        [sys.executable, escapes.__file__, str(parts)],
        capture_output=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("fence", ["engine", "decoder"])
def test_nothing_gets_out_of_a_fence(
    fence: str, surroundings: Surroundings, tmp_path: Path
) -> None:
    found = _tried(fence, surroundings, tmp_path)
    assert found["standing"] == {"landlock": landlock_abi(), "seccomp": True, "why": ""}
    assert found["outcomes"] == dict.fromkeys({**FOR_ENGINE, **OF_PROGRAMS}, HELD)


@pytest.mark.skipif(landlock_abi() < PORTS_SINCE, reason="this kernel's Landlock holds no ports")
def test_llavas_own_programs_reach_the_ports_of_their_run_and_nothing_else(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    found = _tried("upstream", surroundings, tmp_path)
    assert found["standing"] == {"landlock": landlock_abi(), "seccomp": True, "why": ""}
    held = dict.fromkeys({**FOR_ENGINE, **OF_PROGRAMS}, HELD)
    assert found["outcomes"] == {**held, **dict.fromkeys(OF_THE_RUN, "done")}


def test_a_gpus_fence_lets_through_what_it_says_and_no_more(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    """No GPU is needed to see what its fence would hold."""
    outcomes = _tried("gpu", surroundings, tmp_path)["outcomes"]
    let_through = {
        "read its own environment", "read a command line", "make shared memory",
        "make shared memory by number", "start a program", "start a program from memory", "fork",
        "start a shell", "change a process's limits",
    }  # fmt: skip
    assert {name for name, outcome in outcomes.items() if outcome != HELD} == let_through


def test_without_a_fence_each_of_the_attempts_succeeds(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    outcomes = _tried("none", surroundings, tmp_path)["outcomes"]
    held = {name for name, outcome in outcomes.items() if outcome == HELD}
    assert held <= _held_by_others(), "what the machine itself refuses proves nothing of a fence"
    assert len(outcomes) - len(held) > 40


def _held_by_others() -> set[str]:
    """Return what this machine refuses by itself: to whom is not root, mostly."""
    if os.getuid() == 0:
        return {"type into a terminal", "set up io_uring"}
    return {
        "read /etc/shadow", "open the kernel's log", "trace a process",
        "open a process's memory", "type into a terminal", "set up io_uring",
        "leave for another user namespace",
    }  # fmt: skip


@pytest.fixture(scope="module")
def gateway(
    surroundings: Surroundings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Run a gateway behind a fence, over an engine behind another."""
    tmp_path = tmp_path_factory.mktemp("run")
    run = tmp_path / "run"
    engine = [sys.executable, ENGINE, "--socket", str(run / "engine.sock"), "--fence"]
    home = tmp_path / "gateway-home"
    told = {
        "engine": str(run / "engine.sock"),
        "mode": "required",
        "token": TOKEN,
    }
    around = asdict(replace(surroundings, home=str(home)))
    (tmp_path / "parts.json").write_text(json.dumps({**told, "surroundings": around}))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        number = listening.fileno()
        argv = [sys.executable, GATEWAY, str(tmp_path / "parts.json"), str(number)]
        with subprocess.Popen(engine, env=env) as serving:
            asyncio.run(_ready(run / "engine.sock", serving))
            with subprocess.Popen(argv, env=env, pass_fds=(number,), cwd=run) as process:
                listening.close()  # who connects hears of it if the gateway ends
                try:
                    yield Gateway(process, port, tmp_path)
                finally:
                    for each in (process, serving):
                        each.terminate()


async def _ready(path: Path, process: subprocess.Popen[bytes]) -> None:
    async with await connected(path, process) as client:
        await client.ready()


@pytest.mark.parametrize("fence", ["engine", "gateway", "decoder", "upstream"])
def test_the_kernel_and_the_plan_agree_on_paths_of_this_machine(fence: str, tmp_path: Path) -> None:
    """A sample of tests/attack/fences.py."""
    assert fences.wrong(fence, tmp_path, seed=1, tries=200) == []


_AT_EACH_ABI = """
import os, sys
from pathlib import Path
from llava_pack.engine.fence import landlock, seccomp
from llava_pack.engine.fence.value import Fence

secret, own, newest = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
seccomp.forbid_new_privileges()
for abi in range(1, newest + 1):
    if os.fork() == 0:
        landlock.restrict(Fence(write=(own,)), abi)
        (own / "made").write_text("mine")
        try:
            open(secret)
        except PermissionError:
            os._exit(0)
        os._exit(1)
    print(abi, os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_files_are_held_by_every_version_of_landlock(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    """As kernels from 5.13 on have them: what a version does not know yet is left out."""
    arguments = [surroundings.secret, str(tmp_path), str(landlock_abi())]
    done = subprocess.run(
        [sys.executable, "-c", _AT_EACH_ABI, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [
        word for n in range(1, landlock_abi() + 1) for word in (str(n), "0")
    ]


_WITHOUT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from llava_pack.engine.fence import capabilities, landlock, seccomp
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import Fence
from llava_pack.format.errors import PackError

fence, newest = Fence(), landlock.version()
missing, required = sys.argv[1], sys.argv[2] == "required"

def refused(*_):
    raise (landlock.LandlockError if missing == "landlock" else seccomp.SeccompError)("not here")

if missing == "landlock":
    landlock.version = refused
elif missing == "seccomp":
    seccomp.install = refused
elif missing == "both":
    seccomp.forbid_new_privileges = refused
elif missing == "rights":
    def kept():
        raise capabilities.CapabilitiesError("not here")
    capabilities.give_up = kept
elif missing == "rules":
    landlock.restrict = lambda *_: None  # as a kernel that says yes and does nothing
elif missing == "filter":
    seccomp.install = lambda *_: None
elif missing == "ports":
    landlock.version = lambda: min(3, newest)  # as Linux 6.2 to 6.6
    fence = Fence(sockets="tcp", ports=(21001,))
elif missing == "rules of ports":
    landlock.holds_ports = lambda _: True
    landlock.version = lambda: min(3, newest)
    fence = Fence(sockets="tcp", ports=(21001,))
elif missing == "time":
    import threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    told = asdict(raise_fence(fence, required=required))
except PackError as error:
    told = {"error": error.kind}
print(json.dumps(told))
"""


@pytest.mark.parametrize(
    ("missing", "held"),
    [("landlock", "calls"), ("rules", "calls"), ("seccomp", "files"), ("filter", "files"),
     ("both", ""), ("rights", "files and calls"), ("ports", "files and calls"),
     ("rules of ports", "files and calls")],
)  # fmt: skip
def test_a_fence_that_is_not_whole_is_told_as_that_and_refused_where_it_is_required(
    missing: str, held: str
) -> None:
    told = _told(missing, "on")
    assert (told["landlock"] > 0, told["seccomp"]) == ("files" in held, "calls" in held)
    assert told["why"]
    assert _told(missing, "required") == {"error": "serve"}


def test_a_kernel_that_holds_no_ports_is_told_as_that() -> None:
    release = os.uname().release
    assert _told("ports", "on")["why"] == f"Linux {release} cannot restrict TCP ports"


_LAUNCHED = """
import sys
from llava_pack.engine.fence import landlock
from llava_pack.llava_serve import launcher

newest = landlock.version()
landlock.version = lambda: min(3, newest)
launcher.main(["controller"])
"""


def test_a_launcher_ends_where_its_fence_is_required_and_not_whole(tmp_path: Path) -> None:
    bounds = Bounds(mode="required", ports=(21001,))
    argv = (sys.executable, "-c", _LAUNCHED)
    environment = {**os.environ, FENCE_VARIABLE: str(bounds)}
    program = Program(role="controller", argv=argv, environment=environment, directory=tmp_path)
    running = UpstreamProcesses([program], free_ports(0), "m", token="")

    async def run() -> None:
        async with running:
            await running.start()

    with pytest.raises(
        ServeError, match=r"exited with code 15.*cannot restrict TCP ports"
    ) as ended:
        asyncio.run(run())
    assert ended.value.hint == (
        "leave out --require-fence, or boot a kernel with Landlock, 6.7 or newer"
    )
    assert running.standings() == {}


def test_a_fence_that_would_hold_one_thread_of_several_is_a_bug() -> None:
    assert _told("time", "on") == {"error": "bug"}
    assert _told("nothing", "required")["why"] == ""


def _told(missing: str, mode: str) -> dict[str, Any]:
    argv = [sys.executable, "-c", _WITHOUT, missing, mode]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_gateway_behind_its_fence_answers_and_nothing_gets_out(gateway: Gateway) -> None:
    with gateway.client() as http:
        parts = [{"type": "text", "text": "hello"}]
        parts.append({"type": "image_url", "image_url": {"url": _data_url()}})  # type: ignore[dict-item]
        asked = {"model": "echo", "messages": [{"role": "user", "content": parts}]}
        said = http.post("/v1/chat/completions", json={**asked, "temperature": 0}).json()
        assert said["choices"][0]["message"]["content"].startswith("You said: hello Picture 1x1")
        told = http.get("/startupz").json()
        assert [told["fence"]["whole"], told["models"]["echo"]["fence"]["whole"]] == [True, True]
        found = http.get("/v1/models/escapes", timeout=300).json()
        assert found == dict.fromkeys(FOR_GATEWAY, HELD)


@pytest.mark.browser
def test_the_page_works_behind_the_fence(gateway: Gateway, tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from tests.support.page import chromium, opened_tab

    picture = tmp_path / "red.png"
    Image.new("RGB", (8, 4), "red").save(picture)
    with chromium() as browser, opened_tab(browser) as tab:
        tab.open(gateway.url)
        tab.ask("hello", picture)
        tab.answered()
        assert "Picture 8x4 of 255,0,0." in tab.answers.last.inner_text()
        assert tab.complaints == []
