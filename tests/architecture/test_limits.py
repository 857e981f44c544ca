"""The limits have one owner, and the table of the docs says what the code has."""

import ast

from llava_pack.engine import limits
from llava_pack.engine.limits import Limits
from llava_pack.engine.process import protocol
from llava_pack.serve import care
from llava_pack.serve.admission.bodies import BodyLimits
from llava_pack.serve.admission.connections import ConnectionLimits
from llava_pack.serve.api import pictures
from tests.conftest import ROOT
from tests.support.sources import PACKAGE, SOURCES, parsed

_MIB = 1 << 20


def test_every_limit_is_in_the_table():
    bodies, picture, lines = BodyLimits(), Limits(), ConnectionLimits()
    json = bodies.pictured
    expected = {
        "body of a request with pictures": f"{json.size_bytes // _MIB} MiB",
        "any other body": f"{bodies.other.size_bytes // _MIB} MiB",
        "JSON: brackets, commas and colons outside strings": f"{json.values:,}",
        "JSON: bytes outside strings": f"{json.outside_bytes // _MIB} MiB",
        "JSON: nesting of objects and lists": str(json.depth),
        "bodies above 64 KiB in memory; half of it for one key": f"{bodies.held_bytes // _MIB} MiB",
        "pictures of a request": str(picture.count),
        "file of a picture": f"{picture.size_bytes // 10**6} MB",
        "pixels of a picture": f"{picture.pixels // 10**6} megapixels",
        "side of a picture": f"{picture.side_pixels:,} pixels",
        "scans of a progressive JPEG": str(picture.scans),
        "pixels of all pictures of a request": f"{picture.total_pixels // 10**6} megapixels",
        "time to decode a picture": f"{picture.decode_s:g} s",
        "requests that wait for a model, `--queue`": str(care.QUEUE),
        "open connections": f"{lines.total:,}",
        "open connections of one address": str(lines.of_peer),
        "time for headers": f"{lines.header_s:g} s",
        f"time for the next {lines.body_bytes // 1024} KiB of a body": f"{lines.body_s:g} s",
        "time for the client to read a response": f"{lines.unread_s:g} s",
        "a connection without a request": f"{lines.idle_s} s",
    }
    page = (ROOT / "docs" / "reference" / "http-api.md").read_text()
    stops = f"up to {limits.MAX_STOPS} strings of {limits.MAX_STOP_CHARS} characters"
    assert f"| `top_p`, `seed`, `stop` | 0 to 1; an integer; {stops} |" in page
    for what, most in expected.items():
        assert f"| {what} | {most} |" in page, (what, most)
    assert f"waits, {bodies.patience_s:g} s at most, then 503" in page
    assert f"waits for a decoder for more than {pictures._STALL_S:g} s" in page


def test_what_every_door_lets_through_fits_between_gateway_and_engine():
    most = Limits()
    assert most.count <= protocol.MAX_ATTACHMENTS
    assert 3 * most.pixels <= protocol.MAX_ATTACHMENT_BYTES


_BOUNDS = {"max_length", "max_items", "le", "lt", "ge", "gt"}


def test_no_door_has_a_number_of_its_own():
    """A bound that a schema states as a number would not follow the limit that it means."""
    for path in (one for one in SOURCES if one.is_relative_to(PACKAGE / "serve")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "Field",
                "StringConstraints",
            }:
                for word in node.keywords:
                    names = (ast.Name, ast.Attribute)
                    own = not any(isinstance(one, names) for one in ast.walk(word.value))
                    free = word.arg not in _BOUNDS or ast.unparse(word.value) in {"0", "1"}
                    assert free or not own, f"{path}:{node.lineno}: name it"
