"""The real gateway over the reference engine, as processes: what `llava-pack serve` runs.

Run it: `python tests/support/gateway.py --state-dir DIR [--engine "…options of engine.py…"]`;
it prints one JSON line when it is ready and serves until told to end.
"""

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from llava_pack.cli.server.proof import proof_of
from llava_pack.engine.port import EngineInfo
from llava_pack.format.errors import PackError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.manifest import Engine
from llava_pack.format.progress import Silent
from llava_pack.profiles.profile import Node
from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.access.public_name import public_name
from llava_pack.serve.aliases import aliases_of
from llava_pack.serve.care import RESTS_S, Care
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.nodes.crew import Crew, CrewPlan
from llava_pack.serve.nodes.wire import SharedSettings
from llava_pack.serve.replicas.address import replica_addresses
from llava_pack.serve.run_state import RunState
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.commands import engine_command
from llava_pack.serve.supervision.gateway_process import GATEWAY_PROGRAM
from llava_pack.serve.supervision.listener import listen_on_port, listen_on_socket
from llava_pack.serve.supervision.plans import EnginePlan
from llava_pack.serve.supervision.replica import Expected
from llava_pack.serve.supervision.replicas import ReplicasPlan
from llava_pack.serve.supervision.supervisor import ServePlan, run
from llava_pack.serve.supervision.systemd import Notifier
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "the-token-of-this-start"
START_SECRET = "what cookies and the like are derived from"
_FOREIGN = "ENGINE PYTHON MODEL_DIR, of engine_program.py"
KEY = "the-key-of-somebody-else"
"""Accepted too, where `--key` gives it."""
JOIN_KEY = "the-key-of-these-nodes"
BUNDLE_ID = "ab" * 32
"""What all nodes have, unless another one is said."""
TETHER = b"serve/tether.py"


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

    def client(self, key: str = TOKEN, **headers: str) -> httpx.Client:
        """Return a client that shows the token, or another key."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}", **headers},
            transport=httpx.HTTPTransport(uds=str(self.socket)) if self.socket else None,
            trust_env=False,
            timeout=200,
        )

    def engine_pids(self) -> list[int]:
        """Return the engine processes of this gateway."""
        return self._children(b"--socket")

    def strand_pids(self) -> list[int]:
        """Return the processes that hold engines and gateway, two for each."""
        return self._children(TETHER)

    def decoder_pids(self) -> list[int]:
        """Return the processes that decode pictures for this gateway."""
        decoder = b"llava_pack.engine.inputs.decoder_process"
        return [pid for own in self.gateway_pids() for pid in _children(own, decoder)]

    def gateway_pid(self) -> int:
        """Return the process that answers; waits where one is being replaced."""
        return until(self.gateway_pids)[0]

    def gateway_pids(self) -> list[int]:
        """Return the process that answers, where there is one."""
        own, of_tests = b"llava_pack.serve.gateway.process", b"gateway_process.py"
        return self._children(own) or self._children(of_tests)

    def _children(self, word: bytes) -> list[int]:
        return _children(self.process.pid, word)


def _children(parent: int, word: bytes) -> list[int]:
    """Return what runs below a process, behind tethers, and has a word on its command line."""
    found: list[int] = []
    for child in _below(parent):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes()
            found += [child] if word in words else []
            found += _children(child, word) if TETHER in words else []
    return found


def _below(parent: int) -> list[int]:
    with contextlib.suppress(OSError):
        threads = list(Path(f"/proc/{parent}/task").iterdir())
        return [int(n) for one in threads for n in (one / "children").read_text().split()]
    return []


@contextmanager
def gateway(
    state_directory: Path, *options: str, engine: str = "", wrap: Sequence[str] = ()
) -> Iterator[Gateway]:
    """Run a gateway, ready, until the block ends; `wrap` is a command that runs commands."""
    argv = [*wrap, sys.executable, __file__, "--state-dir", str(state_directory), *options]
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
            process.wait(timeout=200)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the reference engine until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--engine", default="")
    parser.add_argument("--models", nargs="*", default=["echo"])
    parser.add_argument("--replica", action="append", default=[], help="another such gateway")
    parser.add_argument("--replica-key", default=TOKEN)
    parser.add_argument("--dialect", choices=["vllm"], help="the engine is one of others")
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--web", action="store_true")
    parser.add_argument("--no-token", action="store_true")
    parser.add_argument("--start-secret", default=START_SECRET)
    parser.add_argument("--key", action="append", default=[], help="opens it beside the token")
    parser.add_argument("--note-calls", type=Path, help="every look-up and connection, by line")
    parser.add_argument(
        "--without", nargs="*", default=[], help="checks of mutations.py to leave out"
    )
    parser.add_argument("--no-fence", action="store_true", help="around the gateway")
    parser.add_argument("--bundle-id")
    parser.add_argument("--stall-s", type=float, default=60.0)
    parser.add_argument("--grace-s", type=float, default=5.0)
    parser.add_argument("--gateway-s", type=float)
    parser.add_argument("--rests-s", type=float, nargs="+", default=list(RESTS_S))
    parser.add_argument("--alias", nargs="*", default=[], help="as --served-model-name")
    parser.add_argument("--queue", type=int, default=256)
    parser.add_argument("--picture-root", type=Path)
    parser.add_argument("--drain-s", type=float, default=5.0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--keys", type=Path, help="the store of keys")
    parser.add_argument("--audit", type=Path, help="the audit log")
    parser.add_argument("--public-url", default="")
    parser.add_argument("--root-path", default="")
    for option in ("--allowed-host", "--allow-origin", "--trusted-proxy"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--proof", help="what the model must answer to a picture")
    parser.add_argument("--nodes", type=int, default=1, help="with the engine of node_engine.py")
    parser.add_argument("--address", default="", help="of the head, with --nodes")
    parser.add_argument("--interface", default="", help="of the head, with --nodes")
    parser.add_argument("--join-port", type=int, default=29500)
    parser.add_argument("--foreign", nargs=3, action="append", default=[], help=_FOREIGN)
    given = parser.parse_args(argv)
    foreign = tuple(_foreign_plan(*words) for words in given.foreign)
    crew = _crew(given) if given.nodes > 1 else None
    listening = (
        listen_on_socket(given.socket) if given.socket else listen_on_port("127.0.0.1", given.port)
    )
    port = 7860 if given.socket else listening.getsockname()[1]
    notifier = Notifier.from_environment(os.environ)

    def announce(_infos: tuple[EngineInfo, ...]) -> None:
        fields: dict[str, Any] = {"port": port, "socket": given.socket and str(given.socket)}
        print(json.dumps(fields), flush=True)

    state = RunState(
        pid=os.getpid(),
        host="127.0.0.1",
        port=port,
        token="" if given.no_token else TOKEN,
        socket=str(given.socket) if given.socket else None,
        models=(*given.models, *(one.name for one in foreign)) or ("echo",),
        started=1,
        bundle_id=given.bundle_id,
        log=str(given.log) if given.log else "",
        drain_s=given.drain_s,
        replicas=tuple(given.replica),
    )
    plan = ServePlan(
        listening=listening,
        plans=(*(_plan(name, given.proof) for name in given.models), *foreign),
        command=lambda plan, socket: (
            engine_command(plan, socket)
            if plan in foreign
            else _command(plan.name, socket, given, crew)
        ),
        crew=crew,
        prover=proof_of,
        care=Care(
            stall_s=given.stall_s,
            grace_s=given.grace_s,
            queue=given.queue,
            gateway_s=given.gateway_s,
            rests_s=tuple(given.rests_s),
        ),
        policy=_policy(given),
        aliases=aliases_of(given.alias, given.models),
        audit=AuditPlan(to="file" if given.audit else "off", path=str(given.audit or "")),
        state=state,
        state_directory=given.state_dir,
        web=given.web,
        picture_root=given.picture_root,
        fence="off" if given.no_fence else "on",
        gateway_argv=_gateway_argv(given),
        log=given.log,
        notifier=notifier,
        replicas=_replicas(given, port),
    )
    try:
        return run(plan, announce, Silent())
    except PackError as error:
        print(json.dumps({"error": error.kind, "message": str(error)}), flush=True)
        return int(error.exit_code)


def _replicas(given: argparse.Namespace, port: int) -> ReplicasPlan:
    """Return the replicas that are asked, all with one key."""
    one = replica_addresses(given.replica, {"": given.replica_key})
    if len(given.models) > 1:
        return ReplicasPlan()
    expected = Expected(model=(given.models or ["echo"])[0], bundle_id=given.bundle_id)
    own = f"unix:{given.socket}" if given.socket else f"127.0.0.1:{port}"
    return ReplicasPlan(expected=expected, own=own, replicas=one)


def _gateway_argv(given: argparse.Namespace) -> tuple[str, ...]:
    """Return the gateway's own program, or one that leaves out a check or tells whom it calls."""
    if not (given.without or given.note_calls):
        return GATEWAY_PROGRAM
    script = str(ROOT / "tests" / "support" / "gateway_process.py")
    notes = str(given.note_calls or "-")
    return (sys.executable, "-X", "faulthandler", script, ",".join(given.without) or "-", notes)


