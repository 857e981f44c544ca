"""Attacks by other accounts of the server, and for each check the change that lets one through.

As in test_attacks.py: an attack fails where everything is as it is, and succeeds where its check is
taken out. Where two checks stand one behind the other, each alone holds.
"""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import bundle as simulator
from tests.support.bundle import BASE_PYTHON, CHECKOUT
from tests.target.conftest import Host
from tests.target.trees import changed_tree

STRANGER = 12345
FORGED = CHECKOUT / "tests/support/forged_process.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")


@dataclass
class Scene:
    """A host whose prefix root owns, a stranger on it, and what the stranger wants to see."""

    host: Host
    medium: Callable
    folder: Path
    held: ExitStack = field(default_factory=ExitStack)
    files: dict[str, object] = field(default_factory=dict)

    @property
    def prefix(self):
        return self.host.prefix

    @property
    def ran(self):
        """What exists where foreign code ran."""
        return self.folder / "ran"

    def installed(self):
        done = self.host.install_sh(self.medium("old", release=1))
        assert done.returncode == 0, done.stderr

    def upgraded(self, **fields):
        return self.host.install_sh(self.medium("new", release=2, **fields))

    def refused(self, done, codes=(3,)):
        assert not self.ran.exists()
        assert not self.started
        assert done.returncode in codes, done.stderr
        assert "change the programs run here" in done.stderr

    def calling_itself_a_server(self, uid, python=None, **options):
        """Start a process that only says that it serves; started again, it would for real."""
        name = f"{self.prefix}/models/tiny/current/venv/bin/python"
        words = [name, "-I", "-m", "llava_pack", "serve", "--really"]
        command = [python or name, str(FORGED), str(uid), *words, "--", "room" * 300]
        process = self.held.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, cwd=self.folder, **options)
        )
        self.held.callback(process.kill)
        assert process.stdout.readline() == b"forged\n"
        return process

    def left_alone(self, process, done):
        """Assert that an upgrade touched the process as little as its program."""
        assert done.returncode == 0, done.stderr
        assert f"! process {process.pid}" in done.stderr
        assert process.poll() is None
        assert not self.started

    @property
    def started(self):
        """Whether an upgrade started a server."""
        return bool(list((self.prefix / "run").glob("stub.json")))

    def writes_down(self, process, *, lock=True, owner=0, **facts):
        """Write a run state about a process, as its server would."""
        run = self.prefix / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        path = run / f"serve-{platform.node() or 'localhost'}-{process.pid}.json"
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        path.write_text(json.dumps({"pid": process.pid, "start_ticks": int(stat[19]), **facts}))
        path.chmod(0o600)
        for place in (path, run):
            os.chown(place, owner, owner)
        if lock:
            held = self.held.enter_context(path.open("rb"))
            fcntl.flock(held, fcntl.LOCK_EX)


@pytest.fixture
def scene(host, medium, tmp_path):
    made = Scene(host, medium, tmp_path)
    with made.held:
        yield made
        stub = host.prefix / "run/stub.json"
        if stub.exists():
            os.kill(json.loads(stub.read_text())["pid"], signal.SIGKILL)


def a_process_of_another_account(scene):
    scene.installed()
    process = scene.calling_itself_a_server(STRANGER)
    scene.left_alone(process, scene.upgraded())


def a_process_of_this_account_that_only_says_so(scene):
    scene.installed()
    process = scene.calling_itself_a_server(0)
    scene.left_alone(process, scene.upgraded())


def a_run_state_that_nobody_holds(scene):
    scene.installed()
    process = scene.calling_itself_a_server(0)
    scene.writes_down(process, lock=False)
    scene.left_alone(process, scene.upgraded())


def a_run_state_of_an_earlier_process_of_that_number(scene):
    scene.installed()
    process = scene.calling_itself_a_server(0)
    scene.writes_down(process, start_ticks=1)
    scene.left_alone(process, scene.upgraded())


