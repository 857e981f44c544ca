"""Pictures from outside: real ones, damaged ones, and ones that lie about their size."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from llava_pack.engine.inputs import picture_decoder
from llava_pack.engine.inputs.jpeg_scans import scans_of
from llava_pack.engine.inputs.picture_decoder import (
    decode_picture,
    measure_picture,
)
from llava_pack.engine.inputs.picture_files import read_picture_bytes, read_picture_to_send
from llava_pack.engine.inputs.picture_formats import FORMATS, format_of
from llava_pack.engine.limits import Limits
from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError
from tests.support.bombs import progressive_bomb

RED = (200, 30, 40)
KINDS = [one.pillow_name for one in FORMATS if one.pillow_name in Image.OPEN]
"""HEIC among them where its library is installed."""


def encoded(kind: str, size: tuple[int, int] = (6, 4), mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", size, RED).convert(mode)
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_and_known_by_how_it_begins(kind):
    data = encoded(kind, (64, 48))
    picture = decode_picture(data)
    assert (picture.width, picture.height) == (64, 48)
    assert all(abs(got - want) < 12 for got, want in zip(picture.rgb[:3], RED, strict=True))
    assert format_of(data).pillow_name == kind


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    data = io.BytesIO()
    Image.new(mode, (3, 2)).save(data, "PNG")
    assert len(decode_picture(data.getvalue()).rgb) == 3 * 2 * 3


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_the_first_frame_or_page_counts(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    data = io.BytesIO()
    frames[0].save(data, kind, save_all=True, append_images=frames[1:])
    assert decode_picture(data.getvalue()).rgb[0] > 150


def test_a_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture = decode_picture(encoded("JPEG", exif=exif))
    assert (picture.width, picture.height) == (4, 6)


def test_one_pixel_is_enough():
    assert decode_picture(encoded("PNG", (1, 1))) == Picture(1, 1, bytes(RED))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n",
        b"<svg/>",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
    ],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(UsageError, match="not a picture"):
        decode_picture(data)


def test_damaged_pictures_are_refused_or_read_but_never_crash():
    chance = random.Random(20)
    for kind in KINDS:
        whole = encoded(kind, (40, 30))
        for _ in range(60):
            data = bytearray(
                whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole
            )
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                decode_picture(bytes(data))
            except UsageError:
                continue


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip


@pytest.mark.parametrize("size", [(60_000, 60_000), (7142, 7142), (10_001, 1), (1, 10_001)])
def test_a_large_claim_is_refused_before_decoding(size):
    with pytest.raises(UsageError, match="too large"):
        decode_picture(png_that_claims(*size))


def test_too_many_bytes_are_refused_unread():
    with pytest.raises(UsageError, match="too large"):
        decode_picture(bytes(101), Limits(size_bytes=100))


def test_a_file_is_read(tmp_path):
    path = tmp_path / "a picture.png"
    path.write_bytes(encoded("PNG"))
    assert decode_picture(read_picture_bytes(str(path))).width == 6


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "file:///etc/passwd", "data:image/png;base64,AA"]
)
def test_a_url_is_refused(url):
    with pytest.raises(UsageError, match="got a URL") as caught:
        read_picture_bytes(url)
    assert "download" in caught.value.hint


def test_odd_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_picture_bytes(str(tmp_path / "absent.png"))
    with pytest.raises(UsageError, match="not a regular file"):
        read_picture_bytes(str(tmp_path))
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UsageError, match="not a picture"):
        decode_picture(read_picture_bytes(str(text)))


@pytest.mark.parametrize("size", [(8160, 6144), (4960, 7016), (8000, 6000)])
def test_what_cameras_and_scanners_make_is_within_the_limits(size):
    """50 and 48 megapixels, and A4 at 600 dpi."""
    assert measure_picture(png_that_claims(*size)) == size


def test_what_stands_behind_a_jpeg_is_not_counted_as_scans():
    """A telephone's short film: there the two bytes that begin a scan are any two bytes."""
    whole = encoded("JPEG", (64, 48))
    assert decode_picture(whole + b"\xff\xda" * 1000).size == (64, 48)
    assert scans_of(whole, 100) == 1


def test_scans_within_a_picture_are_counted_in_every_kind_of_jpeg():
    bomb = progressive_bomb(200, 64)
    with pytest.raises(UsageError, match="too many scans: more than the 100"):
        decode_picture(bomb)
    views = io.BytesIO()
    Image.open(io.BytesIO(encoded("JPEG"))).save(
        views, "MPO", save_all=True, append_images=[Image.new("RGB", (6, 4))]
    )
    assert decode_picture(views.getvalue()).size == (6, 4)


def test_heic_without_its_library_is_told_as_that(monkeypatch):
    monkeypatch.setattr(picture_decoder, "_READ", ("JPEG", "PNG"))
    with pytest.raises(UsageError, match="HEIC pictures cannot be read") as caught:
        decode_picture(b"\0\0\0\x18ftypheic" + bytes(60))
    assert "JPEG" in caught.value.hint
    assert "heic" in caught.value.hint


def test_a_file_to_send_is_looked_at_without_decoding_it(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(encoded("PNG")[:40])
    assert read_picture_to_send(str(path)) == path.read_bytes(), "what is damaged, the server says"
    path.write_bytes(b"%PDF-1.7")
    with pytest.raises(UsageError, match="not a picture; expected a JPEG"):
        read_picture_to_send(str(path))
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(UsageError, match=r"too large: at most 40\.0 MB are") as said:
        read_picture_to_send(str(path))
    assert said.value.subject == str(path)
