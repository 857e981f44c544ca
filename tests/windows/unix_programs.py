"""The other side of stand_in.c: real programs of Linux, run for a process under wine.

It is the one fake of this lane, and stands for the ssh.exe of Windows and the openssl.exe of Git. What
runs is the real program: arguments and bytes pass unchanged, but for paths of Windows.
"""

import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("ssh", "ssh-keygen", "openssl")
_STDIN, _STDOUT, _STDERR, _END, _TEXT = range(5)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class UnixPrograms:
    """Serves programs of Linux to the stand-ins of one prefix of wine.

    Args:
        drive_c: the folder that wine shows as C:.
    """

    def __init__(self, drive_c: Path) -> None:
        self._drive_c = drive_c
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]

    def close(self) -> None:
        self._listening.close()

    def serve(self) -> None:
        """Run what is asked for until it is closed."""
        with suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                threading.Thread(target=self._run, args=(line,), daemon=True).start()

    def path(self, text: str, folder: Path) -> str:
        """Return an argument with a path of Windows as Linux names it."""
        if _DRIVE.match(text):
            root = Path("/") if text[0].lower() == "z" else self._drive_c
            return str(root / text[3:].replace("\\", "/"))
        slashed = text.replace("\\", "/")
        return slashed if slashed != text and (folder / slashed).parent.is_dir() else text

    def _run(self, line: socket.socket) -> None:
        """Run one program, and end with it; the stand-in's end ends it."""
        with line:
            self._pass_on(line)

    def _pass_on(self, line: socket.socket) -> None:
        name, where, *arguments = _texts(line)
        folder = Path(self.path(where, Path("/")))
        program = shutil.which(name.lower().removesuffix(".exe"))
        assert program is not None, name
        assert Path(program).name in PROGRAMS
        process = subprocess.Popen(
            [program, *(self.path(one, folder) for one in arguments)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        lock = threading.Lock()
        readers = [
            threading.Thread(target=_pump, args=(stream, kind, line, lock), daemon=True)
            for kind, stream in ((_STDOUT, process.stdout), (_STDERR, process.stderr))
        ]
        feeder = threading.Thread(target=_feed, args=(line, process), daemon=True)
        feeder.start()
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:
            reader.join()
        with suppress(OSError), lock:
            line.sendall(_frame(_END, str(code % 256).encode()))
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        feeder.join()


def _texts(line: socket.socket) -> Iterator[str]:
    for kind, data in _frames(line):
        if kind == _END:
            return
        yield data.decode()


def _frames(line: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield frames until the other side is gone."""
    with suppress(OSError, EOFError):
        while True:
            kind, size = struct.unpack("!BI", _exactly(line, 5))
            yield kind, _exactly(line, size)


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        got = line.recv(size - len(data))
        if not got:
            raise EOFError
        data += got
    return bytes(data)


def _frame(kind: int, data: bytes) -> bytes:
    return struct.pack("!BI", kind, len(data)) + data


def _feed(line: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    """Write what comes to the program; it ends with the process that wants it."""
    assert process.stdin is not None
    for _, data in _frames(line):
        with suppress(OSError):
            if data:
                process.stdin.write(data)
                process.stdin.flush()
            else:
                process.stdin.close()
    process.terminate()
    with suppress(OSError):
        process.stdin.close()


def _pump(stream, kind: int, line: socket.socket, lock: threading.Lock) -> None:
    with suppress(OSError), stream:
        while data := stream.read1(1 << 16):
            with lock:
                line.sendall(_frame(kind, data))


@contextmanager
def unix_programs(
    drive_c: Path, folders: dict[Path, tuple[str, ...]], program: Path
) -> Iterator[None]:
    """Put stand-ins into folders of a prefix, and serve them during the block.

    Args:
        drive_c: of the prefix.
        folders: which programs each gets.
        program: stand_in.c, compiled.
    """
    served = UnixPrograms(drive_c)
    for folder, names in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "port.txt").write_text(str(served.port))
        for name in names:
            shutil.copy(program, folder / f"{name}.exe")
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        served.close()
