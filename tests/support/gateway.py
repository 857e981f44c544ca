"""The real gateway over the reference engine, as processes: what `llava-pack serve` runs.

Run it: `python tests/support/gateway.py --state-dir DIR [--engine "…options of engine.py…"]`;
it prints one JSON line when it is ready and serves until told to end.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llava_pack.engine.port import EngineInfo
from llava_pack.format.errors import PackError
from llava_pack.format.progress import Silent
from llava_pack.serve.access import AccessPolicy
from llava_pack.serve.listener import listen_on_port, listen_on_socket
from llava_pack.serve.process import EngineCommand
from llava_pack.serve.scratch import Scratch
from llava_pack.serve.state import RunState
from llava_pack.serve.supervisor import ServePlan, run

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "the-token-of-this-start"


@dataclass
class Gateway:
    """A gateway that runs."""

    process: subprocess.Popen[bytes]
    port: int
    state_directory: Path
    socket: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **headers: str) -> httpx.Client:
        """Return a client that shows the token."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {TOKEN}", **headers},
            transport=httpx.HTTPTransport(uds=str(self.socket)) if self.socket else None,
            trust_env=False,
            timeout=30,
        )

    def engine_pids(self) -> list[int]:
        """Return the engine processes of this gateway."""
        path = Path(f"/proc/{self.process.pid}/task")
        children = [(task / "children").read_text().split() for task in path.iterdir()]
        return [int(pid) for pids in children for pid in pids]


@contextmanager
def gateway(state_directory: Path, *options: str, engine: str = "") -> Iterator[Gateway]:
    """Run a gateway, ready, until the block ends."""
    argv = [sys.executable, __file__, "--state-dir", str(state_directory), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*argv, "--engine", engine], stdout=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            socket = Path(said["socket"]) if said["socket"] else None
            yield Gateway(process, said["port"], state_directory, socket)
        finally:
            process.terminate()
            process.wait(timeout=20)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the reference engine until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--engine", default="")
    parser.add_argument("--models", nargs="+", default=["echo"])
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--web", action="store_true")
    parser.add_argument("--no-token", action="store_true")
    parser.add_argument("--bundle-id")
    given = parser.parse_args(argv)
    listening = listen_on_socket(given.socket) if given.socket else listen_on_port("127.0.0.1", 0)
    port = 7860 if given.socket else listening.getsockname()[1]

    def commands(scratch: Scratch) -> list[EngineCommand]:
        return [_command(name, scratch.socket(n), given) for n, name in enumerate(given.models)]

    def announce(_infos: tuple[EngineInfo, ...]) -> None:
        fields: dict[str, Any] = {"port": port, "socket": given.socket and str(given.socket)}
        print(json.dumps(fields), flush=True)

    state = RunState(
        pid=os.getpid(),
        host="127.0.0.1",
        port=port,
        token="" if given.no_token else TOKEN,
        socket=str(given.socket) if given.socket else None,
        models=tuple(given.models),
        started=1,
        bundle_id=given.bundle_id,
    )
    plan = ServePlan(
        listening=listening,
        commands=commands,
        policy=AccessPolicy(secrets=None if given.no_token else (TOKEN,)),
        state=state,
        state_directory=given.state_dir,
        web=given.web,
    )
    try:
        return run(plan, announce, Silent())
    except PackError as error:
        print(json.dumps({"error": error.kind, "message": str(error)}), flush=True)
        return int(error.exit_code)


def _command(name: str, socket: Path, given: argparse.Namespace) -> EngineCommand:
    script = ROOT / "tests" / "support" / "engine.py"
    return EngineCommand(
        name=name,
        argv=(sys.executable, str(script), "--socket", str(socket), *shlex.split(given.engine)),
        socket=socket,
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
    )


if __name__ == "__main__":
    sys.exit(main())