def a_run_state_of_another_account(scene):
    """What a service's account wrote into its folder of the prefix, about a process of root's."""
    scene.installed()
    process = scene.calling_itself_a_server(0)
    scene.writes_down(process, owner=STRANGER)
    scene.left_alone(process, scene.upgraded())


def a_program_from_elsewhere(scene):
    scene.installed()
    other = scene.folder / "python3"
    shutil.copy2(Path(BASE_PYTHON).resolve(), other)
    environ = {"PYTHONHOME": sys.base_prefix, "PATH": "/usr/bin:/bin"}
    process = scene.calling_itself_a_server(0, python=other, env=environ)
    scene.writes_down(process)
    scene.left_alone(process, scene.upgraded())


SERVER = {
    "pid": 1, "arguments": ["--really"], "folder": "/", "unit": None, "of_user": False,
    "environ": {},
}  # fmt: skip


def a_list_of_servers_that_another_account_wrote(scene):
    scene.installed()
    pending = scene.prefix / "handover.json"
    pending.write_text(json.dumps([{**SERVER, "uid": 0}]))
    os.chown(pending, STRANGER, STRANGER)
    scene.refused(scene.upgraded(), codes=(3, 14))


def a_list_that_is_a_link(scene):
    scene.installed()
    planted = scene.folder / "planted"
    planted.write_text(json.dumps([{**SERVER, "uid": 0}]))
    (scene.prefix / "handover.json").symlink_to(planted)
    scene.refused(scene.upgraded(), codes=(3, 14))


def a_list_by_an_earlier_version_that_names_another_account_s(scene):
    scene.installed()
    pending = scene.prefix / "handover.json"
    pending.write_text(json.dumps([{**SERVER, "uid": STRANGER}]))
    done = scene.upgraded()
    assert done.returncode == 0, done.stderr
    assert not scene.started


def a_hand_over_by_code_that_asks_no_process_for_proof(scene):
    """A new generation that does not serve: the one to go back to may not hand over itself."""
    scene.installed()
    (package,) = scene.prefix.glob("models/tiny/generations/1/venv/lib/*/site-packages/llava_pack")
    (package / "serve/own_servers.py").unlink()
    (package / "serve/handover.py").write_text(f"open({str(scene.ran)!r}, 'w').close()\n")
    process = scene.calling_itself_a_server(0)
    scene.writes_down(process, arguments=["--really"], folder="/")
    scene.upgraded(fate="crashes")
    assert not scene.ran.exists()


def _reverted_under_systemd(scene, process, *, file_of):
    """Go back a version where systemd knows a service; return how that ended, and its orders.

    A systemctl stands in, which ends the process where it is told to stop the service.
    """
    programs, unit = scene.folder / "programs", scene.folder / "llava-pack.service"
    asked = scene.folder / "asked"
    programs.mkdir()
    unit.write_text("[Service]\n")
    os.chown(unit, file_of, file_of)
    said = f"Id=llava-pack.service\\nMainPID={process.pid}\\nFragmentPath={unit}\\n"
    (programs / "systemctl").write_text(
        f'#!/bin/sh\necho "$*" >>{asked}\n'
        f'case "$1" in show) printf "{said}" ;; stop) kill -9 {process.pid} ;; esac\n'
    )
    (programs / "systemctl").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "llava_pack", "revert", "--prefix", str(scene.prefix)],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, [line for line in asked.read_text().splitlines() if "show" not in line]


def a_service_whose_file_another_account_owns(scene):
    scene.installed()
    assert scene.upgraded().returncode == 0
    process = scene.calling_itself_a_server(STRANGER)
    done, orders = _reverted_under_systemd(scene, process, file_of=STRANGER)
    assert orders == []
    scene.left_alone(process, done)


