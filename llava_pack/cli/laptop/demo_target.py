"""The target's half of the demo, run where no network is: install, serve, ask, health, stop.

Every step is a command that a person would type. The phases go to a JSON file, because this runs
in a namespace of its own.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_pack.cli.laptop.silence import has_route
from llava_pack.cli.unwinding import unwinding

READY_TIMEOUT_S = 600
STOP_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One row of the demo's table; `size_bytes` is what the phase moved, None where none."""

    name: str
    took_s: float
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TargetRun:
    """What the target's half found.

    Attributes:
        silent: there was no route to another host while it ran.
        answer: what the model said about the picture.
    """

    silent: bool
    answer: str
    phases: tuple[Phase, ...]


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Start a child that ends with the block, however that is left.

    SIGTERM waits until the child is known: it must not fall between its start and its name.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def listen() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    with subprocess.Popen(command, preexec_fn=listen, **options) as process:  # noqa: PLW1509 - no threads here
        try:
            listen()
            yield process
        finally:
            stop(process)


def stop(process: "subprocess.Popen[Any]") -> None:
    """End a child: it is asked to, and killed where it does not; one that has ended is left."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # an engine ends with its server


def ran(command: Sequence[str], **options: Any) -> int:
    """Run a child to its end and return its exit code.

    Ctrl-C reaches a child by itself, which then ends in its own time.
    """
    with child(command, **options) as process:
        while True:
            try:
                return int(process.wait())
            except KeyboardInterrupt:
                continue


def run_target(bundle: Path, bundle_id: str, prefix: Path, picture: Path, port: int) -> TargetRun:
    """Install the bundle, serve it, ask it, check its health and stop it.

    Raises:
        CalledProcessError: a step failed; it has said why on stderr.
    """
    phases: list[Phase] = []
    installer = ["sh", str(bundle / "install.sh"), "--bundle", str(bundle)]
    installer += ["--expect", bundle_id, "--prefix", str(prefix)]
    size_bytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    began = time.monotonic()
    _done(installer)
    silent = not has_route()
    phases.append(_phase("install, no network" if silent else "install", began, size_bytes))
    program = str(prefix / "bin" / "llava-pack")
    began = time.monotonic()
    with child(serving(program, port), stdout=sys.stderr) as server:
        _wait_ready(program, server)
        phases.append(_phase("serve, until ready", began))
        began = time.monotonic()
        question = ["chat", "--image", str(picture), "--prompt", "What is in the picture?"]
        answer = _json_of([program, *question, "--json"])["text"]
        phases.append(_phase("ask about a picture", began))
        began = time.monotonic()
        _done([program, "health"], well=(0, 1))  # a slow machine is warned of
        phases.append(_phase("health", began))
        began = time.monotonic()
        stop(server)
    if server.returncode:
        raise subprocess.CalledProcessError(server.returncode, server.args)
    phases.append(_phase("stop", began))
    return TargetRun(silent=silent, answer=str(answer), phases=tuple(phases))


def serving(program: str, port: int) -> list[str]:
    """Return the command that serves; root of a test machine has to say that it means it."""
    as_root = ["--as-root"] if os.geteuid() == 0 else []
    return [program, "serve", "--port", str(port), *as_root]


def _done(command: Sequence[str], *, well: Sequence[int] = (0,)) -> None:
    code = ran(command, stdout=sys.stderr)
    if code not in well:
        raise subprocess.CalledProcessError(code, command)


def _phase(name: str, began: float, size_bytes: int | None = None) -> Phase:
    return Phase(name=name, took_s=time.monotonic() - began, size_bytes=size_bytes)


def _wait_ready(program: str, server: "subprocess.Popen[Any]") -> None:
    command = [program, "health", "--wait-ready", str(READY_TIMEOUT_S)]
    with child(command, stdout=sys.stderr) as waiting:
        while (code := waiting.poll()) is None:
            if server.poll() is not None:
                raise subprocess.CalledProcessError(server.returncode, server.args)
            time.sleep(0.1)
    if code:
        raise subprocess.CalledProcessError(code, command)


def _json_of(command: Sequence[str]) -> dict[str, object]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    parsed: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return parsed


def main(arguments: Sequence[str]) -> int:
    """Run with: bundle, id, prefix, picture, port, file for the result."""
    bundle, bundle_id, prefix, picture, port, result = arguments
    try:
        with unwinding():
            run = run_target(Path(bundle), bundle_id, Path(prefix), Path(picture), int(port))
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    Path(result).write_text(json.dumps(asdict(run)), encoding="utf-8")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
