"""Pictures of a request: what is taken, and what is refused before it costs anything."""

import asyncio
import base64
import io
import threading

import anyio.to_thread
import pytest
from PIL import Image

from llava_pack.engine.pictures import Limits, decode_picture
from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError
from llava_pack.serve import pictures
from llava_pack.serve.pictures import PictureDecoder, data_bytes


def _png(width: int = 2, height: int = 3) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def _url(data: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(data).decode()


def test_a_data_url_is_decoded() -> None:
    picture = asyncio.run(PictureDecoder().from_url(_url(_png())))
    assert (picture.width, picture.height, picture.rgb[:3]) == (2, 3, b"\xff\x00\x00")


@pytest.mark.parametrize("head", ["DATA:image/PNG;base64,", "data:image/jpeg;name=a.jpg;base64,"])
def test_the_head_may_vary(head: str) -> None:
    assert data_bytes(_url(b"hello", head), 10) == b"hello"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "/etc/passwd",
        "ftp://example.org/a.png",
        "data:text/html;base64,aGk=",
        "data:image/png,aGk=",
        " data:image/png;base64,aGk=",
        "",
    ],
)
def test_other_urls_are_refused_and_never_fetched(url: str) -> None:
    with pytest.raises(UsageError, match="pictures are not fetched"):
        data_bytes(url, 100)


@pytest.mark.parametrize("text", ["a", "aGk", "aG k=", "%61%47", "aGk=\n", "ä"])
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(UsageError, match="not base64"):
        data_bytes(f"data:image/png;base64,{text}", 100)


def test_the_size_is_known_before_it_is_decoded() -> None:
    with pytest.raises(UsageError, match="too large: 102 bytes, at most 10 are taken"):
        data_bytes(_url(bytes(100)), 10)


def test_something_else_than_a_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="not a picture"):
        asyncio.run(PictureDecoder().from_bytes(b"GIF89a but no more"))


def test_a_picture_beyond_the_limits_is_refused() -> None:
    with pytest.raises(UsageError, match="too large: 50x50"):
        asyncio.run(PictureDecoder(Limits(pixels=100)).from_url(_url(_png(50, 50))))


def test_two_pictures_are_decoded_at_once_and_no_third(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = [], threading.Event()

    def decoded(data: bytes, limits: Limits) -> Picture:
        begun.append(data)
        go_on.wait()
        return decode_picture(data, limits)

    monkeypatch.setattr(pictures, "decode_picture", decoded)

    async def flood() -> int:
        decoder = PictureDecoder()
        tasks = [asyncio.create_task(decoder.from_bytes(_png())) for _ in range(5)]
        while len(begun) < 2:
            await anyio.to_thread.run_sync(lambda: None)
        for _ in range(20):  # threads that were started before these have begun by then
            await anyio.to_thread.run_sync(lambda: None)
        at_once = len(begun)
        go_on.set()
        await asyncio.gather(*tasks)
        return at_once

    assert asyncio.run(flood()) == 2
    assert len(begun) == 5


def test_the_seventeenth_request_with_pictures_waits_for_a_seat() -> None:
    async def flood() -> None:
        decoder, leave = PictureDecoder(), asyncio.Event()
        seated = []

        async def held(number: int) -> None:
            async with decoder.seated(1):
                seated.append(number)
                await leave.wait()

        tasks = [asyncio.create_task(held(number)) for number in range(17)]
        for _ in range(3):  # each task has gone as far as it can
            await asyncio.sleep(0)
        assert len(seated) == 16
        async with decoder.seated(0):
            pass
        leave.set()
        await asyncio.gather(*tasks)
        assert len(seated) == 17

    asyncio.run(flood())
