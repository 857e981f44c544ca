"""Bodies and pictures that are made to take a server's memory and time, from few bytes."""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
MIB = 1 << 20


def png(width: int = 8, height: int = 8, colour: str = "red") -> bytes:
    """Return an honest picture."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a size without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_HEAD + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


def png_of_zeros(width: int, height: int) -> bytes:
    """Return a whole PNG of black pixels, a thousandth of their size."""
    rows = zlib.compress(bytes(height * (1 + 3 * width)), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_HEAD + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def png_with_text(size_bytes: int) -> bytes:
    """Return a PNG whose compressed comment is that large."""
    text = b"Comment\0\0" + zlib.compress(bytes(size_bytes), 9)
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return PNG_HEAD + head + _chunk(b"zTXt", text) + _chunk(b"IDAT", zlib.compress(bytes(4)))


def progressive_bomb(scans: int, side: int) -> bytes:
    """Return a JPEG whose last scan is there again and again: each goes over all its pixels."""
    out = io.BytesIO()
    Image.effect_noise((side, side), 0).convert("L").save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def gif_of_giant_frames(frames: int = 50) -> bytes:
    """Return a GIF with many frames that say they are 65,535 pixels wide."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00"
    screen = struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
    return b"GIF89a" + screen + bytes(6) + frame * frames + b"\x3b"


def tiff_that_claims(width: int, height: int) -> bytes:
    """Return a TIFF of 8-bit grey of a size, without its pixels."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def bmp_that_claims(width: int, height: int) -> bytes:
    """Return a BMP of a size, without its pixels."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def webp_animation(frames: int = 30, side: int = 64) -> bytes:
    """Return a WebP of many frames; it is honest, and its first frame is what is asked for."""
    out = io.BytesIO()
    pictures = [Image.effect_noise((side, side), n).convert("RGB") for n in range(frames)]
    pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:])
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def url(data: bytes, kind: str = "png") -> str:
    """Return a picture as a data: URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def asked(*pictures: bytes, text: str = "what is it", **fields: Any) -> bytes:
    """Return the body of a request to the API."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url(p)}} for p in pictures
    ]
    content = [*parts, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "echo", "messages": messages, **fields}).encode()


def asked_llava(*pictures: bytes) -> bytes:
    """Return the body of a request to LLaVA's door."""
    images = [base64.b64encode(p).decode() for p in pictures]
    prompt = f"USER: {'<image>' * len(images)}\nwhat ASSISTANT:"
    return json.dumps({"model": "echo", "prompt": prompt, "images": images}).encode()


_OPEN = b'{"model":"echo","messages":['
_TEXT = b'{"model":"echo","messages":[{"role":"user","content":"'


