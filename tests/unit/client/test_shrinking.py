"""Pictures over the limits are made smaller, and all others left alone."""

import io

import pytest
from PIL import Image

from llava_pack.client.shrinking import read_shrunk, shrunk
from llava_pack.engine.inputs.picture_decoder import decode_picture
from llava_pack.engine.limits import SHRUNK_SIDE, Limits
from llava_pack.format.errors import UsageError
from tests.support.bombs import png_that_claims


def encoded(kind, size, mode="RGB", colour="red", **options):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_what_is_within_the_limits_stays_as_it_is(kind):
    data = encoded(kind, (400, 300))
    assert shrunk(data) is data


@pytest.mark.parametrize(
    ("kind", "mode", "limits"),
    [
        ("PNG", "RGB", Limits(pixels=100_000)),
        ("PNG", "RGBA", Limits(side_pixels=500)),
        ("JPEG", "RGB", Limits(size_bytes=1000)),
        ("TIFF", "L", Limits(pixels=100_000)),
        ("GIF", "P", Limits(pixels=100_000)),
    ],
)
def test_what_is_over_a_limit_is_read_again(kind, mode, limits):
    data = encoded(kind, (800, 600), mode, 0 if mode in "LP" else "red")
    small = shrunk(data, limits=limits)
    assert small is not data
    assert Image.open(io.BytesIO(small)).format == ("JPEG" if kind == "JPEG" else "PNG")


def test_the_longer_side_is_what_counts_and_the_picture_stays_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("JPEG", (10_400, 104), exif=exif)
    seen = decode_picture(shrunk(data))
    assert seen.height == SHRUNK_SIDE
    assert 40 <= seen.width <= 42


def test_more_than_pillow_takes_by_itself_is_scaled_down(monkeypatch):
    """Cameras make 200 megapixels, Pillow's own bound is 179; here it is 2,000 pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded("PNG", (100, 80))
    with pytest.raises(UsageError, match="it has too many pixels"):
        decode_picture(data)
    assert decode_picture(shrunk(data, limits=Limits(pixels=5000))).size == (100, 80)


def test_what_is_too_large_even_for_that_is_refused():
    with pytest.raises(UsageError, match="at most 400 megapixels"):
        shrunk(png_that_claims(30_000, 30_000))


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("hello")
    with pytest.raises(UsageError, match="not a picture") as caught:
        read_shrunk(str(path))
    assert caught.value.subject == str(path)
