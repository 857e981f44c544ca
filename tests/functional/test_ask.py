"""`llava-pack ask`: many pictures through a server, and through a model in this process."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_pack.client.batch import LocalAsker, keep_answered
from llava_pack.client.items import Item, left, select_items
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import UsageError
from tests.support.engine import EchoEngine
from tests.support.gateway import Gateway, gateway

_COLOURS = {"a/red.png": (255, 0, 0), "b/green.png": (0, 255, 0), "blue.png": (0, 0, 255)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in _COLOURS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 2), colour).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not asked about")
    return folder


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: sockets are made below it
        yield Path(folder)


@pytest.fixture(scope="module")
def served(state: Path) -> Iterator[Gateway]:
    # a queue of one: `ask` keeps twice the slots busy, so it is refused now and then, and waits
    options = ("--queue", "1")
    with gateway(state / "llava-pack" / "run", *options, engine="--step-s 0.01") as running:
        yield running


def _lines(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({line["image"] for line in lines}) == len(lines), "one line for each picture"
    return {line["image"]: line for line in lines}


def _ask(
    monkeypatch: pytest.MonkeyPatch, state: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    command = [sys.executable, "-m", "llava_pack", "ask", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_a_folder_is_asked_about_and_asked_again_only_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, state: Path, served: Gateway, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    options = ["--images", str(pictures), "--prompt", "colour", "--out", str(out)]
    done = _ask(monkeypatch, state, *options)
    assert done.returncode == 2
    assert "1 of 4 pictures were not answered" in done.stderr
    assert "left out: notes.txt: " in done.stderr
    lines = _lines(out)
    assert lines.keys() == _COLOURS.keys() | {"broken.png"}
    assert lines["broken.png"]["error"]["kind"] == "usage"
    for name, colour in _COLOURS.items():
        assert f"of {','.join(map(str, colour))}." in lines[name]["text"]
        assert lines[name]["finish_reason"] == "stop"
        assert lines[name]["completion_tokens"] > 0
    kept = [line for line in out.read_text().splitlines() if "error" not in line][:2]
    out.write_text("\n".join([*kept, '{"image": "half a li']))
    again = _ask(monkeypatch, state, *options)
    assert "4 pictures, 2 already answered" in again.stderr
    assert _lines(out).keys() == lines.keys()
    assert out.read_text().splitlines()[:2] == kept


def test_what_is_left_out_of_a_folder_is_listed_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, state: Path, served: Gateway, tmp_path: Path
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    wide = Image.new("RGB", (10_400, 26), "red")
    wide.putpixel((0, 0), (0, 0, 255))
    wide.save(folder / "wide.tif")
    (folder / "scan.pdf").write_bytes(b"%PDF-1.7")
    out = folder / "answers.jsonl"
    options = ["--images", str(folder), "--prompt", "colour", "--out", str(out), "--json"]
    refused = _ask(monkeypatch, state, *options)
    assert refused.returncode == 2
    assert "--shrink" in _lines(out)["wide.tif"]["error"]["message"]
    done = _ask(monkeypatch, state, *options, "--shrink")
    assert done.returncode == 1, done.stderr
    assert "left out: scan.pdf: its name is not a picture's" in done.stderr
    assert [one["path"] for one in json.loads(done.stdout)["left_out"]] == ["scan.pdf"]
    assert "Picture 4096x10 of 25" in _lines(out)["wide.tif"]["text"]
    assert "warnings" not in _lines(out)["wide.tif"]


def test_a_picture_of_one_colour_is_told_in_its_line(
    monkeypatch: pytest.MonkeyPatch, state: Path, served: Gateway, pictures: Path, tmp_path: Path
) -> None:
    asked, out = pictures / "blue.jsonl", tmp_path / "out.jsonl"
    asked.write_text('{"image": "blue.png"}')
    done = _ask(monkeypatch, state, "--images", str(asked), "--prompt", "what?", "--out", str(out))
    asked.unlink()
    assert done.returncode == 0, done.stderr
    assert "warning: 1 pictures have only one colour" in done.stderr
    [warning] = _lines(out)["blue.png"]["warnings"]
    assert "only one colour, #0000ff" in warning
    local = LocalAsker(EchoEngine()).answers([Item("b", pictures / "blue.png", "?")], Sampling())
    assert [line["warnings"] for _item, line in local] == [[warning]]


def test_a_list_may_have_questions_of_its_own(
    monkeypatch: pytest.MonkeyPatch, state: Path, served: Gateway, pictures: Path, tmp_path: Path
) -> None:
    asked = pictures / "list.jsonl"
    asked.write_text('{"image": "blue.png", "prompt": "own"}\n\n{"image": "a/red.png"}\n')
    out = tmp_path / "out.jsonl"
    done = _ask(
        monkeypatch, state, "--images", str(asked), "--prompt", "common", "--out", str(out)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 2, " in done.stderr
    lines = _lines(out)
    assert lines["blue.png"]["text"].startswith("You said: own Picture 4x2")
    assert lines["a/red.png"]["text"].startswith("You said: common Picture")
    none_left = _ask(
        monkeypatch, state, "--images", str(asked), "--prompt", "common", "--out", str(out), "--json"
    )  # fmt: skip
    told = json.loads(none_left.stdout)
    assert (told["kind"], told["pictures"], told["answered_before"]) == ("ask", 2, 2)
    assert "2 pictures, 2 already answered" in none_left.stderr


def test_a_model_in_this_process_has_every_slot_busy(pictures: Path) -> None:
    engine = EchoEngine(slots=2)
    most = 0
    step = engine.step

    def watched() -> Any:
        nonlocal most
        events = step()
        most = max(most, engine.running)
        return events

    engine.step = watched  # type: ignore[method-assign]
    items = select_items(pictures, "colour").items
    answers = {item.image: line for item, line in LocalAsker(engine).answers(items, Sampling())}
    assert most == 2
    assert answers.keys() == _COLOURS.keys() | {"broken.png"}
    assert "error" in answers["broken.png"]
    assert answers["a/red.png"]["text"].endswith("of 255,0,0.")
    assert engine.idle


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pictures found"),
        ("{}", "line 1: expected"),
        ("[]", "line 1: expected"),
        ('{"image": "x.png", "prompt": 3}', "line 1: expected"),
        ('{"image": "x.png", "prompt": "<image> or <image>"}', "expected one for each picture: 1"),
        ('{"image": "x.png"}', "there is no question about x.png"),
        ("nonsense", "line 1: expected"),
    ],
)
def test_a_list_that_is_none_says_which_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        select_items(path, None)


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "thesis.txt"
    out.write_text("chapter one\nchapter two\n")
    with pytest.raises(UsageError, match="line 1 is not an answer"):
        keep_answered(out)
    assert out.read_text() == "chapter one\nchapter two\n"


def test_the_same_question_is_asked_once() -> None:
    item, other = Item("a", Path("a"), "x"), Item("a", Path("a"), "y")
    assert left([item, item, other], {("a", "y")}) == [item]
