"""What `deploy` asks of a server, over a real sshd, with programs of the server laid out for it."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_pack.client.ssh import connected
from llava_pack.deploy.remote_commands import RemoteCommands
from llava_pack.format.errors import DowngradeError, PreflightError, ServeError
from llava_pack.format.progress import Silent
from tests.support.remote import login_to
from tests.support.sshd import PROGRAM, LoopbackSshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
_UNIT = "{ path=%s/bin/llava-pack ; argv[]=%s/bin/llava-pack serve demo --port 7860 ; }"


class Heard(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    folder = tmp_path / "a prefix's place"
    (folder / "bin").mkdir(parents=True)
    return folder


@pytest.fixture
def server(tmp_path: Path, prefix: Path) -> Iterator[tuple[RemoteCommands, Heard]]:
    (tmp_path / "sshd").mkdir()
    settings = {"SetEnv": f"PATH={tmp_path}:{os.environ['PATH']} HOME={tmp_path}"}
    heard = Heard()
    with (
        LoopbackSshd(tmp_path / "sshd", settings) as sshd,
        connected(login_to(sshd)) as host,
    ):
        yield RemoteCommands(host, heard), heard


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_service_that_runs_with_other_options_is_not_the_one(
    server: tuple[RemoteCommands, Heard], tmp_path: Path, prefix: Path
) -> None:
    commands, _ = server
    unit = _UNIT % (prefix, prefix)
    _program(tmp_path / "systemctl", f'[ "$2" = is-active ] || cat <<"E"\n{unit}\nE')

    def runs(place: object, recipe: str, port: str) -> bool:
        return commands.service_runs(str(place), recipe, "llava-pack-demo", ["--port", port])

    assert runs(prefix, "demo", "7860")
    assert not runs(prefix, "demo", "786")
    assert not runs(prefix, "dem", "7860")
    assert not runs("/opt/other", "demo", "7860")
    _program(tmp_path / "systemctl", "exit 3")
    assert not runs(prefix, "demo", "7860")


def test_what_is_installed_is_found_where_it_was_said(
    server: tuple[RemoteCommands, Heard], tmp_path: Path, prefix: Path
) -> None:
    commands, _ = server
    before = commands.installed(str(prefix))
    assert (before.prefix, dict(before.current)) == (str(prefix), {})
    rows = (
        '{"recipe": "demo", "bundle_id": "ab", "current": true}, '
        '{"recipe": "demo", "bundle_id": "cd", "current": false}'
    )
    _program(prefix / "bin" / "llava-pack", f"echo '{{\"generations\": [{rows}]}}'")
    assert dict(commands.installed(str(prefix)).current) == {"demo": "ab"}


def test_a_program_that_another_account_could_change_is_not_run(
    server: tuple[RemoteCommands, Heard], tmp_path: Path, prefix: Path
) -> None:
    commands, _ = server
    ran = tmp_path / "ran"
    _program(prefix / "bin" / "llava-pack", f": >'{ran}'; echo '{{}}'")
    (prefix / "bin").chmod(0o777)
    assert dict(commands.installed(str(prefix)).current) == {}
    with pytest.raises(PreflightError, match="another account could change"):
        commands.install("/tmp/bundle", "ab" * 32, str(prefix), [])
    assert not ran.exists()


def test_only_the_server_that_has_the_model_alone_is_ended(
    server: tuple[RemoteCommands, Heard], prefix: Path
) -> None:
    commands, _ = server
    with (
        subprocess.Popen(["sleep", "600"]) as ours,
        subprocess.Popen(["sleep", "600"]) as theirs,
    ):
        rows = (
            f'{{"pid": {theirs.pid}, "models": {{"other": {{}}, "demo": {{}}}}}}, '
            f'{{"pid": {ours.pid}, "models": {{"demo": {{}}}}}}'
        )
        _program(prefix / "bin" / "llava-pack", f"echo '{{\"servers\": [{rows}]}}'")
        reaping = threading.Thread(target=ours.wait)
        reaping.start()
        commands.end_server(str(prefix), "demo")
        reaping.join()
        assert theirs.poll() is None
        theirs.kill()


def test_a_slow_line_is_measured_too(server: tuple[RemoteCommands, Heard]) -> None:
    commands, _ = server
    assert commands.rate() > 0


def test_what_was_sent_of_a_recipe_goes(server: tuple[RemoteCommands, Heard], prefix: Path) -> None:
    commands, _ = server
    for name in ("demo-12", "demo-34"):
        (prefix / "received" / name).mkdir(parents=True)
    commands.remove(str(prefix), "demo")
    assert not (prefix / "received").exists()


def test_an_error_over_there_is_the_same_error_here(
    server: tuple[RemoteCommands, Heard], prefix: Path
) -> None:
    commands, heard = server
    _program(
        prefix / "bin" / "llava-pack",
        "echo 'checking' >&2; echo 'error: demo: it is older' >&2; echo 'hint: take a newer' >&2\n"
        'echo \'{"schema": 1, "kind": "error", "exit_code": 8, "message": "it is older"}\'; exit 8',
    )
    with pytest.raises(DowngradeError) as caught:
        commands.install("/tmp/bundle", "ab" * 32, str(prefix), [])
    assert (caught.value.message, caught.value.hint) == ("it is older", "take a newer")
    assert heard.lines == ["checking"], "the error is said once, where it is shown"


def test_a_server_that_does_not_see_is_an_error_with_its_cure(
    server: tuple[RemoteCommands, Heard], prefix: Path
) -> None:
    commands, heard = server
    report = (
        '{"exit_code": 2, "findings": [{"layer": "host", "level": "ok", "text": "fine"}, '
        '{"layer": "api", "level": "fail", "text": "it does not see", "fix": "llava-pack revert"}]}'
    )
    _program(prefix / "bin" / "llava-pack", f"echo '{report}'; exit 2")
    with pytest.raises(ServeError, match="it does not see") as caught:
        commands.health(str(prefix))
    assert caught.value.hint == "llava-pack revert"
    _program(prefix / "bin" / "llava-pack", "echo 'no such thing' >&2; exit 1")
    with pytest.raises(ServeError, match="no report: no such thing"):
        commands.health(str(prefix))
    assert heard.lines == []
