"""`--picture-root`: what lies below the folder is read, and nothing else by any way of writing it."""

import asyncio
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from llava_pack.engine.limits import Limits
from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError
from llava_pack.serve.api.picture_root import PictureRoot, file_path
from llava_pack.serve.api.pictures import PictureDecoder, SentPicture


@pytest.fixture
def root(tmp_path: Path) -> PictureRoot:
    folder = tmp_path / "pictures"
    (folder / "über uns").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a picture")
    (folder / "über uns" / "100% #1?.png").write_bytes(b"another")
    (folder / "link.png").symlink_to("a.png")
    (folder / "out.png").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    (tmp_path / "secret").write_bytes(b"hunter2")
    (tmp_path / "pictures-of-others").mkdir()
    (tmp_path / "pictures-of-others" / "a.png").write_bytes(b"theirs")
    return PictureRoot(folder)


def _read(root: PictureRoot, url: str, max_bytes: int = 100) -> bytes:
    path = file_path(url)
    assert path is not None
    return root.read(path, max_bytes)


@pytest.mark.parametrize("head", ["file://", "file://localhost", "FILE://LocalHost", " file:"])
def test_what_lies_below_is_read(root: PictureRoot, head: str) -> None:
    assert _read(root, f"{head}{root.folder}/a.png") == b"a picture"


def test_a_path_is_decoded_once(root: PictureRoot) -> None:
    path = root.folder / "über uns" / "100% #1?.png"
    assert _read(root, path.as_uri()) == b"another"
    assert _read(root, f"file://{root.folder}/%61.png") == b"a picture"
    with pytest.raises(UsageError, match="does not lead to a file below"):
        _read(root, f"file://{root.folder}/%2561.png")


def test_a_link_is_followed_where_it_stays_below(root: PictureRoot) -> None:
    assert _read(root, f"file://{root.folder}/link.png") == b"a picture"
    assert _read(root, f"file://{root.folder}/up/pictures/a.png") == b"a picture"


@pytest.mark.parametrize(
    "rest",
    [
        "/out.png",
        "/up/secret",
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/über uns/../../secret",
        "-of-others/a.png",
        "",
        "/",
        "/über uns",
        "/no-such.png",
        "/a.png/a.png",
        "/a.png%00",
        "/" + "x" * 5000,
        "/" + "../" * 2000 + "etc/passwd",
        "/" + "../" * 1_000_000,
    ],
)
def test_what_does_not_lie_below_is_refused_in_one_way(root: PictureRoot, rest: str) -> None:
    """Whether there is such a file elsewhere is not told."""
    with pytest.raises(UsageError) as refused:
        _read(root, f"file://{root.folder}{rest}")
    assert refused.value.message == (
        "the file:// URL does not lead to a file below the folder of --picture-root"
    )


@pytest.mark.parametrize("url", ["file://example.org/a.png", "file:a.png", "file:", "file:////a"])
def test_other_hosts_and_relative_paths_are_refused(root: PictureRoot, url: str) -> None:
    with pytest.raises(UsageError, match="another host"):
        _read(root, url)


def test_only_regular_files_are_read(root: PictureRoot) -> None:
    os.mkfifo(root.folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root.folder / "socket.png"))
        for name in ("fifo.png", "socket.png"):
            with pytest.raises(UsageError, match="does not lead to a file"):
                _read(root, f"file://{root.folder}/{name}")


def test_the_size_is_known_before_it_is_read(root: PictureRoot) -> None:
    with (root.folder / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match=r"too large: 1099\.5 GB, at most 100 bytes"):
        _read(root, f"file://{root.folder}/large.png")


@pytest.mark.parametrize("step", ["über uns", "über uns/100% #1?.png"])
def test_whoever_exchanges_a_step_for_a_link_in_between_gets_an_error(
    root: PictureRoot, step: str
) -> None:
    path = root.folder / "über uns" / "100% #1?.png"
    steps = root._steps(str(path))
    elsewhere = root.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / path.name).write_bytes(b"hunter2")
    (root.folder / step).rename(root.folder.parent / "moved")
    (root.folder / step).symlink_to(elsewhere / path.name if "/" in step else elsewhere)
    with pytest.raises(UsageError, match="does not lead to a file"):
        root._read(steps, 100)


@pytest.mark.parametrize("url", ["data:;base64,aGk=", "https://a/b", "profile:///a", ""])
def test_other_urls_are_no_files(url: str) -> None:
    assert file_path(url) is None


def _after_a_change(root: PictureRoot, colour: str, side: int) -> tuple[Picture, ...]:
    """Return two pictures of which one changes while they wait for room."""
    paths = [root.folder / name for name in ("1.png", "2.png")]
    for path in paths:
        Image.new("RGB", (4, 4), "red").save(path)
    sent = [SentPicture(path.as_uri(), f"messages.{n}") for n, path in enumerate(paths)]

    async def admitted() -> tuple[Picture, ...]:
        with closing(PictureDecoder(Limits(pixels=100, total_pixels=100), root)) as decoder:
            room = decoder._room
            holding = await room.take("anyone", 300)
            waiting = asyncio.create_task(decoder.admitted(sent))
            while not decoder.room_waiting:  # noqa: ASYNC110 - measuring is on a thread
                await asyncio.sleep(0.001)
            Image.new("RGB", (side, side), colour).save(paths[1])
            holding.give_back()
            return (await waiting).pictures

    return asyncio.run(admitted())


def test_files_are_not_kept_while_their_pictures_wait_for_room(root: PictureRoot) -> None:
    """Sixteen of 40 MB, which no body brought, were 640 MB that nothing counted."""
    _, changed = _after_a_change(root, "blue", 4)
    assert changed.rgb[:3] == b"\x00\x00\xff", "it was read again"


def test_a_file_that_has_grown_meanwhile_gets_no_more_room(root: PictureRoot) -> None:
    with pytest.raises(UsageError, match="too large: 5x5") as refused:
        _after_a_change(root, "blue", 5)
    assert refused.value.subject == "messages.1"
