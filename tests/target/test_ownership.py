"""Who may own and write a prefix: install.sh and the installer say the same about each place."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from llava_pack.format.errors import PreflightError
from llava_pack.serve import own_servers
from llava_pack.serve.origin import start_ticks
from llava_pack.serve.run_state import RunState, publish
from llava_pack.target import generations, launcher, ownership
from llava_pack.target.programs import SEARCH_PATH
from tests.support.bundle import CHECKOUT

SHELLS = ("dash", "bash --posix", "busybox ash")
DAEMON, BIN, STRANGER = 1, 2, 12345
"""Accounts that Debian and Fedora know, each with a group of its own, and one that nobody knows."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")


@pytest.fixture
def place(tmp_path):
    """Give a folder below folders that all may enter, and that only root can write."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "prefix"
    folder.mkdir()
    return folder


def refused_by_sh(place, uid):
    """Ask install.sh, which looks at the prefix before it misses an id to verify against."""
    script, codes = place.parent / "install.sh", set()
    shutil.copy(CHECKOUT / "installers/install.sh", script)
    for shell in SHELLS:
        command = [*shell.split(), str(script), "--in-a-clean-environment"]
        done = subprocess.run(
            [*command, "--bundle", str(place.parent), "--prefix", str(place)],
            env={"PATH": SEARCH_PATH, "LC_ALL": "C"}, user=uid, group=uid, extra_groups=[],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        codes.add(done.returncode)
    (code,) = codes
    assert code in {3, 6}, done.stderr
    return code == 3


def refused_by_python(place, uid):
    try:
        ownership.check_prefix(place, uid)
    except PreflightError:
        return True
    return False


@pytest.mark.parametrize(
    ("owner", "group", "mode", "refused"),
    [
        (DAEMON, DAEMON, 0o755, False),
        (DAEMON, DAEMON, 0o700, False),
        (0, 0, 0o755, False),
        (DAEMON, DAEMON, 0o775, False),
        (DAEMON, BIN, 0o775, True),
        (0, DAEMON, 0o775, True),
        (DAEMON, STRANGER, 0o775, True),
        (DAEMON, STRANGER, 0o755, False),
        (DAEMON, DAEMON, 0o777, True),
        (DAEMON, DAEMON, 0o757, True),
        (DAEMON, DAEMON, 0o1777, True),
        (BIN, DAEMON, 0o755, True),
        (STRANGER, STRANGER, 0o700, True),
    ],
)
def test_a_prefix_of_daemon(place, owner, group, mode, refused):
    os.chown(place, owner, group)
    place.chmod(mode)
    assert refused_by_python(place, DAEMON) == refused
    assert refused_by_sh(place, DAEMON) == refused


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o755, False), (0o1777, False), (0o1775, False), (0o777, True), (0o775, True)],
)
def test_a_folder_on_the_way(place, mode, refused):
    """One that is sticky is passed: nobody there moves what is another's."""
    os.chown(place, 0, BIN)
    place.chmod(mode)
    below = place / "below"
    assert refused_by_python(below, DAEMON) == refused
    assert refused_by_sh(below, DAEMON) == refused
    below.mkdir()
    os.chown(below, DAEMON, DAEMON)
    assert refused_by_python(below, DAEMON) == refused
    assert refused_by_sh(below, DAEMON) == refused


def test_a_list_that_names_another_account_is_no_private_group(place):
    """An access control list by hand: owner, user bin, group, mask, others. Source: acl(5)."""
    os.chown(place, DAEMON, DAEMON)
    none = 0xFFFFFFFF
    entries = ((1, 7, none), (2, 7, BIN), (4, 5, none), (16, 7, none), (32, 5, none))
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(place, "system.posix_acl_access", data)
    except OSError:
        pytest.skip("no access control lists on this disk")
    assert place.stat().st_mode & 0o777 == 0o775
    assert refused_by_python(place, DAEMON)
    assert refused_by_sh(place, DAEMON)