def json_bombs(dice: random.Random, scale: float = 1.0) -> Iterator[tuple[str, bytes]]:
    """Yield (name, body) of JSON that costs its reader much more than its sender.

    Args:
        dice: draws the counts, so that no bound is met by chance.
        scale: of the sizes; 1 is a megabyte each.
    """
    size = int(scale * MIB)
    elements = (
        b"{}", b"[]", b'""', b"0", b"null", b"1e9", b'{"role":"user"}', b'{"role":"user","content":[]}',
        b'{"a":{}}', b"[[]]", b'{"role":"user","content":"x"}', b'"\\u0000"', b"-0.0", b"[1,2]",
        b'{"":""}', b'"\\""', b"true",
    )  # fmt: skip
    for element in elements:
        count = size // (len(element) + 1) - dice.randrange(1000)
        yield f"list of {element.decode()}", _OPEN + b",".join([element] * count) + b"]}"
    for opening in (b"[", b'{"a":', b'[{"a":', b"[[", b"{"):
        yield f"depth of {opening.decode()}", opening * (size // len(opening))
    for closing in (b"]", b"}", b"]}"):
        yield f"only {closing.decode()}", closing * size
    for space in (b" ", b"\n", b"\t", b"\r\n"):
        yield f"spaces {space!r}", _OPEN + space * (2 * MIB // len(space)) + b"]}"
    yield "keys", b"{" + b",".join(b'"%d":0' % n for n in range(size // 10)) + b"}"
    yield "same key", b"{" + b",".join([b'"a":0'] * (size // 6)) + b"}"
    yield "long number", b'{"model":' + b"1" * (2 * MIB) + b"}"
    yield "utf-16", ("[" + "[]," * (size // 8) + "[]]").encode("utf-16")
    yield "utf-32", ("[" + "[]," * (size // 16) + "[]]").encode("utf-32")
    yield "strings of quotes", _TEXT + b'\\"' * (size // 2) + b'"},' + b"[]," * 30_000 + b"[]]}"
    yield (
        "strings of backslashes",
        _TEXT + b"\\\\" * (size // 2) + b'"},' + b"{}," * 30_000 + b"0]}",
    )
    yield "brackets after a string of brackets", _TEXT + b"[" * size + b'"},' + b"[]," * 30_000
    yield "half a string", _TEXT + b"x" * 70_000 + b"\\"
    yield "unended", _OPEN + b"[" * 20


def picture_bombs(dice: random.Random) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (name, pictures of one request) that none of the doors may take."""
    side = 4900 + dice.randrange(100)
    large = png_of_zeros(side, side)
    honest = png(64, 48)
    jpeg = io.BytesIO()
    Image.effect_noise((256, 256), 50).save(jpeg, "JPEG")
    yield "16 times one of 24 megapixels", [large] * 16
    yield "5 times one of 24 megapixels", [large] * 5
    yield "5 of 24 megapixels", [png_of_zeros(side - n, side) for n in range(5)]
    yield "17 pictures", [honest] * 17
    yield "many scans", [progressive_bomb(3000, 64)]
    yield "many scans behind an honest one", [honest, progressive_bomb(3000, 64)]
    yield "giant frames", [gif_of_giant_frames()]
    yield "claims 60,000 x 60,000", [png_that_claims(60_000, 60_000)]
    yield "claims 2^31 x 1", [png_that_claims(2**31 - 1, 1)]
    yield "claims 0 x 0", [png_that_claims(0, 0)]
    yield "a line that is too long", [png_of_zeros(10_001, 1)]
    yield "a column that is too long", [png_of_zeros(1, 10_001)]
    yield "claims 60,000 x 60,000 as TIFF", [tiff_that_claims(60_000, 60_000)]
    yield "claims 60,000 x 60,000 as BMP", [bmp_that_claims(60_000, 60_000)]
    yield "text of 100 MB", [png_with_text(100 * MIB)]
    yield "truncated JPEG", [jpeg.getvalue()[: dice.randrange(200, 2000)]]
    yield "truncated PNG", [large[: len(large) // 2]]
    yield "truncated WebP", [webp_animation()[: dice.randrange(30, 300)]]
    yield "nothing", [b""]
    yield "a script", [b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>"]
    yield "noise", [dice.randbytes(5000)]
    yield "PNG of noise", [PNG_HEAD + dice.randbytes(5000)]
    yield "GIF of noise", [b"GIF89a" + dice.randbytes(5000)]
    yield "JPEG of noise", [b"\xff\xd8\xff\xe0" + dice.randbytes(5000)]
    yield "TIFF of noise", [b"II*\0" + dice.randbytes(5000)]
    yield "AVIF of noise", [b"\0\0\0\x1cftypavif" + dice.randbytes(5000)]
    yield "HEIC of noise", [b"\0\0\0\x18ftypheic" + dice.randbytes(5000)]
    yield "WebP of noise", [b"RIFF\xff\xff\xff\x7fWEBPVP8 " + dice.randbytes(5000)]


Door = Callable[[list[bytes]], tuple[str, bytes]]