def test_a_service_s_process_is_restarted_by_systemd_and_by_no_signal(scene):
    scene.installed()
    assert scene.upgraded().returncode == 0
    process = scene.calling_itself_a_server(STRANGER)
    threading.Thread(target=process.wait, daemon=True).start()
    done, orders = _reverted_under_systemd(scene, process, file_of=0)
    assert orders[:2] == ["stop llava-pack.service", "restart llava-pack.service"]
    assert not scene.started, "only systemd starts it"
    assert done.returncode == 14, "there is no server to be well"


def a_prefix_that_all_can_write(scene):
    scene.prefix.mkdir()
    scene.prefix.chmod(0o777)
    scene.refused(scene.upgraded())


def a_sticky_prefix(scene):
    scene.prefix.mkdir()
    scene.prefix.chmod(0o1777)
    scene.refused(scene.upgraded())


def a_prefix_of_another_account(scene):
    scene.prefix.mkdir()
    os.chown(scene.prefix, STRANGER, STRANGER)
    scene.refused(scene.upgraded())


def a_prefix_that_a_group_can_write(scene):
    scene.prefix.mkdir()
    os.chown(scene.prefix, 0, STRANGER)
    scene.prefix.chmod(0o775)
    scene.refused(scene.upgraded())


def a_folder_above_that_all_can_write(scene):
    above = scene.folder / "above"
    above.mkdir()
    above.chmod(0o777)
    scene.host.prefix = above / "between/prefix"
    scene.refused(scene.upgraded())


def a_way_over_a_link_of_another_account(scene):
    shared, safe = scene.folder / "shared", scene.folder / "safe"
    safe.mkdir()
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(safe)
    os.lchown(shared / "link", STRANGER, STRANGER)
    scene.host.prefix = shared / "link/prefix"
    scene.refused(scene.upgraded())


def a_way_over_a_folder_that_only_a_link_names(scene):
    """The path as written is safe, and so is where it ends; the link between leads through 0777."""
    open_, safe = scene.folder / "open", scene.folder / "safe"
    for folder in (open_, safe):
        folder.mkdir()
    (open_ / "second").symlink_to(safe)
    open_.chmod(0o777)
    (scene.folder / "first").symlink_to("open/second")
    scene.host.prefix = scene.folder / "first/prefix"
    scene.refused(scene.upgraded())


def a_planted_lock(scene):
    precious = scene.folder / "precious"
    precious.write_text("")
    scene.prefix.mkdir()
    (scene.prefix / "lock").symlink_to(precious)
    scene.refused(scene.upgraded())


def a_folder_of_programs_that_another_account_put_there(scene):
    scene.installed()
    (scene.prefix / "bin").rename(scene.prefix / "aside")
    shutil.copytree(scene.prefix / "aside", scene.prefix / "bin")
    os.chown(scene.prefix / "bin", STRANGER, STRANGER)
    scene.refused(scene.upgraded())


def a_generation_that_another_account_can_write(scene):
    scene.installed()
    (scene.prefix / "models/tiny/generations/1").chmod(0o777)
    scene.refused(scene.upgraded())


PROGRAMS = (
    *(
        "sha256sum",
        "grep",
        "head",
        "cat",
        "printf",
        "[",
        "cd",
        "pwd",
        "command",
        "test",
        "env",
        "id",
    ),
    *("mktemp", "tar", "ls", "readlink", "rm", "rmdir", "mkdir", "sed", "tr", "base64", "tail"),
    *(
        "fold",
        "cp",
        "mv",
        "openssl",
        "getent",
        "find",
        "echo",
        "kill",
        "wait",
        "read",
        "sh",
        "umask",
    ),
)
SPECIAL = ("exec", "eval", "set", "unset", "export", "return")
SHELLS = {"bash --posix": PROGRAMS, "bash": (*PROGRAMS, *SPECIAL)}
"""Where it is sh, bash itself refuses functions that are named as special built-ins."""


