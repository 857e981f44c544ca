"""A weight file in memory without being read into it: the system brings pages as they are used."""

import mmap
from pathlib import Path

from llava_pack.checkpoint.pieces import check_inside, check_some
from llava_pack.format.errors import CheckpointError


class MappedFile:
    """Bytes of a file by offset; views stay valid after `close`, until the last one is dropped.

    Args:
        path: a regular file.
        writable: hand out views that can be written to; the file never changes (a written page is
            copied first). torch warns about buffers that cannot be written to.

    Raises:
        CheckpointError: the file is absent or empty.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
        try:
            with path.open("rb") as file:
                self.size_bytes = file.seek(0, 2)
                self._map: mmap.mmap | None = (
                    mmap.mmap(file.fileno(), 0, access=access) if self.size_bytes else None
                )
        except OSError as error:
            reason = error.strerror or "unreadable"
            raise CheckpointError(f"cannot be read: {reason}", subject=path.name) from error
        check_some(self.size_bytes, path.name)
        self._path = path

    def view(self, offset_bytes: int, size_bytes: int) -> memoryview:
        """Return bytes of the file without a copy.

        Raises:
            CheckpointError: they would lie outside the file, or the file is closed.
        """
        if self._map is None:
            raise CheckpointError(f"{self._path.name} is already closed")
        check_inside(offset_bytes, size_bytes, self.size_bytes, self._path.name)
        return memoryview(self._map)[offset_bytes : offset_bytes + size_bytes]

    def release(self, offset_bytes: int, size_bytes: int) -> None:
        """Let the system take back the pages of a part that is done with."""
        if self._map is None or not hasattr(self._map, "madvise"):
            return
        start = -(-offset_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset_bytes + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)

    def close(self) -> None:
        """Drop the mapping; views that were handed out keep it alive."""
        self._map = None