def _policy(given: argparse.Namespace) -> AccessPolicy:
    return AccessPolicy(
        secrets=None if given.no_token else (TOKEN, *given.key),
        start_secret=given.start_secret,
        key_store=str(given.keys or ""),
        name=public_name(
            public_url=given.public_url,
            hosts=given.allowed_host,
            root_path=given.root_path,
            origins=given.allow_origin,
            proxies=given.trusted_proxy,
        ),
    )


def _foreign_plan(engine: Engine, python: str, model_dir: str) -> EnginePlan:
    """Return how a stub of an engine of others is served; it gives one answer, see there."""
    known = KnownAnswer(name="red", picture_png="", prompt="hi", contains=("red",))
    return EnginePlan(
        name=engine,
        model_dir=Path(model_dir),
        python=Path(python),
        engine=engine,
        version="1.2.3",
        architecture="LlavaForConditionalGeneration",
        precision="fp16",
        device="cuda",
        context_tokens=4096,
        known_answers=(known,),
    )


def _plan(name: str, proof: str | None) -> EnginePlan:
    known = KnownAnswer(name="echo", picture_png="", prompt="hi", contains=(proof or "",))
    return EnginePlan(
        name=name,
        model_dir=ROOT,
        vision_tower=None,
        model_base=None,
        precision="fp32",
        device="cpu",
        slots=2,
        context_tokens=None,
        conv_mode=None,
        python=Path(sys.executable),
        known_answers=(known,) if proof else (),
    )


