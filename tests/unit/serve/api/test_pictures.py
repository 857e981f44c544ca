"""Pictures of a request: what is taken, and what is refused before it costs anything."""

import asyncio
import base64
import io
import json
import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from llava_pack.engine.inputs.decoder_process import told
from llava_pack.engine.limits import Limits
from llava_pack.engine.picture_mode import PICTURE_MODES
from llava_pack.engine.port import Picture
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.api import decoders, pictures
from llava_pack.serve.api.data_urls import data_bytes
from llava_pack.serve.api.pictures import PictureDecoder, SentPicture
from llava_pack.serve.caller import Caller
from tests.support.bombs import png_of_zeros, png_that_claims, progressive_bomb


def _png(width: int = 2, height: int = 3) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def _url(data: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(data).decode()


def _decoded(*sources: str | bytes, limits: Limits | None = None) -> tuple[Picture, ...]:
    async def decoded() -> tuple[Picture, ...]:
        with closing(PictureDecoder(limits)) as decoder:
            sent = [SentPicture(one) if isinstance(one, str) else one for one in sources]
            return (await decoder.admitted(sent)).pictures

    return asyncio.run(decoded())


def test_a_data_url_is_decoded() -> None:
    (picture,) = _decoded(_url(_png()))
    assert (picture.width, picture.height, picture.rgb[:3]) == (2, 3, b"\xff\x00\x00")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "/etc/passwd",
        "ftp://example.org/a.png",
        "data:image/png,aGk=",
        "data:,aGk=",
        "/srv/pictures/of/a/long/path/to/somewhere/else",
        "",
    ],
)
def test_other_urls_are_refused_and_never_fetched(url: str) -> None:
    with pytest.raises(UsageError, match="pictures are not fetched"):
        data_bytes(url, 100)


def test_something_else_than_a_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="not a picture"):
        _decoded(b"GIF89a but no more")


def test_a_picture_beyond_the_limits_is_refused() -> None:
    with pytest.raises(UsageError, match="too large: 50x50"):
        _decoded(_url(_png(50, 50)), limits=Limits(pixels=100))


def test_the_same_picture_is_decoded_once_and_counts_each_time() -> None:
    first, second, other = _decoded(_png(), _png(), _png(4, 4))
    assert first is second
    assert (other.width, other.height) == (4, 4)
    with pytest.raises(UsageError, match="too large in total"):
        _decoded(*[_png(10, 10)] * 3, limits=Limits(total_pixels=200))


def test_pictures_are_counted_before_any_is_looked_at() -> None:
    with pytest.raises(UsageError, match="too many pictures: 17, at most 16 are allowed"):
        _decoded(*[b"no picture"] * 17)


def test_pixels_are_counted_by_headers_before_any_is_decoded() -> None:
    claims = png_that_claims(5000, 5000)
    with pytest.raises(UsageError, match="too large in total: 125 megapixels"):
        _decoded(*[claims] * 5)


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000)])
def test_a_picture_that_is_a_line_is_decoded(size: tuple[int, int]) -> None:
    (line,) = _decoded(png_of_zeros(*size))
    assert line.size == size


def test_a_process_tells_of_the_only_colour_and_keeps_to_the_mode() -> None:
    """16-bit grey, as the decoder's process makes it: grey for a viewer, and white for LLaVA."""
    out = io.BytesIO()
    Image.new("I;16", (2, 2), 0x4000).save(out, "PNG")

    async def both() -> list[str]:
        with closing(PictureDecoder()) as decoder:
            data = [out.getvalue()]
            seen = [await decoder.admitted(data, mode=mode) for mode in PICTURE_MODES]
            return [one.pictures[0].only_colour for one in seen]

    assert asyncio.run(both()) == ["#404040", "#ffffff"]


@pytest.mark.parametrize("colour", ["#12345", "<b>", 7, None])
def test_only_a_colour_is_taken_for_one(colour: object) -> None:
    """People are shown it, and whatever got into a decoder writes it."""
    frame = json.dumps({"size": [1, 1], "only_colour": colour}).encode()
    if isinstance(colour, str):
        assert told(frame).only_colour == ""
    else:
        with pytest.raises(ServeError, match="invalid answer"):
            told(frame)


