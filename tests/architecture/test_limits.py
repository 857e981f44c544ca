"""The table of limits says what the code has."""

from llava_pack.engine.pictures import Limits
from llava_pack.serve import care, page_queue, pictures
from llava_pack.serve.admission import BodyLimits
from llava_pack.serve.connections import ConnectionLimits
from tests.conftest import ROOT

_MIB = 1 << 20


def test_every_limit_is_in_the_table():
    bodies, picture, lines = BodyLimits(), Limits(), ConnectionLimits()
    json = bodies.pictured
    expected = {
        "body of a request with pictures, and of an upload": f"{json.size_bytes // _MIB} MiB",
        "any other body; an event of the page names its pictures": f"{bodies.other.size_bytes // _MIB} MiB",
        "JSON: brackets, commas and colons outside strings": f"{json.values:,}",
        "JSON: bytes outside strings": f"{json.outside_bytes // _MIB} MiB",
        "JSON: objects and lists within each other": str(json.depth),
        "bodies above 64 KiB that are held at once; half of it for one key": f"{bodies.held_bytes // _MIB} MiB",
        "pictures of a request": str(picture.count),
        "file of a picture": f"{picture.size_bytes // 10**6} MB",
        "pixels of a picture": f"{picture.pixels // 10**6} megapixels",
        "side of a picture": f"{picture.side_pixels:,} pixels",
        "sides of a picture, one to the other": f"1:{picture.ratio}",
        "scans of a progressive JPEG": str(picture.scans),
        "pixels of all pictures of a request": f"{picture.total_pixels // 10**6} megapixels",
        "time to decode a picture": f"{picture.decode_s:g} s",
        "requests that wait for a model, `--queue`": str(care.QUEUE),
        "open connections": f"{lines.total:,}",
        "those of one address": str(lines.of_peer),
        "time for headers": f"{lines.header_s:g} s",
        f"a body that does not come on by {lines.body_bytes // 1024} KiB": f"{lines.body_s:g} s",
        "an answer that is not read": f"{lines.unread_s:g} s",
        "a connection without a request": f"{lines.idle_s} s",
        "an event of the page to which nobody listens": f"{page_queue._PATIENCE_S:g} s",
    }
    page = (ROOT / "docs" / "reference" / "http-api.md").read_text()
    for what, most in expected.items():
        assert f"| {what} | {most} |" in page, (what, most)
    assert f"waits, {bodies.patience_s:g} s at most, then 503" in page
    assert f"| events of the page that one key has open | {page_queue._UNHEARD} | 429 |" in page
    assert f"waits for a decoder for more than {pictures._STALL_S:g} s" in page