def _crew(given: argparse.Namespace) -> Crew:
    settings = SharedSettings(
        precision="fp32", device="cpu", slots=2, context_tokens=None, gpus=None
    )
    plan = CrewPlan(
        listening=listen_on_port(given.address, given.join_port),
        count=given.nodes,
        bundle_id=given.bundle_id or BUNDLE_ID,
        key=JOIN_KEY,
        port=given.join_port + 1,
        settings=settings,
    )
    return Crew(plan, lambda text: print(text, file=sys.stderr, flush=True))


def node_command(name: str, node: Node, socket: Path, engine: str) -> EngineCommand:
    """Return how one rank of an engine over several nodes is started.

    Args:
        name: of the model.
        node: its place.
        socket: where the first rank listens.
        engine: more options of node_engine.py.
    """
    script = ROOT / "tests" / "support" / "node_engine.py"
    argv = [sys.executable, str(script), "--rank", str(node.rank), "--count", str(node.count)]
    argv += ["--head", node.head, "--port", str(node.port), "--socket", str(socket)]
    return EngineCommand(
        name=name,
        argv=(*argv, *shlex.split(engine)),
        address=EngineAddress(socket=socket),
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _command(
    name: str, socket: Path, given: argparse.Namespace, crew: Crew | None
) -> EngineCommand:
    if crew is not None:
        node = Node(
            rank=0,
            count=given.nodes,
            head=given.address,
            port=given.join_port + 1,
            own=given.address,
            interface=given.interface,
        )
        return replace(node_command(name, node, socket, given.engine), others=crew)
    script = "engine.py" if given.dialect is None else "openai_engine.py"
    broken = ("--no-such-option",) if name == "broken" else ()
    argv = [sys.executable, "-X", "faulthandler", str(ROOT / "tests" / "support" / script)]
    argv += ["--socket", str(socket)]
    argv += ["--fence"] if given.dialect is None else ["--dialect", given.dialect]
    return EngineCommand(
        name=name,
        argv=(*argv, *shlex.split(given.engine), *broken),
        address=_address(socket, given),
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _address(socket: Path, given: argparse.Namespace) -> EngineAddress:
    if given.dialect is None:
        return EngineAddress(socket=socket)
    options = shlex.split(given.engine)
    slots = int(options[options.index("--slots") + 1]) if "--slots" in options else 2
    info = EngineInfo(
        model="echo", precision="fp32", device="cpu", context_tokens=0, slots=slots,
        conv_mode="llava_v1", image_tokens=4,
    )  # fmt: skip
    return EngineAddress(
        socket=socket, engine=given.dialect, info=info, tokens=("<s>", "</s>", "<image>")
    )


if __name__ == "__main__":
    sys.exit(main())
