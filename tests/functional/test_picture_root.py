"""`serve --picture-root`: a client names pictures that lie on the server, through a fenced gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.gateway import Gateway, gateway


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("account") / "data set"
    (folder / "train").mkdir(parents=True)
    Image.new("RGB", (8, 4), "blue").save(folder / "train" / "a b.png")
    Image.new("RGB", (8, 4), "red").save(folder.parent / "private.png")
    (folder / "out.png").symlink_to(folder.parent / "private.png")
    (folder / "words.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("run"), "--picture-root", str(folder)) as running:
        yield running


def _asked(served: Gateway, *urls: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    with served.client() as http:
        body = {"model": "echo", "messages": [{"role": "user", "content": content}]}
        answer: dict[str, Any] = http.post("/v1/chat/completions", json=body).json()
    return answer


def test_a_picture_below_the_folder_is_seen(served: Gateway, folder: Path) -> None:
    url = (folder / "train" / "a b.png").as_uri()
    answer = _asked(served, url, url.replace("file://", "file://localhost"))
    said = answer["choices"][0]["message"]["content"]
    assert said.count("Picture 8x4 of 0,0,255.") == 2
    with served.client() as http:
        fence = http.get("/startupz").json()["fence"]
    assert fence["landlock"] or fence["why"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../private.png", "does not lead to a file below the folder of --picture-root"),
        ("out.png", "does not lead to a file below the folder of --picture-root"),
        ("train", "does not lead to a file below the folder of --picture-root"),
        ("words.txt", "not a picture"),
    ],
)
def test_nothing_else_is(served: Gateway, folder: Path, name: str, message: str) -> None:
    error = _asked(served, f"file://{folder}/{name}")["error"]
    assert message in error["message"]
    assert error["param"] == "messages.0.content.0.image_url"
    assert str(folder.parent) not in error["message"]
