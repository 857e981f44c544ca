"""Recovery volumes as no honest program writes them: any name, any size.

Source: the Parity Volume Set Specification 2.0.
"""

import struct
from collections.abc import Mapping
from hashlib import md5
from zlib import crc32

_MAGIC = b"PAR2\0PKT"


def _md5(data: bytes) -> bytes:
    """Return the digest that the format is made with."""
    return md5(data, usedforsecurity=False).digest()


def hostile_volume(files: Mapping[str, bytes], block_bytes: int = 4) -> bytes:
    """Return a volume that describes files by any names, with every block of theirs in it.

    The blocks are recovery data of exponent 0: of one file of one block, that is the block itself.
    """
    described = {}
    for name, data in files.items():
        start, size = _md5(data[:16384]), struct.pack("<Q", len(data))
        number = _md5(start + size + name.encode())
        padded = name.encode() + b"\0" * (-len(name.encode()) % 4)
        described[number] = (number + _md5(data) + start + size + padded, data)
    ids = sorted(described)
    main = struct.pack("<QI", block_bytes, len(ids)) + b"".join(ids)
    whole = _packet(main, main, b"PAR 2.0\0Main\0\0\0\0")
    for number in ids:
        description, data = described[number]
        whole += _packet(main, description, b"PAR 2.0\0FileDesc")
        blocks = [data[at : at + block_bytes] for at in range(0, len(data), block_bytes)]
        whole += _packet(main, number + b"".join(map(_checked, blocks)), b"PAR 2.0\0IFSC\0\0\0\0")
    recovery = next(data for _, data in described.values())[:block_bytes]
    return whole + _packet(main, struct.pack("<I", 0) + recovery, b"PAR 2.0\0RecvSlic")


def _checked(block: bytes) -> bytes:
    return _md5(block) + struct.pack("<I", crc32(block))


def _packet(main: bytes, body: bytes, kind: bytes) -> bytes:
    rest = _md5(main) + kind + body
    return _MAGIC + struct.pack("<Q", 32 + len(rest)) + _md5(rest) + rest
