"""A sample of `tests/attack/guard.py`; and for each check, that the attack succeeds without it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="a laptop's half has no server")

from llava_pack.serve.access import policy as access
from llava_pack.serve.access import scopes, sessions
from llava_pack.serve.access.key import Key
from llava_pack.serve.access.policy import AccessPolicy
from tests.attack.guard import TRICKS, violations

_COUNT = len(TRICKS) + 20
_SEED = 10


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep uvicorn from telling of every malformed request."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_sample_of_the_attack_finds_nothing(tmp_path: Path) -> None:
    among = ("nobody", "ask by header", "observe by cookie", "revoked", "forger")
    found, tries, through = violations(tmp_path, _SEED, _COUNT, web=False, among=among)
    assert found == []
    assert tries == 5 * _COUNT
    assert through > 3, "keys open what is theirs"


def _any_path(path: str, method: str = "GET") -> Any:
    return scopes.Route(path, "ask")


# who attacks, and the check with what takes its place
_CHECKS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "that there is a key": ("nobody", (AccessPolicy, "_without_key", lambda _self, _asked, route: (
        access.Ruling(verdict="allowed", route=route)
    ))),
    "the token": ("guesser", (access.hmac, "compare_digest", lambda *_: True)),
    "the scope": ("observe by header", (Key, "opens", lambda *_: True)),
    "the table of routes": ("ask by header", (access, "route_of", _any_path)),
    "control characters": ("ask by header", (scopes, "_is_odd", lambda *_: False)),
    "the expiry": ("expired", (Key, "expired", lambda *_: False)),
    "the mac of a cookie": ("forger", (sessions, "same", lambda *_: True)),
}  # fmt: skip


@pytest.mark.parametrize("name", _CHECKS)
def test_without_a_check_the_attack_succeeds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacker, check = _CHECKS[name]
    monkeypatch.setattr(*check)
    found, *_ = violations(tmp_path, _SEED, _COUNT, web=False, among=[attacker])
    assert found
