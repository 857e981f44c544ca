"""The page's conversation as the engine's."""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_pack.engine.port import Message
from llava_pack.format.errors import UsageError
from llava_pack.serve.api.pictures import PictureDecoder
from llava_pack.serve.page.conversation import engine_messages, picture_files, turns


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    Image.new("RGB", (3, 2), "red").save(folder / "a.png")
    return folder


def _messages(uploads: Path, *conversation: dict[str, Any]) -> tuple[Message, ...]:
    async def made() -> tuple[Message, ...]:
        told = turns(conversation)
        with closing(PictureDecoder()) as decoder:
            admitted = await decoder.admitted(await picture_files(told, uploads))
            return engine_messages(told, admitted.pictures)

    return asyncio.run(made())


def _asked(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_a_turn_is_its_pictures_and_its_text(uploads: Path) -> None:
    (message,) = _messages(uploads, _asked({"path": str(uploads / "a.png")}, "hi"))
    assert [type(part).__name__ for part in message.parts] == ["Picture", "str"]
    assert message.text == "hi"


def test_messages_in_each_form_that_gradio_uses(uploads: Path) -> None:
    path = str(uploads / "a.png")
    messages = _messages(
        uploads,
        {"role": "user", "content": [{"path": path}, "one"]},
        {"role": "assistant", "content": [{"type": "text", "text": "first"}]},
        _asked({"type": "file", "file": {"path": path}}, {"type": "text", "text": "two"}),
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "three"},
    )
    assert [m.role for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [m.text for m in messages] == ["one", "first", "two", "second", "three"]
    assert [len(m.pictures) for m in messages] == [1, 0, 1, 0, 0]


@pytest.mark.parametrize(
    "conversation", [[], [_asked()], [_asked("x"), {"role": "assistant", "content": "y"}]]
)
def test_nothing_is_no_question(uploads: Path, conversation: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match="type a question"):
        _messages(uploads, *conversation)


@pytest.mark.parametrize("path", ["/etc/passwd", "uploads/../../etc/passwd", "", "a.png", "."])
def test_only_uploads_are_read(uploads: Path, path: str) -> None:
    with pytest.raises(UsageError, match="must be uploaded first"):
        _messages(uploads, _asked({"path": path}))


def test_a_link_out_of_the_uploads_is_not_followed(uploads: Path) -> None:
    (uploads / "link.png").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="must be uploaded first"):
        _messages(uploads, _asked({"path": str(uploads / "link.png")}))


def test_a_picture_that_is_gone_is_said(uploads: Path) -> None:
    with pytest.raises(UsageError, match="no longer available"):
        _messages(uploads, _asked({"path": str(uploads / "b.png")}))


def test_pictures_of_all_turns_count(uploads: Path) -> None:
    picture = {"path": str(uploads / "a.png")}
    with pytest.raises(UsageError, match="too many pictures"):
        _messages(uploads, _asked(*[picture] * 16), _asked(picture))
