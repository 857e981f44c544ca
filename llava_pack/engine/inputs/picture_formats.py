"""The kinds of picture files that are read: their names, their suffixes, and how they begin."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFormat:
    """One kind of file.

    Attributes:
        name: as people know it.
        pillow_name: as Pillow calls it.
        media_type: of its bytes.
        suffixes: of its files, the usual one first.
        signature: how its bytes begin, a regular expression.
    """

    name: str
    pillow_name: str
    media_type: str
    suffixes: tuple[str, ...]
    signature: bytes


FORMATS = (
    PictureFormat(
        name="JPEG", pillow_name="JPEG", media_type="image/jpeg",
        suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"), signature=rb"\xff\xd8\xff",
    ),
    PictureFormat(
        name="PNG", pillow_name="PNG", media_type="image/png",
        suffixes=(".png",), signature=rb"\x89PNG\r\n\x1a\n",
    ),
    PictureFormat(
        name="WebP", pillow_name="WEBP", media_type="image/webp",
        suffixes=(".webp",), signature=rb"RIFF....WEBP",
    ),
    PictureFormat(
        name="GIF", pillow_name="GIF", media_type="image/gif",
        suffixes=(".gif",), signature=rb"GIF8[79]a",
    ),
    PictureFormat(
        name="TIFF", pillow_name="TIFF", media_type="image/tiff",
        suffixes=(".tif", ".tiff"), signature=rb"II[*+]\x00|MM\x00[*+]",
    ),
    PictureFormat(
        name="BMP", pillow_name="BMP", media_type="image/bmp",
        suffixes=(".bmp",), signature=rb"BM",
    ),
    PictureFormat(
        name="AVIF", pillow_name="AVIF", media_type="image/avif",
        suffixes=(".avif",), signature=rb"....ftypavi[fos]",
    ),
    PictureFormat(
        name="HEIC", pillow_name="HEIF", media_type="image/heic",
        suffixes=(".heic", ".heif", ".hif"),
        signature=rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
    ),
)  # fmt: skip
"""HEIC is read only where its library is installed: it is an extra.

Source: ISO/IEC 23008-12 (brands of HEIC), AV1 Image File Format (of AVIF), and each format's own
specification.
"""
NAMES = ", ".join(one.name for one in FORMATS[:-1]) + f" or {FORMATS[-1].name}"
SUFFIXES = {suffix: one for one in FORMATS for suffix in one.suffixes}
"""The format that the end of a name, in lower case, stands for."""


def format_of(data: bytes) -> PictureFormat | None:
    """Return the format that a file's bytes begin as, None where it is none of these.

    >>> format_of(b"GIF89a...").name, format_of(b"%PDF-1.7")
    ('GIF', None)
    """
    return next((one for one in FORMATS if re.match(one.signature, data, re.DOTALL)), None)
