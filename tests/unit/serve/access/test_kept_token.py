"""The token that outlives a start: kept once, private, and replaced on purpose only."""

from pathlib import Path

import pytest

from llava_pack.format.errors import PreflightError, UsageError
from llava_pack.serve.access.credentials import credentials
from llava_pack.serve.access.kept_token import kept_token, renewed_token, token_path


def test_it_is_made_once_and_opens_the_same_doors_at_every_start(tmp_path: Path) -> None:
    path = token_path(tmp_path / "run")
    first = kept_token(path)
    assert kept_token(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    one, two = (credentials("127.0.0.1", token=True, kept=kept_token(path)) for _ in range(2))
    assert one == two
    assert one.policy.llava_path == two.policy.llava_path
    assert (one.token, one.policy.start_secret) == (first.token, first.start_secret)
    renewed = renewed_token(path)
    assert kept_token(path) == renewed
    assert renewed.token != first.token
    assert renewed.start_secret != first.start_secret


@pytest.mark.parametrize("text", ["", "{}x", '{"token": "short", "start_secret": "short"}', "[]"])
def test_a_damaged_one_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="it is damaged"):
        kept_token(path)


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    kept_token(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="open to other accounts"):
        kept_token(path)


def test_one_that_is_a_link_is_refused(tmp_path: Path) -> None:
    kept_token(tmp_path / "token")
    (tmp_path / "link").symlink_to(tmp_path / "token")
    with pytest.raises(PreflightError, match="it is a link"):
        kept_token(tmp_path / "link")
