"""A number without a name, a home or anything in its environment, as containers run it.

The law is over all commands of the server: each works, or refuses in words.
"""

import re
import subprocess
import sys

import pytest
from typer.main import get_command

from llava_pack.cli.app import BOTH, SERVER, app
from llava_pack.format.exit_codes import ExitCode
from llava_pack.target.programs import SEARCH_PATH
from tests.support.bundle import CHECKOUT
from tests.target.namespaces import NAMELESS, allowed

pytestmark = pytest.mark.skipif(not allowed(*NAMELESS), reason="no user namespaces here")
ARGUMENTS = {
    "install": ("BUNDLE", "--expect", "ID"),
    "serve": (),
    "status": (),
    "logs": (),
    "start": ("tiny",),
    "swap": ("tiny", "tiny"),
    "stop": (),
    "health": (),
    "support-bundle": ("--out", "FOLDER/support.tar.gz"),
    "generations": (),
    "revert": (),
    "gc": (),
    "uninstall": ("--recipe", "tiny"),
    "keys add": ("ann",),
    "keys list": (),
    "keys revoke": ("ann",),
    "keys renew-token": (),
    "service install": (),
    "service remove": (),
    "service show": (),
    "tunnel": (),
    "chat": ("--prompt", "What?"),
    "ask": ("--images", "FOLDER", "--prompt", "What?", "--out", "FOLDER/answers"),
    "verify": ("BUNDLE", "--expect", "ID"),
    "repair": ("BUNDLE", "--expect", "ID"),
    "have": ("--short",),
    "inspect": ("BUNDLE",),
    "explain": ("CUDA out of memory",),
}
WORK = ("install", "generations", "gc", "keys add", "keys list", "keys revoke", "verify", "inspect")
"""Those that do with --prefix what they are for."""


def commands():
    for name, command in get_command(app).commands.items():
        if getattr(command, "rich_help_panel", None) in {SERVER, BOTH}:
            inner = getattr(command, "commands", None)
            yield from ([name] if inner is None else [f"{name} {below}" for below in inner])


def test_every_command_of_the_server_is_asked():
    assert {*commands()} == {*ARGUMENTS}


@pytest.fixture
def run(host, medium, tmp_path):
    """Run commands as such an account; what is installed is its own."""
    here = medium()
    assert host.install_sh(here).returncode == 0
    (tmp_path / "folder").mkdir()
    words = {"BUNDLE": str(here.root), "ID": here.id, "FOLDER": str(tmp_path / "folder")}

    def one(name, *, prefix):
        arguments = [re.sub("BUNDLE|ID|FOLDER", lambda m: words[m[0]], a) for a in ARGUMENTS[name]]
        environ = [f"PATH={SEARCH_PATH}", f"PYTHONPATH={CHECKOUT}"]
        environ += [f"LLAVA_PACK_PREFIX={host.prefix}"] if prefix else []
        command = [*NAMELESS, *environ, sys.executable, "-m", "llava_pack", *name.split()]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, cwd="/", timeout=300,
        )  # fmt: skip

    return one


@pytest.mark.parametrize("prefix", [True, False])
def test_each_command_works_or_refuses_in_words(run, prefix):
    wrong = {}
    for name in ARGUMENTS:
        done = run(name, prefix=prefix)
        said = done.stdout + done.stderr
        told = name == "health" or not done.returncode or "error: " in said
        if done.returncode == ExitCode.BUG or not told or "Traceback" in said:
            wrong[name] = (done.returncode, said)
        if prefix and name in WORK and done.returncode:
            wrong[name] = (done.returncode, said)
    assert not wrong
