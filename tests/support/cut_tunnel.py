"""A tunnel that a test cuts: a port that hands on to another one, until it does not."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE_BYTES = 65536


class CutTunnel:
    """Hands connections on to a port of this machine.

    Args:
        port: where they go.
    """

    def __init__(self, port: int) -> None:
        self.to = port
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

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listening.accept()
                if not self.up:
                    ours.close()
                    continue
                theirs = socket.create_connection(("127.0.0.1", self.to))
                for pair in ((ours, theirs), (theirs, ours)):
                    self._open.add(pair[0])
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


@contextmanager
def cut_tunnel(port: int) -> Iterator[CutTunnel]:
    """Open a tunnel to a port until the block ends."""
    tunnel = CutTunnel(port)
    try:
        yield tunnel
    finally:
        tunnel.close()
