"""How often a JPEG goes over its pixels: its scans, counted up to the end of its first picture.

What comes after is not decoded: a telephone's short film, a second view, a thumbnail. There the
same two bytes mean something else.

Source: ITU-T T.81, B.1.1.2 (markers), B.1.1.4 (segments), B.1.1.5 (bytes FF within a scan).
"""

import re

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_END, _SCAN = 0xD9, 0xDA
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a segment: within a scan, or before one."""


def scans_of(data: bytes, most: int) -> int:
    """Return how many scans the first picture of a JPEG has, counted to one more than `most`."""
    scans, place = 0, 0
    while scans <= most and (marker := _MARKER.search(data, place)) is not None:
        kind, place = marker[1][0], marker.end()
        if kind == _END:
            break
        scans += kind == _SCAN
        if kind not in _BARE:
            place += int.from_bytes(data[place : place + 2], "big")
    return scans
