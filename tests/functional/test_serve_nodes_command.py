"""`serve --nodes` and the line that it prints, over two installations with an engine's environment.

The engine is the stub of `engine_program.py`: its first rank answers once the other one has come.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.format.manifest import Manifest
from llava_pack.format.progress import Silent
from llava_pack.target import installer
from tests.support.bundle import BundleSimulator
from tests.support.engine_program import ANSWER, MAIN
from tests.support.namespaces import unshared
from tests.support.site import Site
from tests.support.two_networks import Machine, two_machines
from tests.support.waiting import until

pytestmark = [
    pytest.mark.skipif(not unshared("-rn"), reason="no network namespaces here"),
    pytest.mark.timeout(120),
]
RANKS = """
import socket as _socket, sys as _sys

def _value(name):
    return _sys.argv[_sys.argv.index(name) + 1]

PLACE = (_value("--master-addr"), int(_value("--master-port")))
if "--headless" in _sys.argv:
    import time as _time
    while True:
        try:
            with _socket.create_connection(PLACE) as first:
                first.recv(1)
            _sys.exit("the first rank is gone")
        except ConnectionRefusedError:
            _time.sleep(0.05)
with _socket.create_server(PLACE) as meeting:
    HELD = [meeting.accept()[0] for _ in range(1, int(_value("--nnodes")))]
"""


class SpreadBundle(BundleSimulator):
    """A bundle that the stub serves, which calls itself vLLM."""

    def payload(self) -> dict[str, bytes]:
        files = super().payload()
        folder = "model/tiny-llava"
        config = json.loads(files[f"{folder}/config.json"])
        config["architectures"] = ["LlavaForConditionalGeneration"]
        more: Mapping[str, Any] = {"config": config, "behaviour": {}, "tokenizer": {}}
        return files | {f"{folder}/{n}.json": json.dumps(v).encode() for n, v in more.items()}

    def manifest(self, contents: Any) -> Manifest:
        plain = super().manifest(contents)
        floors = replace(plain.floors, driver=None)
        serving = replace(plain.serving, engine="vllm", precision="fp16", device="auto")
        return replace(plain, serving=serving, floors=floors, known_answers=())


def _engine_wheel(folder: Path) -> Path:
    folder.mkdir()
    wheel = folder / "vllm-0.33.0-py3-none-any.whl"
    about = "vllm-0.33.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for place in ("vllm", "vllm/entrypoints", "vllm/entrypoints/cli"):
            archive.writestr(f"{place}/__init__.py", "")
        archive.writestr("vllm/entrypoints/cli/main.py", RANKS + MAIN)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Install the bundle twice, as on two machines."""
    site = Site(tmp_path_factory.mktemp("site"))
    wheel = _engine_wheel(site.folder / "wheels")
    site.ids["spread"] = SpreadBundle(engine=(wheel,)).write(site.medium("spread"))
    found = []
    for name in ("one", "two"):
        prefix = site.folder / name
        request = replace(site.request("spread"), prefix=prefix)
        installer.install(request, Silent())
        venv = prefix / "models" / "tiny" / "current" / "venv"
        shutil.rmtree(venv)
        venv.symlink_to(sys.prefix)
        found.append(prefix)
    return found[0], found[1]


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


