"""An option of `serve` is honoured or refused, where LLaVA's own code serves."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from llava_pack.cli import main
from llava_pack.cli.app import app
from llava_pack.cli.server.runtimes import OF_SERVE
from llava_pack.format.manifest import Manifest
from llava_pack.health.runtimes import RuntimePlan
from llava_pack.llava_serve import runtime
from llava_pack.llava_serve.programs import TOKEN_VARIABLE, Ports, Program
from llava_pack.llava_serve.serve import launched
from tests.support.bundle import BundleSimulator
from tests.support.ports import quiet_ports
from tests.support.site import Site

OPTIONS = {option.name: option for option in get_command(app).commands["serve"].params}
HONOURED = runtime.RUNTIME.honoured
VALUES = {
    "conv_mode": "plain",
    "tower": "packed",
    "picture_mode": "viewer",
    "precision": "int8",
    "device": "cpu",
    "public_url": "https://llava.corp/vlm",
    "root_path": "/vlm",
    "allow_origin": "https://chat.corp",
    "trusted_proxy": "127.0.0.1",
    "join_port": 29600,
}
"""What is typed for those that take one of a few words: 64 is a number, a path and a text."""
Serve = Callable[..., tuple[Program, ...]]


class OtherBundle(BundleSimulator):
    """A bundle that LLaVA's own code serves."""

    def manifest(self, contents: Any) -> Manifest:
        plain = super().manifest(contents)
        serving = replace(plain.serving, engine="upstream", precision="fp16", device="auto")
        return replace(plain, serving=serving)


def typed(name: str, value: object = None) -> list[str]:
    """Return an option as it is typed: with a value, or what is not its default."""
    option = OPTIONS[name]
    if option.is_flag:
        on = not option.default if value is None else value
        return [(option.opts if on else option.secondary_opts)[0]]
    return [option.opts[0], str(VALUES.get(name, 64) if value is None else value)]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install such a bundle; its environment is that of the tests."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.ids["other"] = OtherBundle().write(site.medium("other"))
    site.install("other")
    venv = site.prefix / "models" / "tiny" / "current" / "venv"
    shutil.rmtree(venv)
    venv.symlink_to(sys.prefix)
    return site.prefix


@pytest.fixture
def serve(prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Type `serve` with options, and return the programs that it would start, none after an error."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LLAVA_PACK_AS_ROOT", "1")
    plans: list[RuntimePlan] = []

    def start(plan: RuntimePlan, announce: Callable[..., None], _progress: object) -> int:
        plans.append(plan)
        announce(plan.state)
        return 0

    monkeypatch.setattr(runtime, "RUNTIME", replace(runtime.RUNTIME, serve=start))

    def run(*argv: str, code: int = 0) -> tuple[Program, ...]:
        plans.clear()
        assert main(["serve", "--prefix", str(prefix), *argv]) == code
        return tuple(
            program
            for plan in plans
            for program in launched(
                plan, Ports(controller=1, worker=2, page=plan.state.port), tmp_path
            )
        )

    return run


def told(programs: tuple[Program, ...]) -> list[Any]:
    """Return what programs are told; of the token, which is another one each time, whether."""
    return [
        (one.argv, {**one.environment, TOKEN_VARIABLE: bool(one.environment[TOKEN_VARIABLE])})
        for one in programs
    ]


@pytest.mark.parametrize("name", sorted(HONOURED))
def test_what_is_honoured_reaches_the_programs(serve: Serve, name: str) -> None:
    first, second = map(str, quiet_ports(2))
    plain = told(serve("--port", first))
    with_option = told(serve("--port", first, *typed(name, second if name == "port" else None)))
    assert plain == told(serve("--port", first))
    assert len(with_option) == 3
    assert with_option != plain


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - HONOURED - OF_SERVE))
def test_every_other_option_is_2_and_told(
    serve: Serve, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["tiny"] if name == "replica" else []  # else no model is meant at all
    assert serve(*model, *typed(name), "--port", "0", code=2) == ()
    said = capsys.readouterr().err
    assert typed(name)[0] in said
    assert "hint: leave it out" in said


@pytest.mark.parametrize("name", ["queue", "drain_s", "stall_s", "audit_keep"])
def test_a_default_that_is_typed_is_refused_too(serve: Serve, name: str) -> None:
    assert serve(*typed(name, OPTIONS[name].default), "--port", "0", code=2) == ()


def test_all_of_them_are_told_at_once(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve("--queue", "3", "--no-web", "--context", "64", code=2)
    assert "--context, --no-web, --queue: " in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(runtime.RUNTIME.fixed))
def test_what_is_so_anyway_may_be_typed(serve: Serve, name: str) -> None:
    assert len(serve(*typed(name, runtime.RUNTIME.fixed[name]), "--port", "0")) == 3


def test_what_is_decided_names_options_that_are_there() -> None:
    fixed = runtime.RUNTIME.fixed.keys()
    assert OF_SERVE | HONOURED | fixed <= OPTIONS.keys()
    assert not HONOURED & OF_SERVE
    assert not fixed & (HONOURED | OF_SERVE)


def test_what_serve_honours_by_itself(
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    port = ["--port", "0"]
    serve(*port, "--json")
    assert '"runtime": "upstream"' in capsys.readouterr().out
    assert len(serve("tiny", *port)) == 3
    assert serve("absent", *port, code=14) == ()
    assert serve(*port, "--prefix", str(tmp_path), code=14) == ()
    assert serve("tiny", *port, "--model-path", str(tmp_path), code=2) == ()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv("LLAVA_PACK_AS_ROOT")
    assert serve(*port, code=2) == ()
    assert len(serve(*port, "--as-root")) == 3
