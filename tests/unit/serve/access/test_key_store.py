"""Where keys are kept: shut to others, whole at any moment, and seen by a server that runs."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_pack.format.errors import SpaceError, UsageError
from llava_pack.serve.access.key import Key, digest_of
from llava_pack.serve.access.key_store import KeyStore, LiveKeys, store_path

_ADD = """
import sys
from pathlib import Path
from llava_pack.serve.access.key_store import KeyStore
from llava_pack.serve.access.key import Key
for number in range(10):
    name = f"{sys.argv[2]}-{number}"
    KeyStore(Path(sys.argv[1])).add(Key(id=name.encode().hex().zfill(12), name=name, digest="0" * 64))
"""


def _key(name: str = "ann") -> Key:
    return Key(id=name.encode().hex().zfill(12)[-12:], name=name, digest=digest_of(name))


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(store_path(tmp_path / "prefix" / "run"))


def test_keys_come_and_go_in_a_file_that_is_shut_to_others(store: KeyStore) -> None:
    assert store.read() == ()
    store.add(_key("ann"))
    store.add(_key("bob"))
    assert store.revoke("ann") == _key("ann")
    assert store.read() == (_key("bob"),)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in store.path.parent.iterdir()] == ["keys.json"]


def test_a_name_is_taken_once_and_revoked_once(store: KeyStore) -> None:
    store.add(_key())
    with pytest.raises(UsageError, match="a key with this name already exists"):
        store.add(_key())
    store.revoke("ann")
    with pytest.raises(UsageError, match="no key has this name"):
        store.revoke("ann")


def _link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.chmod(0o640), "open to other accounts: mode 0640"),
        (lambda path: path.write_text("{"), "the keys cannot be read"),
        (lambda path: path.write_text('{"schema": 1, "keys": [{}]}'), "not a key"),
        (lambda path: path.write_text("[" * 100_000), "the keys cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "the keys cannot be read"),
        (_link, "the keys cannot be used"),
        (lambda path: path.unlink() or os.mkfifo(path, 0o600), "expected a plain file"),
    ],
)
def test_a_file_that_is_not_ours_alone_or_damaged_is_refused(
    store: KeyStore, harm: Callable[[Path], object], said: str
) -> None:
    store.add(_key())
    harm(store.path)
    with pytest.raises(UsageError, match=said):
        store.read()
    with pytest.raises(UsageError, match=said):
        store.add(_key("bob"))


def test_several_who_add_at_once_lose_nothing(store: KeyStore) -> None:
    store.add(_key())
    command = [sys.executable, "-c", _ADD, str(store.path)]
    running = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(store.read()) == 31


def test_an_add_that_was_killed_leaves_the_keys_before(store: KeyStore) -> None:
    store.add(_key())
    store.path.with_name(".keys.json.new").write_text("half of wh")
    assert store.read() == (_key(),)
    store.add(_key("bob"))
    assert [key.name for key in store.read()] == ["ann", "bob"]


def test_a_full_disk_leaves_the_keys_before(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(_key())

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpaceError, match="the keys were not changed"):
        store.add(_key("bob"))
    assert store.read() == (_key(),)


def test_a_server_sees_adds_and_revokes_a_second_later(store: KeyStore) -> None:
    now_s = 0.0
    live = LiveKeys(store.path, clock=lambda: now_s)
    assert live.now() == {}
    store.add(_key())
    assert live.now() == {}, "it looks once a second"
    now_s = 1.0
    assert [key.name for key in live.now().values()] == ["ann"]
    store.revoke("ann")
    now_s = 2.0
    assert live.now() == {}
    assert LiveKeys(None).now() == {}


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.chmod(0o644),
        lambda path: path.write_text("{"),
        lambda path: path.unlink(),
        lambda path: path.write_text(json.dumps({"schema": 2})),
    ],
)
def test_no_key_lives_on_in_a_store_that_cannot_be_read(
    store: KeyStore, harm: Callable[[Path], object]
) -> None:
    now_s = 0.0
    live = LiveKeys(store.path, clock=lambda: now_s)
    store.add(_key())
    assert len(live.now()) == 1
    harm(store.path)
    now_s = 1.0
    assert live.now() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_adds_belongs_to_the_account_that_serves(store: KeyStore) -> None:
    run = store.path.parents[1] / "run"
    run.mkdir(parents=True)
    os.chown(run, 12345, 12346)
    store.add(_key())
    for path in (store.path, store.path.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
