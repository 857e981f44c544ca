"""Ways out of a fence, each tried for real; what comes back says whether it was held.

Run it: `python tests/support/escapes.py PARTS.json`, which raises the fence that PARTS names, or
none, and prints one JSON object, the outcome by the name of the attempt.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HELD = "held"
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17
_X32 = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = {
    "x86_64": {"getpid": 39, "shmget": 29, "process_vm_readv": 310, "keyctl": 250},
    "aarch64": {"getpid": 172, "shmget": 194, "process_vm_readv": 270, "keyctl": 219},
}[os.uname().machine]
_TIOCSTI = 0x5412
_MPTCP = 262
_MSG_FASTOPEN = 0x20000000


@dataclass(frozen=True)
class Surroundings:
    """What there is to get at, outside every fence."""

    secret: str
    """A file of the account, mode 0600."""
    model: str
    """Another model's file."""
    folder: str
    """A folder of the account."""
    home: str
    """The private folder of whoever tries."""
    port: int
    """Where somebody listens on 127.0.0.1."""
    datagrams: int
    """Where somebody takes datagrams on 127.0.0.1."""
    unix: str
    """Path of a Unix socket on which somebody listens."""
    abstract: str
    """Name of an abstract one."""
    victim: int
    """A process of the same account."""
    within: tuple[int, int] = (0, 0)
    """TCP ports that LLaVA's own programs are let through: somebody listens, and nobody does."""


class HeldError(Exception):
    """A system call that is made by its number was refused as such."""


Attempt = Callable[[Surroundings], object]


def _raw(number: int, *arguments: int) -> int:
    """Make a system call; any answer but EPERM says that the kernel looked at it."""
    given = [ctypes.c_long(one) for one in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *given))
    if result < 0 and ctypes.get_errno() == 1:
        raise HeldError
    return result


def _c(function: str, *arguments: int) -> None:
    given = [ctypes.c_long(one) for one in arguments]
    if int(getattr(_LIBC, function)(*given)) < 0:
        raise OSError(ctypes.get_errno(), function)


def _trace(one: Surroundings) -> None:
    _c("ptrace", _PTRACE_SEIZE, one.victim, 0, 0)
    _c("ptrace", _PTRACE_DETACH, one.victim, 0, 0)


def _by_link(one: Surroundings) -> bytes:
    link = Path(one.home, "link")
    os.link(one.secret, link)
    return link.read_bytes()


def _by_symlink(one: Surroundings) -> bytes:
    return Path("/proc/self/root", one.secret.removeprefix("/")).read_bytes()


def _by_moving(one: Surroundings) -> bytes:
    moved = Path(one.home, "moved")
    Path(one.model).rename(moved)
    try:
        return moved.read_bytes()
    finally:
        moved.rename(one.model)


def _in_a_thread(one: Surroundings) -> bytes:
    found: list[bytes | OSError] = []

    def read() -> None:
        try:
            found.append(Path(one.secret).read_bytes())
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _connect(family: int, address: object, protocol: int = 0) -> None:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as made:
        made.connect(address)  # type: ignore[arg-type]


def _connect_by_sending(one: Surroundings) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.sendto(b"x", _MSG_FASTOPEN, ("127.0.0.1", one.port))


def _listen(port: int, protocol: int = 0) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as made:
        made.bind(("127.0.0.1", port))
        made.listen()


def _datagram_by_name(one: Surroundings) -> None:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pair[0].close()
    pair[1].close()


def _send_datagram(one: Surroundings) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", one.datagrams))


def _make(path: Path) -> None:
    path.write_bytes(b"x")
    path.unlink()


def _make_folder(path: Path) -> None:
    path.mkdir()
    path.rmdir()


def _make_link(path: Path) -> None:
    path.symlink_to("/")
    path.unlink()


def _type_into_terminal(_one: Surroundings) -> None:
    fcntl.ioctl(_TERMINAL, _TIOCSTI, b"x")


def _exec_memory(_one: Surroundings) -> None:
    program = os.memfd_create("program")
    os.write(program, Path(shutil.which("true") or "/bin/true").read_bytes())
    os.set_inheritable(program, True)
    subprocess.run([f"/proc/self/fd/{program}"], check=True, close_fds=False)