def _functions(scene, names):
    return {f"BASH_FUNC_{name}%%": f"() {{ : >{scene.ran}; }}" for name in names}


def functions_that_the_caller_exported(scene):
    for shell, names in SHELLS.items():
        env = _functions(scene, names)
        done = scene.host.install_sh(scene.medium(), shell=shell, env=env)
        assert not scene.ran.exists(), shell
        assert done.returncode == 0, done.stderr


def a_python_that_another_account_can_change(scene):
    theirs = scene.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, STRANGER, STRANGER)
    script = theirs / f"python{simulator.PYTHON_MINOR}"
    script.write_text(f'#!/bin/sh\n: >{scene.ran}\nexec "{BASE_PYTHON}" "$@"\n')
    script.chmod(0o755)
    done = scene.host.install_sh(scene.medium(), "--python", str(script))
    assert not scene.ran.exists()
    assert done.returncode == 3, done.stderr


def _started(scene, *wrap, env=None):
    """Start what is installed, and return how it ended."""
    command = [*wrap, str(scene.prefix / "bin/llava-pack"), "generations"]
    environ = {"PATH": os.environ["PATH"], **(env or {})}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def a_start_from_models_of_another_account(scene):
    scene.installed()
    os.chown(scene.prefix / "models", STRANGER, STRANGER)
    scene.refused(_started(scene))


def a_start_from_a_prefix_that_all_can_write(scene):
    scene.installed()
    scene.prefix.chmod(0o1777)
    scene.refused(_started(scene))


def a_start_below_a_folder_that_all_can_write(scene):
    scene.installed()
    scene.folder.chmod(0o777)
    scene.refused(_started(scene))


def a_start_with_functions_that_the_caller_exported(scene):
    scene.installed()
    for shell, names in SHELLS.items():
        done = _started(scene, *shell.split(), env=_functions(scene, names))
        assert not scene.ran.exists(), shell
        assert done.returncode == 0, done.stderr


