"""What `llava_pack` is in the wheel of a simulated bundle: a server of one word, and its health.

Run by the interpreter of a generation. `FATE` is filled in by the simulator: `works`, `crashes` at
its start, or `unwell` when it is asked. Any other command prints the prefix and its arguments.
"""

import fcntl
import json
import os
import platform
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO

FATE = "works"
RELEASE = 0


def publish(folder: Path, *, as_earlier: bool) -> IO[bytes]:
    """Write the run state of this process as `serve` does, and return the file that is its lock."""
    from llava_pack.serve.origin import origin

    state = {"pid": os.getpid(), **({} if as_earlier else origin(os.getpid()))}
    path = folder / f"serve-{platform.node() or 'localhost'}-{os.getpid()}.json"
    held = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    fcntl.flock(held, fcntl.LOCK_EX)
    held.write(json.dumps(state).encode())
    held.flush()
    return held


def serve(run: Path, *, as_earlier: bool) -> int:
    """Answer every connection with the release, until told to end."""
    if FATE == "crashes":
        sys.stderr.write("the new engine cannot be loaded\n")
        return 15
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run.parent.mkdir(exist_ok=True)
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, publish(run.parent, as_earlier=as_earlier) as held:
        beside = run.with_suffix(".new")
        beside.write_text(json.dumps({"pid": os.getpid(), "port": listening.getsockname()[1]}))
        beside.rename(run)
        try:
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(str(RELEASE).encode())
        finally:
            run.unlink(missing_ok=True)
            Path(f"/proc/self/fd/{held.fileno()}").readlink().unlink()


def ask(run: Path) -> str:
    """Return what the server answers; empty where none does."""
    try:
        address = ("127.0.0.1", json.loads(run.read_text())["port"])
        with socket.create_connection(address, timeout=200) as connection:
            return connection.recv(64).decode()
    except (OSError, ValueError):
        return ""


def health(run: Path, *, wait_s: float) -> int:
    """Say whether the server answers, and is well."""
    until_s = time.monotonic() + wait_s
    while not (said := ask(run)) and time.monotonic() < until_s:
        time.sleep(0.02)
    well = bool(said) and (wait_s > 0 or FATE != "unwell")
    sys.stdout.write("OK\n" if well else "CRITICAL: the model does not see\n")
    return 0 if well else 2


def main(arguments: list[str]) -> int:
    """Run one command."""
    prefix = Path(os.environ["LLAVA_PACK_PREFIX"])
    run = prefix / "run" / "stub.json"
    if arguments[:1] == ["serve"] and "--really" in arguments:
        return serve(run, as_earlier="--as-earlier" in arguments)
    if arguments[:1] == ["health"]:
        return health(run, wait_s=float(arguments[2]) if len(arguments) > 1 else 0)
    sys.stdout.write(" ".join([str(prefix), *arguments]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
