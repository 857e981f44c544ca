"""Server-sent events, from bytes as they come to the data of each event. Pure.

Source: WHATWG HTML, "Server-sent events", section 9.2.6; a line ends with a line feed here, with
or without a carriage return before it, as every server that we ask ends them.
"""

from llava_pack.format.errors import ServeError

MOST_BYTES = 8 << 20
"""The longest line, and the longest event: a prompt's ids come in one."""


class EventStream:
    r"""Reads the events of one stream.

    >>> stream = EventStream()
    >>> stream.feed(b": ping\n\ndata: 1\nda"), stream.feed(b"ta:2\r\n\r\ndata: 3\n\n")
    ([], [b'1\n2', b'3'])
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece of the stream, however it was cut, and return the data of its events.

        Raises:
            ServeError: a line or an event is too long.
        """
        *lines, rest = piece.split(b"\n")
        found: list[bytes] = []
        for line in lines:
            text = (bytes(self._line) + line if self._line else line).removesuffix(b"\r")
            self._line.clear()
            if not text:
                found += [b"\n".join(self._data)] if self._data else []
                self._data, self._size = [], 0
            elif text.startswith(b"data:"):
                self._take(text[5:].removeprefix(b" "))
        self._line += rest
        if len(self._line) > self._most_bytes:
            raise ServeError("a line of the engine's answer is too long")
        return found

    def _take(self, data: bytes) -> None:
        self._data.append(data)
        self._size += len(data) + 1
        if self._size > self._most_bytes:
            raise ServeError("an event of the engine's answer is too long")
