"""What was written, read again from the disk's side and held against what was meant."""

import zlib
from collections.abc import Sequence
from pathlib import Path

from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.convert.late_header import Written
from llava_pack.format.errors import IntegrityError


def check_reloaded(path: Path, written: Sequence[Written]) -> None:
    """Read a file's header and every tensor of it again.

    Raises:
        IntegrityError: names, types, shapes or bytes are not those that were written.
    """
    with SafetensorsFile(path) as file:
        found = [(entry.name, entry.dtype, entry.shape) for entry in file.entries]
        meant = [(one.entry.name, one.entry.dtype, one.entry.shape) for one in written]
        if found != meant:
            raise IntegrityError("lists tensors other than those written", subject=path.name)
        for entry, one in zip(file.entries, written, strict=True):
            if zlib.crc32(file.read(entry)) != one.crc:
                raise IntegrityError(
                    f"tensor {entry.name!r} does not read back as it was written",
                    subject=path.name,
                    hint="check the disk, then build again",
                )
            file.release(entry)
