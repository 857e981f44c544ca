"""What the page's routes give out and take in: one's own pictures, and nothing else of this machine.

Every attack is sent to the real gateway by somebody with a key. Where a check holds it back, a
second test leaves the check out and sees the attack succeed.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llava_pack.engine.limits import Limits
from tests.support.gateway import ROOT, TOKEN, Gateway, gateway
from tests.support.page_client import (
    PageClient,
    file_data,
    page_client,
    png,
    said,
    shown,
)
from tests.support.page_tries import spoilt_events

_ANN, _BOB = "key-of-ann", "key-of-bob"
_KEYS = ("--key", _ANN, "--key", _BOB)
_NUMBERS = (0.2, 0.7, 64)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.png"
    path.write_text("somebody-elses-key\n")
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from _serving(tmp_path_factory)


@pytest.fixture(scope="module")
def ungated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from _serving(tmp_path_factory, "--without", "gate", "--no-fence")


@pytest.fixture(scope="module")
def ownerless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from _serving(tmp_path_factory, "--without", "owners", "sessions")


def _serving(folders: pytest.TempPathFactory, *options: str) -> Iterator[Gateway]:
    folder = folders.mktemp("run")
    noted = ("--note-calls", str(folder / "calls"))
    with gateway(folder, "--web", *_KEYS, *noted, *options) as running:
        yield running


@pytest.fixture
def page(served: Gateway) -> Iterator[PageClient]:
    with page_client(served) as client:
        yield client


_ELSEWHERE = [
    "/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/self/cmdline", "/dev/zero",
    "/dev/stdin", "../../../../etc/passwd", "/tmp/../etc/passwd", f"{ROOT}/pyproject.toml",
    "http://127.0.0.1:9/x.png", "http://169.254.169.254/latest/meta-data/x.png",
    "https://a.example/x.png", "ftp://a.example/x.png", "file:///etc/passwd", "data:image/png,x",
    "//a.example/x.png", "\\\\a.example\\x.png", "/etc/passwd\x00.png", "SECRET", "UPLOADS",
]  # fmt: skip


def _named(path: str, secret: Path, page: PageClient) -> str:
    names = {"SECRET": str(secret), "UPLOADS": str(Path(page.upload()).parent)}
    return names.get(path, path)


@pytest.mark.parametrize("path", _ELSEWHERE)
def test_no_event_reads_a_file_or_an_address_of_elsewhere(
    page: PageClient, secret: Path, path: str
) -> None:
    named = _named(path, secret, page)
    before = page.upload("blue", "mine.png")
    for more in ({}, {"url": named}, {"is_stream": True}, {"url": "http://a.example/x.png"}):
        picture = shown(named, **more)
        box = {"text": "x", "files": [file_data(named, **more)]}
        answers = [
            page.run("_taken", box, []),
            page.run("_taken", {"text": "x", "files": []}, [said(picture)]),
            page.run("_again", [said(picture, "x")]),
            page.run(
                "_undone", [said("x", shown(before)), said("y", role="assistant"), said(picture)]
            ),
            page.join("answer", [said(picture, "x")], "echo", *_NUMBERS),
            page.join("answer_1", [said(picture, "x")], "echo", *_NUMBERS),
        ]
        assert [answer.status_code for answer in answers] == [400] * 6
        assert all("first be uploaded" in answer.text for answer in answers)
    assert page.file(named).status_code == 404


def test_an_address_that_comes_with_an_upload_is_dropped(page: PageClient) -> None:
    """`url` is where the page shows a file; the server makes it up from the path."""
    path = page.upload()
    answer = page.run(
        "_again", [said(shown(path, url="http://a.example/x.png", is_stream=True), "x")]
    )
    (message,) = answer.json()["data"][1]
    assert message["content"][0]["file"]["url"].endswith(f"/gradio_api/file={path}")
    assert not message["content"][0]["file"]["is_stream"]
    assert "a.example" not in answer.text


def test_an_uploaded_drawing_is_never_given_out(page: PageClient) -> None:
    """An SVG, opened by itself, is a page of this server's with scripts of its sender's."""
    for name in ("a.svg", "a.html", "a.png.svg", "a"):
        sent = {"files": (name, b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png")}
        (path,) = page.http.post("/gradio_api/upload", files=sent).json()
        assert page.file(path).status_code == 404
        assert page.run("_again", [said(shown(path), "x")]).status_code == 400


def test_a_picture_is_given_out_to_who_brought_it(page: PageClient) -> None:
    answer = page.file(page.upload())
    assert (answer.status_code, answer.content) == (200, png())
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


@contextmanager
def _two(served: Gateway, first: str, second: str) -> Iterator[tuple[PageClient, PageClient]]:
    with ExitStack() as stack:
        yield (
            stack.enter_context(page_client(served, first)),
            stack.enter_context(page_client(served, second)),
        )


@pytest.mark.parametrize("keys", [(_ANN, _BOB), (TOKEN, TOKEN), (_BOB, TOKEN)])
def test_a_path_that_is_known_is_no_permission(served: Gateway, keys: tuple[str, str]) -> None:
    """Another key's, and another browser's under the same key."""
    with _two(served, *keys) as (mine, theirs):
        path = mine.upload("#123456")
        assert mine.file(path).status_code == 200
        assert theirs.file(path).status_code == 404
        assert theirs.run("_again", [said(shown(path), "x")], session="bsession").status_code == 400
        assert theirs.upload("#123456") == path, "the same picture has the same path"
        assert theirs.file(path).status_code == 200


def test_the_cookie_of_one_key_opens_nothing_with_another(served: Gateway) -> None:
    with _two(served, _ANN, _BOB) as (mine, theirs):
        path = mine.upload("#654321")
        theirs.http.cookies = mine.http.cookies
        assert theirs.file(path).status_code == 404


def test_a_session_is_heard_and_ended_by_who_began_it(served: Gateway) -> None:
    with _two(served, _ANN, _BOB) as (mine, theirs):
        asked = [[said("mine alone")], "echo", *_NUMBERS]
        event = mine.join("answer", *asked, session="annssession").json()["event_id"]
        assert theirs.heard("annssession") == [404]
        ending = {
            "session_hash": "annssession",
            "fn_index": mine.events["answer"],
            "event_id": event,
        }
        assert theirs.http.post("/gradio_api/cancel", json=ending).status_code == 404
        own = {**ending, "session_hash": "bobssession"}
        theirs.run("_cleared", session="bobssession")
        assert theirs.http.post("/gradio_api/cancel", json=own).status_code == 404
        assert theirs.join("answer", *asked, session="annssession").status_code == 404
        assert theirs.run("_cleared", session="annssession").status_code == 404
        assert "mine alone" in json.dumps(mine.heard("annssession"))
        assert mine.http.post("/gradio_api/cancel", json=ending).status_code == 200


_BAD_NUMBERS = ["1", None, [], {}, True, -1, 10**400, float("nan"), float("inf"), 1e308]
_BAD_CHATS = [
    None, 7, "x", {}, [None], [[]], ["x"], [{}], [said(7)], [said(None)], [said({})],
    [{"role": "system", "content": []}], [{"role": [], "content": []}], [{"role": "user"}],
    [{"role": "user", "content": "x"}], [said({"type": "text"})], [said({"type": "text", "text": 7})],
    [said({"type": "file"})], [said({"type": "file", "file": "/etc/passwd"})],
    [said({"type": "file", "file": {"path": {"path": "/etc/passwd"}}})],
    [said({"type": "component", "component": "fileexplorer", "value": ["x"],
           "constructor_args": {"root_dir": "/"}, "props": {}})],
    [said({"type": "component", "component": "file", "value": [file_data("/etc/passwd")],
           "constructor_args": {}, "props": {}})],
    [said({"type": "component", "component": "html", "value": "<script>", "props": {},
           "constructor_args": {"head": "<script src=http://a.example></script>"}})],
    [said(*["x"] * 65)], [said("x")] * 257, [said("\ud800")], [said("x" * 1_000_001)],
    [said(file_data("/etc/passwd"))], [said(["path", "/etc/passwd"])],
]  # fmt: skip
_BAD_BOXES = [
    None, 7, "x", [], {"text": 7}, {"text": None}, {"files": {}}, {"files": "x"}, {"files": [7]},
    {"files": ["/etc/passwd"]}, {"files": [{"path": 7}]}, {"files": [{"path": ["/etc/passwd"]}]},
    {"text": "\udfff"}, {"text": {"path": "/etc/passwd"}}, {"files": [{}] * 65},
    {"files": [{"url": "http://a.example/x.png"}]}, {"files": [[file_data("/etc/passwd")]]},
]  # fmt: skip
_BAD_WORDS = [7, [], {}, True, ["echo"], "x" * 257, file_data("/etc/passwd"), "\ud800"]


@pytest.mark.parametrize("chat", _BAD_CHATS, ids=range(len(_BAD_CHATS)))
def test_a_conversation_of_another_shape_is_refused(page: PageClient, chat: Any) -> None:
    answers = [
        page.run("_taken", {"text": "x", "files": []}, chat),
        page.run("_again", chat),
        page.run("_undone", chat),
        page.join("answer", chat, "echo", *_NUMBERS),
        page.join("answer_1", chat, "echo", *_NUMBERS),
    ]
    assert {answer.status_code for answer in answers} <= {400, 413}


@pytest.mark.parametrize("box", _BAD_BOXES, ids=range(len(_BAD_BOXES)))
def test_a_box_of_another_shape_is_refused(page: PageClient, box: Any) -> None:
    assert page.run("_taken", box, []).status_code == 400


@pytest.mark.parametrize("word", _BAD_WORDS, ids=range(len(_BAD_WORDS)))
@pytest.mark.parametrize("event", ["answer", "answer_1"])
def test_a_model_of_another_shape_is_refused(page: PageClient, event: str, word: Any) -> None:
    assert page.join(event, [said("x")], word, *_NUMBERS).status_code == 400


@pytest.mark.parametrize("event", ["answer", "answer_1"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("number", _BAD_NUMBERS, ids=range(len(_BAD_NUMBERS)))
def test_a_number_of_another_shape_is_refused(
    page: PageClient, event: str, place: int, number: Any
) -> None:
    numbers: list[Any] = [*_NUMBERS]
    numbers[place] = number
    assert page.join(event, [said("x")], "echo", *numbers).status_code == 400


def test_a_model_that_is_not_served_is_said_in_the_answer(page: PageClient) -> None:
    page.join("answer", [said("x")], "../../etc", *_NUMBERS, session="wrongmodel")
    assert "is not in the list of choices" in json.dumps(page.heard("wrongmodel"))


@pytest.mark.parametrize(
    "clicked",
    [None, {}, {"index": "x"}, {"index": -1}, {"index": 10**9}, {"index": [0]}, {"index": True},
     {"value": {"files": [file_data("/etc/passwd")]}}, 7, []],
)  # fmt: skip
def test_an_example_is_picked_by_its_number(page: PageClient, clicked: Any) -> None:
    assert page.run("picked", event_data=clicked).status_code == 400


def test_what_comes_with_a_click_on_an_example_is_not_believed(page: PageClient) -> None:
    hostile = {"text": "evil", "files": [file_data("/etc/passwd")]}
    answer = page.run("picked", event_data={"index": 2, "value": hostile})
    (box,) = answer.json()["data"]
    assert box["text"] == "What colour is it?"
    assert [Path(file["path"]).name for file in box["files"]] == ["example-square.png"]
    assert page.run("picked", event_data={"index": 9, "value": hostile}).status_code == 200
    assert page.run("picked", event_data={"index": 0}, trigger_id=9999).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b"\xff\xfe", 400), (b"{}", 400),
        (b'{"fn_index": 0, "data": NaN}', 400), (b'{"fn_index": 0, "data": {}}', 400),
        (b"[" * 100_000, 413), (b'{"a":' * 100_000, 413), (b"1" * 100_000, 400),
        (b" " * (1024 * 1024 + 1), 413),
        (b'{"fn_index": 5, "data": [], "session_hash": "a"}', 400),
        (b'{"fn_index": 99, "data": [], "session_hash": "a"}', 400),
        (b'{"fn_index": -1, "data": [], "session_hash": "a"}', 400),
        (b'{"fn_index": null, "data": [], "session_hash": "a"}', 400),
        (b'{"fn_index": "8", "data": [], "session_hash": "a"}', 400),
        (b'{"fn_index": true, "data": [], "session_hash": "a"}', 400),
        (b'{"fn_index": 8, "data": [1], "session_hash": "a"}', 400),
        (b'{"fn_index": 8, "data": [], "session_hash": "../a"}', 400),
        (b'{"fn_index": 8, "data": [], "session_hash": ""}', 400),
        (b'{"fn_index": 8, "data": [], "session_hash": null}', 400),
        (b'{"fn_index": 8, "data": [], "session_hash": "a", "trigger_id": "x"}', 400),
    ],
    ids=range(23),
)  # fmt: skip
@pytest.mark.parametrize("path", ["run/predict", "queue/join", "cancel"])
def test_a_body_that_is_no_event_is_refused(
    page: PageClient, path: str, body: bytes, status: int
) -> None:
    answer = page.http.post(f"/gradio_api/{path}", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] in {"invalid_value", "body_too_large"}


def test_what_the_page_does_not_send_is_not_passed_on(page: PageClient) -> None:
    """Each of these changes what the library does with an event."""
    more = {"event_id": "x", "batched": True, "simple_format": True, "oauth_token": "x",
            "request": {"url": "http://a.example"}, "batch_trigger_ids": [1]}  # fmt: skip
    answer = page.run("_cleared", **more)
    assert answer.status_code == 200
    headers = {"X-Gradio-Server": "http://a.example", "X-Forwarded-Host": "a.example",
               "X-Forwarded-Proto": "https", "Origin": str(page.http.base_url).rstrip("/")}  # fmt: skip
    index = page.http.get("/?deep_link=../x&__theme=dark", headers=headers)
    assert "a.example" not in index.text
    assert "access-control-allow-origin" not in index.headers


def test_an_event_goes_by_the_route_it_is_meant_for(page: PageClient) -> None:
    """The queue's events cannot pass by it."""
    assert page.run("answer", [said("x")], "echo", *_NUMBERS).status_code == 400
    assert page.join("_cleared").status_code == 400


_FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 400),
        ({"Content-Type": "multipart/form-data"}, b"", 400),
        ({"Content-Type": "multipart/form-data; boundary="}, b"", 400),
        (_FORM, b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--b--\r\n', 400),
        (_FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400),
        (_FORM, b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        (_FORM, b"not a form at all", 400),
        (_FORM, b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n'
         * 17 + b"--b--\r\n", 413),
        (_FORM, b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
         + b"x" * (Limits().size_bytes + 1) + b"\r\n--b--\r\n", 413),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_form_that_is_no_upload_is_refused(
    page: PageClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = page.http.post("/gradio_api/upload", content=body, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    "name",
    [
        "../../x.png",
        "/etc/x.png",
        "a/../../x.png",
        "x\\..\\y.png",
        "é ü.png",
        "x" * 300 + ".png",
    ],
)
def test_an_upload_lands_in_the_uploads_whatever_its_name(page: PageClient, name: str) -> None:
    sent = {"files": (name, png(), "image/png")}
    answer = page.http.post("/gradio_api/upload", files=sent)
    assert answer.status_code == 200
    (path,) = answer.json()
    assert Path(path).parents[1] == Path(page.upload()).parents[1]
    assert ".." not in Path(path).parts


def test_nothing_of_the_machine_is_in_the_page_but_where_the_examples_are(
    page: PageClient, served: Gateway
) -> None:
    """A random name in the temporary folder; nobody else can open what is in it."""
    text = page.http.get("/").text
    for told in (str(ROOT), str(Path.home()) + "/", sys.prefix, str(served.state_directory)):
        assert told not in text


def _calls_while_addresses_are_named(served: Gateway) -> list[str]:
    """Return what the gateway's own process looked up or connected to."""
    noted = served.state_directory / "calls"
    before = len(noted.read_text().splitlines())
    with page_client(served) as page:
        for url in ("http://a.example/x.png", "https://127.0.0.1:9/x.png", "//a.example/x.png"):
            page.file(url)
            page.http.get(f"/gradio_api/proxy={url}")
            page.run("_again", [said(shown(url), "x")])
            page.run("_again", [said(shown(page.upload(), url=url), "x")])
            page.run("_taken", {"text": url, "files": [file_data(url)]}, [])
    return noted.read_text().splitlines()[before:]


def test_no_name_is_looked_up_and_no_address_called(served: Gateway) -> None:
    assert _calls_while_addresses_are_named(served) == []


def test_without_the_gate_a_name_is_looked_up(ungated: Gateway) -> None:
    assert any("a.example" in call for call in _calls_while_addresses_are_named(ungated))


def _steals_by_event(page: PageClient, secret: Path) -> bool:
    answer = page.run("_again", [said(shown(str(secret)), "x")])
    if answer.status_code != 200:
        return False
    path = answer.json()["data"][1][0]["content"][0]["file"]["path"]
    return "somebody-elses-key" in page.file(path).text


def _uses_anothers(mine: PageClient, theirs: PageClient) -> bool:
    return theirs.file(mine.upload("#abcdef")).status_code == 200


def _hears_another(mine: PageClient, theirs: PageClient) -> bool:
    mine.join("answer", [said("mine alone")], "echo", *_NUMBERS)
    return "mine alone" in json.dumps(theirs.heard(mine.session))


def test_no_spoilt_event_gets_anything_out(page: PageClient, secret: Path) -> None:
    """A sample of tests/attack/page.py."""
    tally = spoilt_events(page, secret, seed=10, count=150)
    assert tally.wrong == []
    assert {200, 400, 404} <= set(tally.by_status)


def test_without_the_check_of_files_spoilt_events_get_through(tmp_path: Path, secret: Path) -> None:
    unfenced = gateway(tmp_path, "--web", "--without", "files", "--no-fence")
    with unfenced as served, page_client(served) as page:
        assert spoilt_events(page, secret, seed=1, count=200).wrong != []


def test_without_the_gate_a_file_is_stolen(ungated: Gateway, secret: Path) -> None:
    with page_client(ungated) as page:
        assert _steals_by_event(page, secret)
        assert page.http.get("/gradio_api/startup-events").status_code == 200


def test_behind_the_gate_the_library_checks_too(tmp_path: Path, secret: Path) -> None:
    with (
        gateway(tmp_path, "--web", "--without", "gate alone", "--no-fence") as served,
        page_client(served) as page,
    ):
        assert not _steals_by_event(page, secret)


def test_behind_the_gate_and_the_library_stands_the_fence(tmp_path: Path, secret: Path) -> None:
    with (
        gateway(tmp_path, "--web", "--without", "gate") as served,
        page_client(served) as page,
    ):
        assert not _steals_by_event(page, secret)


def test_without_their_owners_uploads_are_everybodys(ownerless: Gateway) -> None:
    with _two(ownerless, _ANN, _BOB) as (mine, theirs):
        assert _uses_anothers(mine, theirs)


def test_without_their_owners_sessions_are_everybodys(ownerless: Gateway) -> None:
    with _two(ownerless, _ANN, _BOB) as (mine, theirs):
        assert _hears_another(mine, theirs)


def test_with_everything_in_place_none_of_them_succeeds(served: Gateway, secret: Path) -> None:
    with _two(served, _ANN, _BOB) as (mine, theirs):
        assert not _steals_by_event(mine, secret)
        assert not _uses_anothers(mine, theirs)
        assert not _hears_another(mine, theirs)
        assert theirs.http.get("/config").status_code == 404


def test_a_client_that_leaves_within_a_body_leaves_no_trace(served: Gateway) -> None:
    with httpx.Client(base_url=served.url, trust_env=False) as http:
        headers = {"Authorization": f"Bearer {TOKEN}"}

        def half() -> Iterator[bytes]:
            yield b'{"data": ['
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            http.post("/gradio_api/run/predict", content=half(), headers=headers)
        assert http.get("/livez", headers=headers).status_code == 200
