"""`llava-pack chat`: a bare folder, a running server, a pipe, a person at a terminal."""

import importlib.util
import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from llava_pack.cli import main
from tests.support.checkpoints import (
    TinyLlava,
    make_language,
    make_llava,
    make_lora,
    make_tower,
)
from tests.support.gateway import gateway

SPEC = TinyLlava(hidden=64, inner=128)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    make_tower(folder / "clip-tiny", SPEC.tower)
    return make_llava(folder / "llava-v1-tiny", SPEC)


@pytest.fixture(scope="module")
def red(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "red square.png"
    Image.new("RGB", (4, 3), (250, 0, 0)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Run the real gateway over the echo engine, and say where its run state is."""
    state_home = tmp_path_factory.mktemp("state")
    with gateway(state_home / "llava-pack" / "run"):
        yield state_home


@pytest.fixture
def chat(capsys, monkeypatch):
    """Run `chat` in this process; return its exit code, stdout and stderr."""

    def run(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        capsys.readouterr()
        code = main(["chat", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.engine
def test_a_question_about_a_picture_and_a_bare_folder(chat, model_dir, red):
    code, out, err = chat(
        "--model-path", model_dir, "--image-file", red, "--prompt", "what?",
        "--max-new-tokens", 8, "--precision", "fp32", "--json",
    )  # fmt: skip
    assert code == 0, err
    answer = json.loads(out.splitlines()[-1])
    assert (answer["kind"], answer["finish_reason"]) == ("answer", "length")
    assert len(answer["token_ids"]) == answer["completion_tokens"] == 8
    assert answer["timings"]["total_s"] >= answer["timings"]["first_token_s"] >= 0
    assert answer["prompt_tokens"] > 4


@pytest.mark.engine
def test_without_json_the_answer_is_all_of_stdout(chat, model_dir):
    asked = (
        "--model-path",
        model_dir,
        "--prompt",
        "what?",
        "--max-tokens",
        8,
        "--precision",
        "fp32",
    )
    _, plain, _ = chat(*asked)
    _, as_json, _ = chat(*asked, "--json")
    assert plain.count("\n") >= 1
    assert "weights" not in plain
    assert json.loads(as_json)["text"]


@pytest.mark.engine
@pytest.mark.parametrize(("flag", "name"), [("--load-4bit", "nf4"), ("--load-8bit", "int8")])
def test_llavas_own_flags_choose_the_precision(chat, model_dir, flag, name):
    asked = ("--model-path", model_dir, "--prompt", "x", "--max-tokens", 4, "--json")
    _, by_flag, _ = chat(*asked, flag)
    _, by_name, _ = chat(*asked, "--precision", name)
    assert json.loads(by_flag)["token_ids"] == json.loads(by_name)["token_ids"]


@pytest.mark.engine
def test_a_seed_repeats_an_answer(chat, model_dir):
    asked = ("--model-path", model_dir, "--prompt", "x", "--max-tokens", 12, "--precision", "fp32")
    sampled = (*asked, "--temperature", 1.0, "--top-p", 0.9, "--seed", 5, "--json")
    answers = [json.loads(chat(*sampled)[1])["token_ids"] for _ in range(2)]
    assert answers[0] == answers[1] != json.loads(chat(*asked, "--json")[1])["token_ids"]


@pytest.mark.engine
def test_the_template_can_be_chosen(chat, model_dir):
    asked = ("--model-path", model_dir, "--prompt", "x", "--max-tokens", 2, "--json")
    long, short = (
        json.loads(chat(*asked, "--conv-mode", mode)[1])["prompt_tokens"]
        for mode in ("llava_v1", "plain")
    )
    assert long > short


@pytest.mark.engine
def test_a_person_talks_at_a_terminal(model_dir, red):
    """Several turns on a real pseudo-terminal: a picture, a mistake, forgetting, the end."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llava_pack", "chat", "--model-path", str(model_dir)]
    process = subprocess.Popen(
        [*command, "--precision", "fp32", "--max-tokens", "3"],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    lines = [f"/image {red}", "what is it?", "/image nothing.png", "and now?", "/reset", "/exit"]
    os.write(ours, "".join(f"{line}\n" for line in lines).encode())
    watchdog = threading.Timer(800, process.kill)
    watchdog.start()
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        said += piece
    watchdog.cancel()
    assert process.wait() == 0, said
    text = said.decode(errors="replace")
    assert "the picture goes with your next question" in text
    assert "nothing.png: cannot read the picture" in text
    assert "the conversation was reset" in text
    os.close(ours)


@pytest.mark.engine
def test_nothing_of_it_reaches_for_a_network(model_dir, red):
    """Every name lookup and every connection that is not a Unix socket ends the child."""
    code = (
        "import os, socket, sys\n"
        "def watch(event, arguments):\n"
        "    if event in {'socket.getaddrinfo', 'socket.gethostbyname', 'socket.connect'}:\n"
        "        address = arguments[1] if event == 'socket.connect' else arguments[0]\n"
        "        if not isinstance(address, (str, bytes)) or event != 'socket.connect':\n"
        "            os.write(2, f'{event} {arguments}'.encode())\n"
        "            os._exit(99)\n"
        "sys.addaudithook(watch)\n"
        "from llava_pack.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = ["--image", red, "--prompt", "x", "--max-tokens", "2", "--load-4bit"]
    done = subprocess.run(
        [sys.executable, "-c", code, "chat", "--model-path", str(model_dir), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("https://example.org/a.png", "got a URL"),
        ("/no/such/file.png", "No such file"),
        (__file__, "not a picture"),
    ],
)
def test_a_bad_picture_is_refused_before_anything_loads(chat, model_dir, picture, said):
    code, out, err = chat("--model-path", model_dir, "--image", picture, "--prompt", "x")
    assert (code, out) == (2, "")
    assert said in err
    assert "libraries" not in err


def test_a_picture_far_too_large_is_refused_before_it_is_decoded(chat, model_dir, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("1", (10_001, 1)).save(wide)
    code, out, err = chat("--model-path", model_dir, "--image", wide, "--prompt", "x")
    assert (code, out) == (2, "")
    assert f"{wide}: " in err
    assert "too large" in err


@pytest.mark.engine
def test_an_adapter_answers_with_its_base(chat, tmp_path, red):
    make_tower(tmp_path / "clip-tiny", SPEC.tower)
    adapter = make_lora(tmp_path / "llava-v1-tiny-lora", SPEC)
    base = make_language(tmp_path / "vicuna-tiny", SPEC)
    asked = ("--model-path", adapter, "--image", red, "--prompt", "x", "--max-tokens", 2, "--json")
    code, out, err = chat(*asked, "--model-base", base)
    assert code == 0, err
    assert json.loads(out)["completion_tokens"] > 0
    code, _, err = chat(*asked)
    assert code == 13
    assert "--model-base DIR" in err


def test_a_missing_tower_is_13(chat, tmp_path):
    model_dir = make_llava(tmp_path / "llava-v1-tiny", SPEC)
    code, _, err = chat("--model-path", model_dir, "--prompt", "x")
    assert code == 13
    assert str(tmp_path / "clip-tiny") in err


@pytest.mark.engine
@pytest.mark.parametrize("harm", [lambda shard: os.truncate(shard, 1000), os.unlink])
def test_a_truncated_or_absent_shard_is_13_and_named(chat, tmp_path, harm):
    make_tower(tmp_path / "clip-tiny", SPEC.tower)
    model_dir = make_llava(tmp_path / "llava-v1-tiny", SPEC)
    shard = max(model_dir.glob("*.bin"))
    harm(shard)
    code, _, err = chat("--model-path", model_dir, "--prompt", "x")
    assert code == 13
    assert shard.name in err


def test_an_id_of_the_hub_is_no_folder_and_nothing_is_downloaded(chat):
    code, _, err = chat("--model-path", "liuhaotian/llava-v1.5-7b", "--prompt", "x")
    assert code == 13
    assert "liuhaotian/llava-v1.5-7b: there is no such folder" in err
    assert "nothing is downloaded here" in err


def test_a_folder_without_a_model_is_13(chat, tmp_path):
    assert chat("--model-path", tmp_path, "--prompt", "x", "--json")[0] == 13


@pytest.mark.engine
def test_cuda_where_there_is_none_is_3(chat, model_dir):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, _, err = chat("--model-path", model_dir, "--prompt", "x", "--device", "cuda")
    assert code == 3
    assert "no cuda device" in err


@pytest.mark.parametrize(
    ("hidden", "options"), [("torch", ("--model-path", ".")), ("PIL", ("--image", "a.png"))]
)
def test_where_only_the_laptops_half_is_installed_it_says_what_to_do(
    chat, monkeypatch, hidden, options
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "llava_pack.client.libraries.find_spec",
        lambda name: None if name == hidden else found(name),
    )
    code, _, err = chat(*options, "--prompt", "x")
    assert code == 15
    assert f"has no {hidden}" in err
    assert 'in a clone of llava-pack: uv tool install --force ".[serve]"' in err


def test_two_precisions_are_2(chat, model_dir):
    both = ("--load-4bit", "--precision", "fp16")
    assert chat("--model-path", model_dir, "--prompt", "x", *both)[0] == 2


@pytest.mark.parametrize(
    "options", [("--temperature", "-1"), ("--max-tokens", "0"), ("--top-p", "2")]
)
def test_numbers_out_of_range_are_2(chat, options):
    assert chat("--prompt", "x", *options)[0] == 2


def test_no_question_is_2(chat):
    assert chat(stdin="  \n")[0] == 2


def test_no_server_is_15(chat, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, _, err = chat("--prompt", "x")
    assert code == 15
    assert "llava-pack serve" in err


def test_loading_options_need_a_folder(chat):
    code, _, err = chat("--prompt", "x", "--load-4bit")
    assert code == 2
    assert "--model-path" in err


def test_a_running_server_answers(chat, server, red, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(server))
    code, out, err = chat("--image", red, stdin="hello there\n")
    assert code == 0, err
    assert out == "You said: hello there Picture 4x3 of 250,0,0.\n"


def test_a_running_server_answers_in_json(chat, server, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(server))
    code, out, _ = chat("--prompt", "hello", "--json")
    answer = json.loads(out)
    assert (code, answer["text"], answer["finish_reason"]) == (0, "You said: hello", "stop")
    assert answer["completion_tokens"] > 0
    assert answer["token_ids"]


def test_an_unknown_model_of_a_server_is_named(chat, server, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(server))
    code, _, err = chat("--prompt", "x", "--model", "gpt-9")
    assert code == 15
    assert "gpt-9" in err


def test_a_question_that_the_server_refuses_is_2(chat, server, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(server))
    code, _, err = chat("--prompt", "word " * 2000)
    assert code == 2
    assert "limit" in err
