"""What the page's own routes give out: files of the page, and nothing else of this machine."""

import contextlib
import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.support.gateway import ROOT, TOKEN, Gateway, gateway
from tests.support.waiting import until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("run"), "--web") as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/passwd",
        "file=../../../../etc/passwd",
        "file=%2e%2e/%2e%2e/etc/passwd",
        f"file={ROOT}/pyproject.toml",
        "file=pyproject.toml",
        "file=/proc/self/environ",
        "file=http://127.0.0.1:9/x.png",
        "file=http://169.254.169.254/latest/meta-data",
        "proxy=http://127.0.0.1:9/x.png",
        "component_server",
    ],
)
def test_no_file_and_no_address_of_elsewhere_is_read(served: Gateway, path: str) -> None:
    """CVE-2024-1561, CVE-2026-28414, CVE-2026-59806 and their like."""
    with served.client() as http:
        answer = http.get(f"/gradio_api/{path}")
    assert answer.status_code in {400, 403, 404, 405}, answer.text
    assert "root:" not in answer.text
    assert "llava-pack" not in answer.text


def test_several_ranges_of_an_uploaded_file_are_the_whole_file(served: Gateway) -> None:
    data = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(data, "PNG")
    with served.client() as http:
        sent = {"files": ("a.png", data.getvalue(), "image/png")}
        (path,) = http.post("/gradio_api/upload", files=sent).json()
        for asked in ("bytes=0-1,3-4", "bytes=0-1-2", "bytes=0-3"):
            answer = http.get(f"/gradio_api/file={path}", headers={"Range": asked})
            assert (answer.status_code, answer.content) == (200, data.getvalue())


def test_uploads_of_a_key_make_room_for_its_next_ones(tmp_path: Path) -> None:
    """An attack: a page key that uploads until the disk is full."""
    with gateway(tmp_path / "run", "--web", "--without", "room") as little, little.client() as http:
        paths = []
        for number in range(4):
            (path,) = http.post(
                "/gradio_api/upload", files={"files": (f"{number}.png", bytes([number]) * 2_000)}
            ).json()
            paths.append(path)
        assert [Path(path).is_file() for path in paths] == [False, False, True, True]
        assert not Path(paths[0]).parent.exists()
        shown = [http.get(f"/gradio_api/file={path}").status_code for path in paths]
        assert shown == [404, 404, 200, 200]


_FORM = (
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 3000000\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
)


def _leave_in_the_middle(served: Gateway) -> None:
    where = httpx.URL(served.url)
    with socket.create_connection((where.host, where.port or 80)) as connection:
        connection.sendall(_FORM % TOKEN.encode() + bytes(1_000_000))


def _under_another_name(served: Gateway) -> None:
    with served.client() as http:
        assert http.post("/gradio_api/upload", files={"other": ("a.png", bytes(1000))}).json() == []


def _beyond_the_bound(served: Gateway) -> None:
    head = b'\r\n--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    pieces = (piece for _ in range(8) for piece in (head, *[bytes(1 << 20)] * 9))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with served.client() as http, contextlib.suppress(httpx.TransportError):
        answer = http.post("/gradio_api/upload", content=pieces, headers=headers)
        assert answer.status_code == 413


def _left(served: Gateway) -> int:
    """Return how many files lie beside the folders of what was uploaded whole."""
    with served.client() as http:
        (path,) = http.post("/gradio_api/upload", files={"files": ("x.png", b"x")}).json()
    return sum(entry.is_file() for entry in Path(path).parents[1].iterdir())


_HALVES = [_leave_in_the_middle, _under_another_name, _beyond_the_bound]


@pytest.mark.parametrize("half", _HALVES)
def test_an_upload_that_comes_to_nothing_leaves_nothing(
    served: Gateway, half: Callable[[Gateway], None]
) -> None:
    """An attack: files that nobody is told of stayed until the disk was full."""
    half(served)
    # The server learns a little later that somebody went away.
    until(lambda: not _left(served), within_s=30)


def test_without_that_they_stay(tmp_path: Path) -> None:
    with gateway(tmp_path / "run", "--web", "--without", "halves") as served:
        for half in _HALVES:
            half(served)
        until(lambda: _left(served) >= len(_HALVES), within_s=30)


@pytest.mark.parametrize(
    "path", ["", "config", "theme.css", "assets/x", "static/x", "gradio_api/info",
             "gradio_api/upload", "gradio_api/queue/join", "gradio_api/file=/etc/passwd"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_page_asks_for_the_token(served: Gateway, method: str, path: str) -> None:
    answer = httpx.request(method, f"{served.url}/{path}", trust_env=False)
    assert answer.status_code == 401
