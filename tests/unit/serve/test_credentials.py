"""Tokens and keys, by where the gateway listens."""

from pathlib import Path

import pytest

from llava_pack.format.errors import UsageError
from llava_pack.serve.credentials import credentials

_KEY = "k" * 24


def _key_file(folder: Path, text: str = f"# team\n{_KEY}\n", mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_each_start_has_its_own_token() -> None:
    first, second = (credentials("127.0.0.1", token=True, key_file=None) for _ in range(2))
    assert first.token != second.token
    assert len(first.token) >= 43
    assert first.policy.secrets == (first.token,)


def test_no_token_is_only_for_loopback(tmp_path: Path) -> None:
    assert credentials("localhost", token=False, key_file=None).policy.secrets is None
    with pytest.raises(UsageError, match="other machines"):
        credentials("0.0.0.0", token=False, key_file=_key_file(tmp_path))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gpu01", ""])
def test_another_address_needs_a_key_file(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs an API-key file"):
        credentials(host, token=True, key_file=None)
    policy = credentials(host, token=True, key_file=_key_file(tmp_path)).policy
    assert policy.secrets is not None
    assert _KEY in policy.secrets
    assert policy.any_address


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "needs keys of at least 16 characters"),
        ("short\n", 0o600, "needs keys of at least 16 characters"),
        (f"{_KEY}\nshort\n", 0o600, "needs keys of at least 16 characters"),
        (_KEY, 0o644, "open to others: mode 0644"),
    ],
)
def test_a_weak_key_file_is_refused(tmp_path: Path, text: str, mode: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        credentials("127.0.0.1", token=True, key_file=_key_file(tmp_path, text, mode))


def test_an_absent_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        credentials("127.0.0.1", token=True, key_file=tmp_path / "none")