def test_links_that_lead_nowhere_to_end_are_refused(place):
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    for uid in (0, DAEMON):
        assert refused_by_python(place / "a", uid)
        assert refused_by_sh(place / "a", uid)


def test_the_way_is_walked_as_the_kernel_walks_it(place):
    (place / "real").mkdir()
    (place / "real/inner").mkdir()
    (place / "second").symlink_to("real")
    (place / "first").symlink_to(place / "second")
    seen = ownership.way(place / "first" / "inner" / ".." / "missing")
    tail = [path.relative_to(place) for path in seen if path != place and place in path.parents]
    assert tail == [Path("first"), Path("second"), Path("real"), Path("real/inner")]


def test_a_refusal_names_place_owner_and_way_out(place):
    os.chown(place, BIN, BIN)
    with pytest.raises(PreflightError) as caught:
        ownership.check_prefix(place)
    assert (caught.value.subject, caught.value.exit_code) == (str(place), 3)
    assert "it belongs to bin, expected root" in caught.value.message
    assert "run this as bin, or choose another folder with --prefix" in caught.value.hint
    os.chown(place, 0, 0)
    place.chmod(0o777)
    with pytest.raises(PreflightError, match="mode 0777, of root") as caught:
        ownership.check_prefix(place)
    assert f"chmod go-w '{place}'" in caught.value.hint


@pytest.mark.parametrize("command", ["revert", "gc", "uninstall", "health", "serve"])
def test_each_command_that_uses_a_prefix_refuses_one_of_another_account(place, cli, command):
    os.chown(place, BIN, BIN)
    ended = cli(command, "--prefix", place, *(["--as-root"] if command == "serve" else []))
    assert ended.code == 3, ended.err
    assert "it belongs to bin" in ended.err


def test_the_launcher_runs_from_a_folder_that_its_account_may_not_enter(place, tmp_path):
    """As `sudo -u daemon …/bin/llava-pack health` does, typed in root's home."""
    python = place / "models/demo/generations/1/venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$2" = -S ] || echo "$@"\n')
    python.chmod(0o755)
    generations.activate(place, "demo", 1)
    (place / launcher.PLACE).write_text(f"{place}\n")
    home = tmp_path / "root"
    home.mkdir(mode=0o700)
    done = subprocess.run(
        [place / "bin/llava-pack", "health"], user=DAEMON, group=DAEMON, extra_groups=[], cwd=home,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "-I -m llava_pack health\n"


def test_what_serve_publishes_is_what_a_hand_over_asks_for(place):
    """The two ends of a run state, which no stub stands between."""
    told = {"host": "", "port": 1, "token": "", "socket": None, "models": ("demo",)}
    state = RunState(pid=os.getpid(), started=1, bundle_id=None, **told)
    publication = publish(place / "run", state)
    facts = own_servers._run_state(place, os.getpid())
    assert (facts["pid"], facts["start_ticks"]) == (os.getpid(), start_ticks(os.getpid()))
    assert {"arguments", "folder", "environ"} < facts.keys()
    publication.withdraw()
    assert own_servers._run_state(place, os.getpid()) is None


def test_root_does_not_serve_what_is_installed_unless_told_to(tmp_path, cli):
    ended = cli("serve", "--prefix", tmp_path)
    assert ended.code == 2
    assert "serving as root is refused" in ended.err
    assert "llava-pack service install --system --account NAME" in ended.err
    told = cli("serve", "--prefix", tmp_path, "--as-root")
    assert "serving as root" in told.err
    assert told.code == 14, "nothing is installed there"


def test_what_is_opened_for_writing_is_a_file_of_this_account(place):
    theirs, link = place / "theirs", place / "link"
    theirs.touch()
    os.chown(theirs, BIN, BIN)
    link.symlink_to("own")
    os.mkfifo(place / "fifo")
    for path in (theirs, link, place / "fifo"):
        with pytest.raises(PreflightError):
            ownership.opened(path, os.O_RDWR | os.O_CREAT)
    os.close(ownership.opened(place / "own", os.O_RDWR | os.O_CREAT))
    assert (place / "own").stat().st_mode & 0o777 == 0o600
