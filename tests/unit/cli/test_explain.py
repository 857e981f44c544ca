import io
import json
import socket
import sys

import pytest

from llava_pack.cli import main
from tests.conftest import ROOT


def test_a_pasted_error_gets_its_cause_and_its_cure(capsys):
    assert main(["explain", "NETWORK ERROR DUE TO HIGH TRAFFIC (error_code: 1)"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("network-error-code-1: LLaVA's worker failed while answering\n")
    assert "fix: Read the end of model_worker_*.log" in said


@pytest.mark.parametrize("code", ["4", "integrity"])
def test_an_exit_code_is_explained_by_number_and_word(code, capsys):
    assert main(["explain", code, "--json"]) == 0
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert (failure["code"], failure["exit_code"]) == ("integrity", 4)
    assert "llava-pack verify" in failure["fix"]


def test_it_speaks_chinese(capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["explain", "localhost is not accessible"]) == 0
    assert "原因" in capsys.readouterr().out
    assert main(["explain", "localhost is not accessible", "--lang", "en"]) == 0
    assert "why:" in capsys.readouterr().out


def test_a_log_and_stdin_are_searched_from_their_end(capsys, monkeypatch, tmp_path):
    log = tmp_path / "worker.log"
    log.write_text("fine\n" * 100 + "RuntimeError: CUDA out of memory\n")
    assert main(["explain", "--log", str(log)]) == 0
    assert capsys.readouterr().out.startswith("out-of-gpu-memory:")
    log.write_bytes(log.read_text().replace("\n", "\r\n").encode("utf-16"))  # as PowerShell's `>`
    assert main(["explain", "--log", str(log)]) == 0
    assert capsys.readouterr().out.startswith("out-of-gpu-memory:")
    monkeypatch.setattr(sys, "stdin", io.StringIO("raise Empty\n_queue.Empty\n"))
    assert main(["explain", "-"]) == 0
    assert capsys.readouterr().out.startswith("first-token-too-late:")


def test_every_known_failure_is_listed_on_one_line(capsys):
    assert main(["explain", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "gradio-fastapi-schema: fastapi 0.113 to 0.116 with gradio 4" in lines


@pytest.mark.parametrize(
    "arguments",
    [["nobody ever saw this"], ["--log", "/does/not/exist"], ["4", "--lang", "fr"]],
    ids=["unknown", "no log", "no such language"],
)
def test_what_cannot_be_explained_ends_with_2(arguments, capsys):
    assert main(["explain", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_control_characters_of_a_pasted_error_do_not_reach_the_terminal(capsys):
    assert main(["explain", "\x1b[2Jnobody ever saw this"]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.engine
def test_a_failing_command_names_the_known_failure(capsys):
    model = str(ROOT / "bundles/demo-model/llava-v1-demo")
    tower = str(ROOT / "bundles/demo-model/clip-demo")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code = main(["serve", "--model-path", model, "--vision-tower", tower, "--port", port])
    assert code == 15
    assert "known: the port is in use: llava-pack explain port-taken" in capsys.readouterr().err
