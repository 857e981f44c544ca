"""A tunnel that a test cuts: a port that hands on to another one, until it does not."""

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_PIECE_BYTES = 65536


class CutTunnel:
    """Hands connections on to a port of this machine.

    Args:
        port: where they go.
        after_bytes: how much each connection may send before it is cut; the last ones have no end.
    """

    def __init__(self, port: int, after_bytes: Iterable[int] = ()) -> None:
        self.to = port
        self._after_bytes = iter(after_bytes)
        self.cuts = 0
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.up = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and take no more."""
        self.up = False
        for one in tuple(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self, port: int | None = None) -> None:
        """Hand on again, to another port where one is given."""
        self.to, self.up = port or self.to, True

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listening.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listening.accept()
                if not self.up:
                    ours.close()
                    continue
                theirs = socket.create_connection(("127.0.0.1", self.to))
                most = next(self._after_bytes, None)
                for pair in ((ours, theirs, most), (theirs, ours, None)):
                    self._open.add(pair[0])
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE_BYTES if most is None else min(_PIECE_BYTES, most)):
                target.sendall(data)
                if most is not None and not (most := most - len(data)):
                    self.cuts += 1
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


@contextmanager
def cut_tunnel(port: int, after_bytes: Iterable[int] = ()) -> Iterator[CutTunnel]:
    """Open a tunnel to a port until the block ends."""
    tunnel = CutTunnel(port, after_bytes)
    try:
        yield tunnel
    finally:
        tunnel.close()