def _run(machine: Machine, line: str, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Have a shell on a machine run a line, to its end."""
    return subprocess.run(
        [*machine.wrap, "sh", "-c", line], capture_output=True, text=True, check=check, env=_bare()
    )


def _bare() -> dict[str, str]:
    kept = ("PATH", "HOME", "PYTHONPYCACHEPREFIX", "TMPDIR")
    return {**{n: os.environ[n] for n in kept if n in os.environ}, "LLAVA_PACK_AS_ROOT": "1"}


@contextmanager
def _serving(machine: Machine, line: str, out: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with out.open("wb") as file:
        command = [*machine.wrap, "sh", "-c", f"exec {line}"]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_bare())
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def test_a_person_pastes_the_line_and_the_page_answers(
    prefixes: tuple[Path, Path], machines: tuple[Machine, Machine]
) -> None:
    (head, other), (one, two) = prefixes, machines
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:
        out, api = Path(folder, "out"), Path(folder, "api")
        serve = f"{head}/bin/llava-pack serve --socket {api} --no-web --no-fence"
        serve += f" --nodes 2 --address {one.address}"
        with _serving(one, serve, out) as process:
            line = until(lambda: _pasted(out, process))
            assert out.read_text().count("--rank") == 1
            node = line.replace(str(head), str(other))
            started = _run(two, f"{node} --detach")
            assert "node 1 of 10.77.0.1:29500" in started.stderr
            until(lambda: "On your laptop" in out.read_text())
            asked = _run(one, f"{head}/bin/llava-pack status --json")
            [server] = json.loads(asked.stdout)["servers"]
            assert server["models"]["tiny-llava"]["phase"] == "ready"
            told = _run(two, f"{other}/bin/llava-pack status")
            assert "node 1 of 10.77.0.1:29500: running" in told.stdout
            answer = _run(one, f"{head}/bin/llava-pack chat --prompt hi")
            assert ANSWER in answer.stdout
            swap = _run(one, f"{head}/bin/llava-pack swap tiny-llava tiny", check=False)
            assert swap.returncode == 2
            assert "several machines hold it" in swap.stderr
            again = _run(two, f"{other}/bin/llava-pack stop")
            assert "the node, process" in again.stderr
            gone = _run(two, f"{other}/bin/llava-pack status", check=False)
            assert gone.returncode == 15


def test_a_script_reads_what_to_run_on_the_nodes_and_then_where_it_serves(
    prefixes: tuple[Path, Path], machines: tuple[Machine, Machine]
) -> None:
    (head, other), (one, two) = prefixes, machines
    for seen in (seen for prefix in prefixes for seen in prefix.rglob("seen-*.json")):
        seen.unlink()  # which the engine wrote beside its model
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:
        out = Path(folder, "out")
        serve = f"{head}/bin/llava-pack serve --socket {folder}/api --no-web --no-fence"
        serve += f" --nodes 2 --address {one.address} --json 2>/dev/null"
        with _serving(one, serve, out):
            [told] = until(lambda: _objects(out))
            assert told["kind"] == "nodes"
            assert told["firewall"].keys() >= {"nftables"}
            [line] = told["join"]
            _run(two, f"{line.replace(str(head), str(other))} --detach")
            until(lambda: len(_objects(out)) > 1)
            _run(two, f"{other}/bin/llava-pack stop")
        assert [one["kind"] for one in _objects(out)] == ["nodes", "serve"]


def _objects(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def _pasted(out: Path, process: "subprocess.Popen[bytes]") -> str:
    assert process.poll() is None, out.read_text()
    lines = out.read_text().splitlines()
    return next((line for line in lines if line.startswith("LLAVA_PACK_JOIN_KEY=")), "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("--nodes 2 --address 10.77.0.9", 2, "10.77.0.9 is not an address of this machine"),
        ("--nodes 2 --address 127.0.0.1", 2, "no other machine reaches 127.0.0.1"),
        ("--nodes 2", 2, "expected --address beside it"),
        ("--nodes 2 --address 10.77.0.1 --require-fence", 15, "a complete fence is required"),
        (
            f"--join 10.77.0.1:29500 --rank 1 --fingerprint {'0' * 64}",
            4,
            f"expected bundle {'0' * 64} as on the head, got ",
        ),
    ],
)
def test_what_is_refused_is_told_before_anything_runs(
    prefixes: tuple[Path, Path], machines: tuple[Machine, Machine], words: str, code: int, told: str
) -> None:
    done = _run(machines[0], f"{prefixes[0]}/bin/llava-pack serve {words}", check=False)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "LLAVA_PACK_JOIN_KEY=" not in done.stdout + done.stderr
