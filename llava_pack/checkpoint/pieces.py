"""A file of which some pieces are here: what is read of a weight file before it is fetched.

What a reader asks for and is not here is raised as `AbsentError`; whoever has the rest puts it
there and asks the reader again.
"""

import io
from typing import Protocol

from llava_pack.format.errors import CheckpointError


class Bytes(Protocol):
    """Bytes of a file by offset."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""

    def view(self, offset_bytes: int, size_bytes: int) -> memoryview:
        """Return some of them.

        Raises:
            CheckpointError: they would lie outside the file.
        """


class AbsentError(Exception):
    """Bytes of a file that are not here.

    Args:
        start: offset of the first.
        end: offset after the last.
    """

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start = start
        self.end = end


class Pieces:
    """A file of which some pieces are here.

    Args:
        name: of the file.
        size_bytes: of the whole of it.
    """

    def __init__(self, name: str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._name = name
        self._pieces: dict[int, bytes] = {}

    def put(self, offset_bytes: int, data: bytes) -> None:
        """Put a piece where it belongs."""
        self._pieces[offset_bytes] = data

    def view(self, offset_bytes: int, size_bytes: int) -> memoryview:
        """Return some bytes.

        Raises:
            CheckpointError: they would lie outside the file.
            AbsentError: they are not here.
        """
        check_inside(offset_bytes, size_bytes, self.size_bytes, self._name)
        if not size_bytes:
            return memoryview(b"")
        for start, data in self._pieces.items():
            if start <= offset_bytes and offset_bytes + size_bytes <= start + len(data):
                return memoryview(data)[offset_bytes - start :][:size_bytes]
        raise AbsentError(offset_bytes, offset_bytes + size_bytes)


class Viewed(io.BufferedIOBase):
    """Bytes as a file object, for readers that take one.

    Args:
        file: the bytes.
        most: how many are given at once, in place of all.
    """

    def __init__(self, file: Bytes, most: int) -> None:
        self._file = file
        self._most = most
        self._at = 0

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the start, from here or from the end."""
        start = (0, self._at, self._file.size_bytes)[whence]
        if start + offset < 0:
            raise OSError(f"an offset of {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the offset of what is read next."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the bytes that come next."""
        wanted = self._most if size is None or size < 0 else size
        left = max(self._file.size_bytes - self._at, 0)
        data = bytes(self._file.view(self._at, min(wanted, left))) if left else b""
        self._at += len(data)
        return data


def check_some(file_bytes: int, name: str) -> None:
    """Check that a weight file is not empty.

    Raises:
        CheckpointError: it is.
    """
    if not file_bytes:
        raise CheckpointError("the file is empty, expected weights", subject=name)


def check_inside(offset_bytes: int, size_bytes: int, file_bytes: int, name: str) -> None:
    """Check that bytes lie inside a file.

    Raises:
        CheckpointError: they do not.
    """
    if not 0 <= offset_bytes <= offset_bytes + size_bytes <= file_bytes:
        end, has = f"{offset_bytes + size_bytes} bytes", f"{file_bytes} bytes"
        raise CheckpointError(
            f"its contents lie outside the file, expected {end}, got {has}: it is truncated or "
            "damaged",
            subject=name,
            hint="download it again",
        )