SH, OWN, HAND, SERVERS, SERVING, START = (
    "installers/install.sh",
    "llava_pack/target/ownership.py",
    "llava_pack/serve/handover.py",
    "llava_pack/serve/own_servers.py",
    "llava_pack/target/serving.py",
    "llava_pack/target/launcher.py",
)
ANYBODY_S = (
    (SH, '*) fail 3 "$1: it belongs', '*) : "$1: it belongs'),
    (OWN, "if facts.st_uid not in {own, 0,", "if facts.st_uid in {-1} & {own, 0,"),
)
ALL_WRITE = (
    (SH, 'fail 3 "$1: other accounts can write to it', ': "$1: other accounts can write to it'),
    (OWN, "if facts.st_mode & stat.S_IWOTH or not", "if False and not"),
)
LINKS = (
    (SH, 'rest=$(readlink -- "$here/$name")${rest:+/$rest}', 'here=$(cd -P "$here/$name" && pwd -P)'),
    (OWN, "        target = (here / name).readlink()\n", "        target = (here / name).resolve()\n"),
)  # fmt: skip
MINE = (
    (OWN, "mine = facts.st_uid == os.geteuid() and", "mine = True and"),
    (OWN, "mine = facts.st_uid in {os.geteuid(), 0} and", "mine = True and"),
)
WITHIN = (OWN, '"journal.json", "handover.json"', '"journal.json"')
PLAIN = (HAND, "ownership.opened(prefix / PENDING, os.O_RDONLY)", "os.open(prefix / PENDING, 0)")
CLAIMED = "{'arguments': argv[5:], 'folder': '/', 'environ': {}}"
LOOKED = (START, "case $wrong in\n'') ;;", "case '' in\n'') ;;")
# attack: the edits that take its check out; several where checks stand one behind the other
ATTACKS: dict[Callable, tuple[tuple[str, str, str], ...]] = {
    a_process_of_another_account: (
        (SERVERS, "elif uid == os.geteuid():\n        facts = _facts(prefix, pid, argv)", f"else:\n        facts = {CLAIMED}"),
        (SERVERS, "return named and (", "return True or ("),
    ),
    a_process_of_this_account_that_only_says_so: (
        (SERVERS, "_run_state(prefix, pid), Path(", "_run_state(prefix, pid) or {}, Path("),
    ),
    a_run_state_that_nobody_holds: ((SERVERS, " if held(descriptor) else None", ""),),
    a_run_state_of_an_earlier_process_of_that_number: (
        (SERVERS, 'if still(pid, state.get("start_ticks")) else None', ""),
    ),
    a_run_state_of_another_account: MINE,
    a_program_from_elsewhere: ((SERVERS, ' or not _runs_from(prefix, process / "exe")', ""),),
    a_list_of_servers_that_another_account_wrote: (WITHIN, PLAIN),
    a_list_that_is_a_link: (WITHIN, PLAIN),
    a_list_by_an_earlier_version_that_names_another_account_s: (
        (HAND, "        if server.ours:\n", "        if True:\n"),
    ),
    a_hand_over_by_code_that_asks_no_process_for_proof: (
        (SERVING, " if any(root.glob(_PROVES))]", "]"),
    ),
    a_service_whose_file_another_account_owns: (
        (SERVERS, 'ownership.check(Path(facts["FragmentPath"]), None if of_user else 0)', "pass"),
    ),
    a_prefix_that_all_can_write: ALL_WRITE,
    a_sticky_prefix: ALL_WRITE,
    a_prefix_of_another_account: ANYBODY_S,
    a_prefix_that_a_group_can_write: ALL_WRITE,
    a_folder_above_that_all_can_write: ALL_WRITE,
    a_way_over_a_link_of_another_account: ANYBODY_S,
    a_way_over_a_folder_that_only_a_link_names: LINKS,
    a_planted_lock: (
        (OWN, 'if stat.S_ISLNK(facts.st_mode) and place.name != "current":', "if False:"),
        (OWN, "flags |= os.O_NOFOLLOW |", "flags |="),
    ),
    a_folder_of_programs_that_another_account_put_there: (ANYBODY_S[1],),
    a_generation_that_another_account_can_write: (ALL_WRITE[1],),
    functions_that_the_caller_exported: ((SH, "POSIXLY_CORRECT=1\n", ""),),
    a_python_that_another_account_can_change: (
        (SH, '    [ "$me" != 0 ] || (walk "$1")', '    true || (walk "$1")'),
    ),
    a_start_from_models_of_another_account: (LOOKED,),
    a_start_from_a_prefix_that_all_can_write: (LOOKED,),
    a_start_below_a_folder_that_all_can_write: (LOOKED,),
    a_start_with_functions_that_the_caller_exported: ((START, "POSIXLY_CORRECT=1\n", ""),),
}  # fmt: skip
LAYERED = (
    a_process_of_another_account,
    a_list_of_servers_that_another_account_wrote,
    a_prefix_of_another_account,
    a_folder_above_that_all_can_write,
    a_way_over_a_folder_that_only_a_link_names,
    a_planted_lock,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_fails(scene, attack):
    attack(scene)


def _without(scene, monkeypatch, edits):
    monkeypatch.setattr(simulator, "CHECKOUT", changed_tree(scene.folder / "tree", edits))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_without_its_check_it_succeeds(scene, monkeypatch, attack):
    _without(scene, monkeypatch, ATTACKS[attack])
    with pytest.raises(AssertionError):
        attack(scene)


@pytest.mark.parametrize("gone", [0, 1])
@pytest.mark.parametrize("attack", LAYERED, ids=lambda attack: attack.__name__)
def test_each_check_alone_holds(scene, monkeypatch, attack, gone):
    _without(scene, monkeypatch, [ATTACKS[attack][gone]])
    attack(scene)
