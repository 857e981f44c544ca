"""Who signed a certificate, read from its bytes: Python tells it of verified ones only.

Source: RFC 5280, section 4.1 (Certificate, TBSCertificate, Name); X.690 (DER).
"""

from collections.abc import Iterator

_COMMON_NAME = b"\x55\x04\x03"
_ORGANISATION = b"\x55\x04\x0a"
_VERSION = 0xA0
_UTF16 = 0x1E


def issuer_of(der: bytes) -> str:
    """Return the issuer's common name, else its organisation; empty where neither can be read."""
    try:
        certificate = next(_parts(der))[1]
        fields = list(_parts(next(_parts(certificate))[1]))
        issuer = fields[3 if fields[0][0] == _VERSION else 2][1]
        names = dict(_names(issuer))
    except (IndexError, StopIteration, RuntimeError, ValueError):
        return ""
    return names.get(_COMMON_NAME) or names.get(_ORGANISATION) or ""


def _names(name: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield the attributes of a Name: a sequence of sets of pairs."""
    for _, group in _parts(name):
        for _, pair in _parts(group):
            (_, kind), (tag, text) = _parts(pair)
            yield kind, text.decode("utf-16-be" if tag == _UTF16 else "utf-8", "replace")


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and contents of each value that follows one on the other."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count])
            at += count
        if at + size > len(data):
            raise ValueError("longer than what holds it")
        yield tag, data[at : at + size]
        at += size
