"""Tokens and keys, by where the gateway listens."""

from pathlib import Path

import pytest

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.credentials import credentials
from llava_pack.serve.access.key import Key, digest_of
from llava_pack.serve.access.key_store import KeyStore
from llava_pack.serve.plain import to_plain

_KEY = "k" * 24


def _key_file(folder: Path, text: str = f"# team\n{_KEY}\n", mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def _store(folder: Path) -> Path:
    path = folder / "store" / "keys.json"
    KeyStore(path).add(Key(id="0123456789ab", name="ann", digest=digest_of(_KEY)))
    return path


def test_each_start_has_its_own_token_and_secret() -> None:
    first, second = (credentials("127.0.0.1", token=True) for _ in range(2))
    assert first.token != second.token
    assert len(first.token) >= 43
    assert first.policy.secrets == (first.token,)
    assert first.policy.start_secret != second.policy.start_secret
    assert first.policy.start_secret not in {first.token, ""}


def test_no_token_is_only_for_loopback(tmp_path: Path) -> None:
    assert credentials("localhost", token=False).policy.secrets is None
    with pytest.raises(UsageError, match="other machines"):
        credentials("0.0.0.0", token=False, key_file=_key_file(tmp_path))
    with pytest.raises(UsageError, match="other machines"):
        credentials("0.0.0.0", token=False, key_store=_store(tmp_path))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gpu01", ""])
def test_another_address_needs_keys(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which requires keys"):
        credentials(host, token=True)
    with pytest.raises(UsageError, match="which requires keys"):
        credentials(host, token=True, key_store=tmp_path / "none.json")
    policy = credentials(host, token=True, key_store=_store(tmp_path)).policy
    assert policy.any_address
    policy = credentials(host, token=True, key_file=_key_file(tmp_path)).policy
    assert policy.any_address


def test_of_an_api_key_file_only_digests_are_kept(tmp_path: Path) -> None:
    policy = credentials("127.0.0.1", token=True, key_file=_key_file(tmp_path)).policy
    assert [(key.name, key.digest) for key in policy.keys] == [("file-1", digest_of(_KEY))]
    assert _KEY not in str(to_plain(policy))


def test_a_damaged_store_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    _store(tmp_path).write_text("{")
    with pytest.raises(UsageError, match="the keys cannot be read"):
        credentials("127.0.0.1", token=True, key_store=tmp_path / "store" / "keys.json")


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


def test_nothing_but_keys_lies_in_the_keys_folder(tmp_path: Path) -> None:
    """An attack: keys beside /etc/shadow, and the fence lets through to both."""
    store = _store(tmp_path)
    for name in (".keys.json.new", "keys.json.bak"):
        store.with_name(name).touch()
    credentials("localhost", token=True, key_store=store)
    store.with_name("shadow").touch()
    with pytest.raises(UsageError, match="holds other files too, such as shadow"):
        credentials("localhost", token=True, key_store=store)