def _decode(one: Surroundings) -> None:
    """Start a decoder, which raises a fence of its own: it works, and opens no more than this one."""
    code = "from llava_pack.engine.decoder import enter_decoder_fence as enter\n"
    code += "from PIL import Image\nassert enter().whole\nImage.new('RGB', (1, 1)).tobytes('jpeg', 'RGB')\n"
    code += f"open({one.secret!r})"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=False, timeout=200
    )
    if b"PermissionError" in done.stderr:
        raise PermissionError
    raise AssertionError(done.stderr)


def _interpreter(one: Surroundings) -> bytes:
    code = f"print(open({one.secret!r}).read())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=False, timeout=60
    )
    if b"PermissionError" in done.stderr:
        raise PermissionError
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


READING: dict[str, Attempt] = {
    "read a private file": lambda one: Path(one.secret).read_bytes(),
    "read /etc/shadow": lambda _: Path("/etc/shadow").read_bytes(),
    "read /etc/passwd": lambda _: Path("/etc/passwd").read_bytes(),
    "read another model": lambda one: Path(one.model).read_bytes(),
    "list a folder": lambda one: list(Path(one.folder).iterdir()),
    "list the root": lambda _: list(Path("/").iterdir()),
    "read its own environment": lambda _: Path("/proc/self/environ").read_bytes(),
    "read a process's environment": lambda one: Path(f"/proc/{one.victim}/environ").read_bytes(),
    "read its parent's environment": lambda _: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "open a process's memory": lambda one: Path(f"/proc/{one.victim}/mem").open("rb").close(),
    "read a command line": lambda one: Path(f"/proc/{one.victim}/cmdline").read_bytes(),
    "read a private file by a hard link": _by_link,
    "read a private file by /proc/self/root": _by_symlink,
    "read a model by moving it": _by_moving,
    "read a private file in a thread": _in_a_thread,
    "open the kernel's log": lambda _: Path("/dev/kmsg").open("rb").close(),
}
WRITING: dict[str, Attempt] = {
    "make a file": lambda one: _make(Path(one.folder, "made")),
    "make a folder": lambda one: _make_folder(Path(one.folder, "folder")),
    "make shared memory": lambda _: _make(Path("/dev/shm", f"escape-{os.getpid()}")),
    "overwrite a file": lambda one: Path(one.model).open("r+b").close(),
    "cut a file by its name": lambda one: os.truncate(one.model, 3),
    "make a symlink": lambda one: _make_link(Path(one.folder, "link")),
    "make a FIFO at home": lambda one: os.mkfifo(Path(one.home, "fifo")),
    "change a mode": lambda one: Path(one.secret).chmod(0o600),
    "change an owner": lambda one: os.chown(one.secret, os.getuid(), os.getgid()),
    "change a time": lambda one: os.utime(one.secret),
    "set an attribute": lambda one: os.setxattr(one.secret, "user.escape", b"x"),
}
REACHING: dict[str, Attempt] = {
    "connect to 127.0.0.1": lambda one: _connect(socket.AF_INET, ("127.0.0.1", one.port)),
    "connect to 127.0.0.1 by MPTCP": lambda one: _connect(
        socket.AF_INET, ("127.0.0.1", one.port), _MPTCP
    ),
    "connect to 127.0.0.1 by sending": _connect_by_sending,
    "listen at another port": lambda _: _listen(0),
    "listen at another port by MPTCP": lambda _: _listen(0, _MPTCP),
    "make a socket of IPv6": lambda _: socket.socket(socket.AF_INET6).close(),
    "send a datagram": _send_datagram,
    "make a netlink socket": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "connect to an abstract socket": lambda one: _connect(socket.AF_UNIX, f"\0{one.abstract}"),
    "make a Unix datagram socket": lambda _: socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM
    ).close(),
    "make a pair for datagrams": _datagram_by_name,
    "trace a process": _trace,
    "signal a process": lambda one: os.kill(one.victim, 0),
    "read memory by number": lambda _: _raw(
        _NUMBERS["process_vm_readv"], os.getpid(), 0, 0, 0, 0, 0
    ),
    "keep keys in the kernel": lambda _: _raw(_NUMBERS["keyctl"], 0, -1, 0),
    "set up io_uring": lambda _: _raw(425, 1, 0),
    "make shared memory by number": lambda _: _raw(_NUMBERS["shmget"], 0, mmap.PAGESIZE, 0o600),
    "have signals sent later": lambda one: fcntl.fcntl(sys.stdin, fcntl.F_SETOWN, one.victim),
    "type into a terminal": _type_into_terminal,
    "leave for another user namespace": lambda _: _c("unshare", 0x10000000),
}
if os.uname().machine == "x86_64":
    REACHING["make a system call of x32"] = lambda _: _raw(_X32 | _NUMBERS["getpid"])
