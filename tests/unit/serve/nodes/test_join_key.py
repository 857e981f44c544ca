"""The join key: made once by the head, kept by whoever was told it."""

from pathlib import Path

import pytest

from llava_pack.format.errors import UsageError
from llava_pack.serve.nodes.join_key import VARIABLE, followers_key, heads_key

KEY = "k" * 43


def test_a_head_has_the_same_key_at_each_start(tmp_path: Path) -> None:
    path = tmp_path / "run" / "key"
    key = heads_key(path)
    assert len(key) == 43
    assert heads_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert heads_key(tmp_path / "other") != key


def test_a_follower_keeps_what_its_environment_told_once(tmp_path: Path) -> None:
    environment = {VARIABLE: KEY, "HOME": "/h"}
    assert followers_key(tmp_path / "key", environment) == KEY
    assert environment == {"HOME": "/h"}
    assert followers_key(tmp_path / "key", {}) == KEY
    assert followers_key(tmp_path / "key", {VARIABLE: "n" * 43}) == "n" * 43
    assert followers_key(tmp_path / "key", {}) == "n" * 43


def test_a_follower_that_was_never_told_says_where_the_key_comes_from(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the head's join key is not known here") as refused:
        followers_key(tmp_path / "key", {})
    assert VARIABLE in refused.value.hint


@pytest.mark.parametrize("told", ["short", "k" * 44, "k" * 42 + " ", "k" * 42 + "\n"])
def test_what_is_no_key_is_not_kept(tmp_path: Path, told: str) -> None:
    with pytest.raises(UsageError, match="expected a join key of 43 letters"):
        followers_key(tmp_path / "key", {VARIABLE: told})
    assert not (tmp_path / "key").exists()


def test_a_key_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    heads_key(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="open to other accounts"):
        heads_key(path)
    path.chmod(0o600)
    path.write_text("half of")
    with pytest.raises(UsageError, match="it is damaged"):
        followers_key(path, {})