@pytest.mark.parametrize(
    ("bound", "pictures_"),
    [
        ({"scans": 1000}, [progressive_bomb(300, side=64)]),
        ({"total_pixels": 10**9}, [png_of_zeros(3100, 3100)] * 12),
        ({"count": 17}, [_png()] * 17),
        ({"pixels": 10**8}, [png_of_zeros(7200, 7200)]),
        ({"side_pixels": 20_000}, [png_of_zeros(10_001, 101)]),
    ],
)
def test_each_bound_is_what_refuses(bound: dict[str, int], pictures_: list[bytes]) -> None:
    with pytest.raises(UsageError, match="too"):
        _decoded(*pictures_)
    assert len(_decoded(*pictures_, limits=Limits(**bound))) == len(pictures_)


def test_many_scans_are_refused_by_their_markers() -> None:
    with pytest.raises(UsageError, match="too many scans: more than the 100"):
        _decoded(progressive_bomb(300, side=64))


_BOMB = Limits(scans=100_000, decode_s=1.0)


def test_what_takes_too_long_is_killed_and_the_next_one_is_decoded() -> None:
    """An attack: few bytes, thousands of scans; told apart from damage."""

    async def attacked() -> Picture:
        with closing(PictureDecoder(_BOMB)) as decoder:
            with pytest.raises(UsageError, match="takes too long to decode: more than 1 s"):
                await decoder.admitted([progressive_bomb(20_000, side=512)])
            return (await decoder.admitted([_png()])).pictures[0]

    assert asyncio.run(attacked()).width == 2


def test_without_the_kill_it_would_go_on() -> None:
    """Twice the time that it is given above, and nothing has come of it."""

    async def attacked() -> None:
        with closing(PictureDecoder(replace(_BOMB, decode_s=3.0))) as decoder:
            bomb = progressive_bomb(90_000, side=512)
            held = asyncio.create_task(decoder.admitted([bomb]))
            await asyncio.wait({held}, timeout=2.0)
            assert not held.done()
            with pytest.raises(UsageError, match="more than 3 s"):
                await held

    asyncio.run(attacked())


def test_an_honest_picture_beside_bombs_of_another_key_is_answered_at_once() -> None:
    bomb = progressive_bomb(20_000, side=512)
    ann, bob = Caller(name="ann"), Caller(name="bob")

    async def attacked() -> tuple[bool, int]:
        with closing(PictureDecoder(_BOMB)) as decoder:
            await decoder.admitted([_png()], bob)  # he is around
            bombs = [asyncio.create_task(decoder.admitted([bomb], ann)) for _ in range(6)]
            while not decoder.busy:  # noqa: ASYNC110 - a line tells no event
                await asyncio.sleep(0)
            await decoder.admitted([_png()], bob)
            ended = sum(task.done() for task in bombs)
            for task in bombs:
                task.cancel()
            await asyncio.gather(*bombs, return_exceptions=True)
            return decoder.stalled, ended

    stalled, ended = asyncio.run(attacked())
    assert (stalled, ended < 2) == (False, True)  # his waited for no more than what was begun


def test_a_decoder_that_died_is_replaced() -> None:
    async def survived() -> None:
        with closing(PictureDecoder()) as decoder:
            await decoder.admitted([_png()])
            for process in psutil.Process().children():
                process.kill()
                process.wait()
            assert (await decoder.admitted([_png()])).pictures[0].width == 2

    asyncio.run(survived())


def _facts(pid: int) -> tuple[str, set[str]]:
    folder = Path(f"/proc/{pid}")
    return (folder / "limits").read_text(), {str(p.readlink()) for p in (folder / "fd").iterdir()}