CONNECTING: dict[str, Attempt] = {
    "connect to a Unix socket": lambda one: _connect(socket.AF_UNIX, one.unix),
}
STARTING: dict[str, Attempt] = {
    "start a program": lambda _: subprocess.run(["true"], check=True),
    "start a program from memory": _exec_memory,
    "fork": lambda _: os.waitpid(os.fork() or os._exit(0), 0),
    "change a process's limits": lambda one: resource.prlimit(one.victim, resource.RLIMIT_NOFILE),
}
OF_PROGRAMS: dict[str, Attempt] = {
    "start a shell": lambda _: subprocess.run(["sh", "-c", "true"], check=True),
    "read a private file by its own interpreter": _interpreter,
}
OF_THE_RUN: dict[str, Attempt] = {
    "connect within the run": lambda one: _connect(socket.AF_INET, ("127.0.0.1", one.within[0])),
    "listen within the run": lambda one: _listen(one.within[1]),
}
"""What LLaVA's own programs need of TCP."""
BY_DECODER: dict[str, Attempt] = {"read a private file by a decoder": _decode}
FOR_ENGINE = {**READING, **WRITING, **REACHING, **CONNECTING, **STARTING}
FOR_UPSTREAM = {**FOR_ENGINE, **OF_PROGRAMS, **OF_THE_RUN}
FOR_GATEWAY = {**READING, **WRITING, **REACHING, **OF_PROGRAMS, **BY_DECODER}

_TERMINAL = -1


def open_terminal() -> None:
    """Open a terminal to type into, as one that was inherited; before any fence."""
    global _TERMINAL  # noqa: PLW0603 - one a process
    if _TERMINAL < 0:
        _TERMINAL = os.openpty()[1]


def attempt(attempts: dict[str, Attempt], one: Surroundings) -> dict[str, str]:
    """Try everything and return what came of each: `held`, or what else."""
    return {name: _outcome(way, one) for name, way in attempts.items()}


def _outcome(way: Attempt, one: Surroundings) -> str:
    try:
        way(one)
    except (PermissionError, HeldError):
        return HELD
    except OSError as error:
        if error.errno == errno.EXDEV:  # how Landlock refuses to move and to link
            return HELD
        return f"{type(error).__name__}: {error}"
    return "done"


def main(argv: Sequence[str]) -> None:
    """Raise the fence that is asked for, try everything, and print what came of it."""
    parts = json.loads(Path(argv[0]).read_text())
    one = Surroundings(**parts["surroundings"])
    open_terminal()
    standing = None
    if parts["fence"] in {"engine", "gpu"}:
        from llava_pack.engine.fence.place import this_place
        from llava_pack.engine.fence.plan import engine_fence
        from llava_pack.engine.fence.raising import raise_fence

        model = (Path(parts["own_model"]),)
        standing = raise_fence(
            engine_fence(this_place({}), model, Path(one.home), gpu=parts["fence"] == "gpu")
        )
    elif parts["fence"] == "decoder":
        from llava_pack.engine.decoder import enter_decoder_fence

        standing = enter_decoder_fence()
    elif parts["fence"] == "upstream":
        from llava_pack.engine.upstream.bounds import Bounds
        from llava_pack.engine.upstream.fencing import enter_upstream_fence

        files = (Path(parts["own_model"]),)
        bounds = Bounds(mode="on", ports=tuple(one.within), files=files)
        standing = enter_upstream_fence(Bounds.parse(str(bounds)), Path(one.home))
    ways = FOR_UPSTREAM if parts["fence"] in {"upstream", "none"} else FOR_ENGINE | OF_PROGRAMS
    told = {"outcomes": attempt(ways, one), "standing": asdict(standing) if standing else None}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
