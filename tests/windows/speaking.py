"""What a person at a Windows PC reads: help, refusals, signs in any code page, lines to paste."""

import json
import subprocess

import pytest
from typer.main import get_command

from llava_pack.cli.app import SERVER, app
from llava_pack.shells import for_windows
from tests.support.bundle import BundleSimulator
from tests.windows.run import PYTHONS
from tests.windows.world import windows_path

COMMANDS = get_command(app).commands
OF_SERVER = [
    name
    for name, command in COMMANDS.items()
    if command.rich_help_panel == SERVER and name not in {"health", "support-bundle"}
]


@pytest.mark.parametrize("python", PYTHONS)
def test_help_lists_every_command(bare_windows, python):
    done = bare_windows.run("--help", python=python)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


ALL = """
import contextlib, io, json, sys
from llava_pack.cli import main

def run(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(arguments)
    return code, out.getvalue(), err.getvalue()

print(json.dumps({name: [run(name), run(name, "--help")] for name in sys.argv[1:]}))
"""


def test_a_servers_command_says_where_it_runs(bare_windows):
    told = json.loads(bare_windows.python(ALL, *OF_SERVER))
    for name in OF_SERVER:
        (code, _, said), (of_help, help_text, _) = told[name]
        assert code == 2
        assert said.splitlines() == [
            f"error: {name}: this command is for the Linux server; this machine runs Windows",
            f"hint: ssh USER@HOST -p PORT, and there: llava-pack {name}",
        ]
        assert of_help == 0
        assert "Usage" in help_text


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["health"], 3, "llava-pack health --tunnel USER@HOST"),
        (["tunnel"], 2, "llava-pack tunnel USER@HOST"),
        (["probe", "--here"], 2, "llava-pack probe USER@HOST"),
        (["demo"], 2, "make demo"),
    ],
)
def test_what_would_look_at_a_server_here_names_what_looks_there(
    bare_windows, arguments, code, hint
):
    done = bare_windows.run(*arguments)
    assert done.returncode == code
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("language", ["zh_CN", "en_US"])
def test_signs_that_a_code_page_has_not_are_written_otherwise(bare_windows, tmp_path, language):
    """936 has no check mark, and 1252 no Chinese: neither may end a command."""
    BundleSimulator().write(tmp_path / "bundle")
    bundle = windows_path(tmp_path / "bundle")
    done = bare_windows.run_in_code_page("verify", bundle, language=language)
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode({"zh_CN": "gbk", "en_US": "cp1252"}[language])
    assert "+ " in said
    assert "every byte is as listed" in said
    explained = bare_windows.run_in_code_page("explain", "4", language=language)
    assert explained.returncode == 0, explained.stderr


def test_the_language_is_that_of_the_menus(bare_windows):
    ask = "from llava_pack.cli.language import system_language as s; print(s({}))"
    assert bare_windows.python(ask, LC_ALL="zh_CN.UTF-8") == "zh-CN"
    assert bare_windows.python(ask, LC_ALL="de_DE.UTF-8") == "de-DE"


def test_the_cache_is_where_windows_keeps_caches(bare_windows):
    ask = "import os; from llava_pack.fetch.cache import default_root as d; print(d(os.environ))"
    assert bare_windows.python(ask).endswith(r"\AppData\Local\llava-pack")


@pytest.mark.parametrize(
    "words",
    [
        ["plain", r"C:\models\demo", "me@gpu01:", "-p", "42354"],
        ["two words", r"C:\my models\a bundle", ""],
        ["a&b", "c|d", "(e)", "x^y", "<f>"],
        ["ends with a\\", "a;b,c", "#d"],
    ],
)
def test_cmd_takes_a_line_apart_as_it_was_put_together(bare_windows, words, tmp_path):
    python = bare_windows.python("import sys; print(sys.executable)")
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    script = tmp_path / "echo.py"
    script.write_text(code)
    line = for_windows([python, windows_path(script), *words])
    batch = tmp_path / "pasted.cmd"
    batch.write_bytes(f"@{line}\r\n".encode())
    done = subprocess.run(
        ["wine", "cmd", "/c", windows_path(batch)],
        env=bare_windows.env(),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=100,
    )
    assert json.loads(done.stdout.decode().splitlines()[-1]) == words


def test_an_unknown_failure_is_explained(bare_windows):
    done = bare_windows.run("explain", "CUDA out of memory")
    assert done.returncode == 0
    assert "out-of-gpu-memory" in done.stdout + done.stderr
