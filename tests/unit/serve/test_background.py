"""A server in the background: where it logs, and what systemd does to it at logout."""

from pathlib import Path

import pytest

from llava_pack.format.errors import PreflightError
from llava_pack.serve.background import ends_with_logout, started


def test_what_it_says_is_appended_for_this_account_alone(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "serve.log"
    for word in ("one", "two"):
        assert started(["/bin/echo", word], log, folder=tmp_path).wait() == 0
    assert log.read_text() == "one\ntwo\n"
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serve.log").symlink_to(tmp_path / "other")
    with pytest.raises(PreflightError):
        started(["/bin/echo"], tmp_path / "serve.log")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("cgroup", "uid", "told"),
    [
        ("0::/user.slice/user-1000.slice/session-3.scope\n", 1000, "b true"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", 1000, "b false"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", 0, "b true"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice\n", 1000, "b true"),
        ("0::/\n", 1000, "b true"),
    ],
)
def test_systemd_s_word_on_logout_is_asked_for_in_a_login_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, uid: int, told: str
) -> None:
    """logind cannot be had here: a busctl that answers as it does stands in for it."""
    busctl = tmp_path / "busctl"
    busctl.write_text(f"#!/bin/sh\necho {told}\n")
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: uid)
    (tmp_path / "cgroup").write_text(cgroup)
    ends = "session-" in cgroup and uid and told.endswith("true")
    assert ends_with_logout(tmp_path, tmp_path / "cgroup") == bool(ends)
    assert not ends_with_logout(tmp_path / "absent", tmp_path / "cgroup")
