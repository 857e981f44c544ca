"""Colours as a viewer shows them, and as LLaVA's own code makes them."""

import io

import numpy as np
import pytest
from PIL import Image

from llava_pack.engine.inputs.picture_colours import as_rgb, only_colour
from llava_pack.engine.inputs.picture_decoder import decode_picture
from llava_pack.engine.picture_mode import PICTURE_MODES
from llava_pack.format.errors import UsageError

WHITE = (255, 255, 255)
NO_RANGE = ("I", "F")
_CLEAR = {"LA": (0, 0), "La": (0, 0), "PA": (0, 0), "RGBA": (0, 0, 0, 0), "RGBa": (0, 0, 0, 0)}


def shown(image: Image.Image, kind: str, mode: str = "viewer", **options) -> list[tuple[int, ...]]:
    """Return the pixels of a picture that went through a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    picture = decode_picture(out.getvalue(), mode=mode)
    return [tuple(bytes(picture.rgb)[n : n + 3]) for n in range(0, len(picture.rgb), 3)]


@pytest.mark.parametrize("mode", sorted({*Image.MODES} - {*NO_RANGE}))
def test_every_mode_that_a_file_can_have_becomes_rgb(mode):
    seen = as_rgb(Image.new(mode, (3, 2)), "viewer")
    assert (seen.mode, seen.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("mode", sorted(_CLEAR))
def test_what_is_clear_is_white_in_every_mode_that_has_it(mode):
    image = Image.new(mode, (2, 2), _CLEAR[mode])
    assert image.has_transparency_data
    assert only_colour(as_rgb(image, "viewer")) == "#ffffff"


def test_every_mode_with_transparency_is_tried():
    clear = {mode for mode in Image.MODES if Image.new(mode, (1, 1)).has_transparency_data}
    assert clear <= set(_CLEAR)


def test_black_writing_on_transparency_is_black_on_white():
    writing = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    writing.putpixel((1, 0), (0, 0, 0, 255))
    writing.putpixel((2, 0), (0, 0, 0, 128))
    white, black, half = shown(writing, "PNG")
    assert (white, black) == (WHITE, (0, 0, 0))
    assert 120 <= half[0] <= 135
    assert shown(writing, "PNG", "llava") == [(0, 0, 0)] * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_opaque_colours_stay_as_they_are_to_the_bit(kind):
    noise = np.random.default_rng(3).integers(0, 256, (8, 9, 4), np.uint8)
    noise[..., 3] = 255
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(noise, "RGBA")
    both = [shown(image, kind, mode, **options) for mode in PICTURE_MODES]
    assert both[0] == both[1] == [tuple(map(int, one)) for one in noise[..., :3].reshape(-1, 3)]


@pytest.mark.parametrize(
    ("image", "key"),
    [
        (Image.new("RGB", (1, 1), (9, 8, 7)), (9, 8, 7)),
        (Image.new("L", (1, 1), 9), 9),
        (Image.new("1", (1, 1), 0), 0),
        (Image.new("P", (1, 1), 0), 0),
        (Image.new("I;16", (1, 1), 900), 900),
    ],
)
def test_a_colour_that_the_file_calls_transparent_is_white(image, key):
    assert shown(image, "PNG", transparency=key) == [WHITE]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_greys(kind):
    """LLaVA's own code makes white of all that is above 255, so of nearly everything."""
    ramp = Image.fromarray(np.arange(0, 65536, 4096, np.uint16)[None])
    assert [grey[0] for grey in shown(ramp, kind)] == list(range(0, 256, 16))
    assert shown(ramp, kind, "llava") == [(0, 0, 0), *[WHITE] * 15]


def test_grey_of_12_bits_is_as_bright_as_its_file_says():
    out = io.BytesIO()
    ramp = Image.fromarray(np.arange(0, 4096, 256, np.uint16)[None])
    ramp.save(out, "TIFF")
    image = Image.open(out)
    image.tag_v2[258] = (12,)
    assert np.asarray(as_rgb(image, "viewer"))[0, :, 0].tolist() == list(range(0, 256, 16))


@pytest.mark.parametrize("mode", NO_RANGE)
def test_grey_without_a_known_range_is_refused_and_llavas_own_is_kept(mode):
    image = Image.new(mode, (2, 2), 70_000)
    with pytest.raises(UsageError, match="32-bit grey"):
        shown(image, "TIFF")
    assert len(shown(image, "TIFF", "llava")) == 4


def test_print_colours_are_not_inverted():
    red = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        assert np.allclose(shown(red, kind)[0], (255, 0, 0), atol=3)


@pytest.mark.parametrize("mode", PICTURE_MODES)
def test_the_only_colour_is_told(mode):
    one = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 255)).save(one, "PNG")
    assert decode_picture(one.getvalue(), mode=mode).only_colour == "#0102ff"
    two = Image.new("RGB", (5, 4))
    two.putpixel((3, 3), (0, 0, 1))
    out = io.BytesIO()
    two.save(out, "PNG")
    assert decode_picture(out.getvalue(), mode=mode).only_colour == ""