_TOLD = {"PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "PILLOW_BLOCKS_MAX"}


def test_a_decoder_has_bounds_and_nothing_of_ours_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_DECODERS", 1)  # another one may still be starting

    async def looked() -> None:
        with closing(PictureDecoder()) as decoder:
            await decoder.admitted([_png()])
            (child,) = psutil.Process().children()
            limits, files = await asyncio.to_thread(_facts, child.pid)
            assert re.search(r"Max core file size +0 +0", limits)
            assert re.search(r"Max open files +64 +64", limits)
            assert re.search(r"Max address space +2147483648 +2147483648", limits)
            # what its fence holds open of /proc is its own, and none of its memory or environment
            own = f"/proc/{child.pid}/"
            ours = re.compile(rf"socket:|/dev/null|/memfd:|{own}|/proc/[a-z]")
            assert all(ours.match(name) for name in files), files
            assert not {f"{own}environ", f"{own}mem"} & files
            assert set(child.environ()) <= _TOLD

    asyncio.run(looked())


def test_pictures_that_wait_too_long_are_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_STALL_S", 0.0)
    bomb = progressive_bomb(20_000, side=512)

    async def attacked() -> tuple[bool, bool]:
        with closing(PictureDecoder(_BOMB)) as decoder:
            before = decoder.stalled
            callers = [Caller(name=name) for name in ("ann", "bob", "cy")]
            bombs = [asyncio.create_task(decoder.admitted([bomb], one)) for one in callers]
            while not decoder.busy:  # noqa: ASYNC110 - a line tells no event
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)  # the clock of the line must have moved
            stalled = decoder.stalled
            for task in bombs:
                task.cancel()
            await asyncio.gather(*bombs, return_exceptions=True)
            return before, stalled

    assert asyncio.run(attacked()) == (False, True)


def test_pixels_wait_for_room_until_others_were_seen() -> None:
    async def flooded() -> None:
        with closing(PictureDecoder(Limits(total_pixels=100, pixels=100))) as decoder:
            first = await decoder.admitted([_png(9, 9)])
            second = asyncio.create_task(decoder.admitted([_png(8, 8)]))
            third = asyncio.create_task(decoder.admitted([_png(2, 2)]))
            while decoder.room_waiting < 2:  # noqa: ASYNC110 - decoding is on threads
                await asyncio.sleep(0.001)
            assert not second.done()
            first.close()
            first.close()
            seen = await second
            assert seen.pictures[0].size == (8, 8)
            seen.close()
            assert (await third).pictures[0].size == (2, 2)

    asyncio.run(flooded())


def test_where_no_decoder_starts_it_is_a_stall_until_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends before it was given anything is no fault of a picture's."""
    monkeypatch.setattr(pictures, "_MEND_EVERY_S", 0.01)
    right = decoders.python_program
    monkeypatch.setattr(decoders, "python_program", lambda _module: (sys.executable, "-c", ""))

    async def seen() -> None:
        with closing(PictureDecoder()) as decoder:
            with pytest.raises(ServeError, match="the picture decoder cannot be started"):
                await decoder.admitted([_png()])
            assert decoder.stalled
            monkeypatch.setattr(decoders, "python_program", right)
            while decoder.stalled:  # noqa: ASYNC110 - nobody asks for a picture meanwhile
                await asyncio.sleep(0.01)
            await decoder.admitted([_png()])

    asyncio.run(asyncio.wait_for(seen(), 60))


_TAKEN = """
import json, os, socket, struct, sys
connection, length = socket.socket(fileno=os.dup(0)), struct.Struct(">I")
def say(text):
    connection.sendall(length.pack(len(text)) + text)
say(b"{}")
while connection.recv(1 << 20):
    say(json.dumps(ANSWER).encode())
"""


@pytest.mark.parametrize(
    "answer",
    [
        {"size": [10**6, 10**6]}, {"size": [-1, -1]}, {"size": [0, 5]}, {"size": [40, 40]},
        {"size": "x"}, [], {"error": "serve", "message": "m", "hint": ""}, {"error": "usage"},
    ],
)  # fmt: skip
def test_a_decoder_that_was_taken_over_is_not_believed(
    answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how much of its memory is a picture: terabytes, less than none, more than is there."""
    script = _TAKEN.replace("ANSWER", repr(answer))
    monkeypatch.setattr(decoders, "python_program", lambda _module: (sys.executable, "-c", script))

    async def asked() -> bool:
        with closing(PictureDecoder()) as decoder:
            with pytest.raises(UsageError, match="the picture cannot be decoded"):
                await decoder.admitted([_png()])
            return decoder.stalled

    assert asyncio.run(asked()) is False
