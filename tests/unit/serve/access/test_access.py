"""The access policy: who may ask for what, decided on a path and headers alone."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llava_pack.serve.access import policy as access
from llava_pack.serve.access import sessions
from llava_pack.serve.access.key import Key, digest_of
from llava_pack.serve.access.policy import (
    AccessPolicy,
    AccessRequest,
    Ruling,
    keys_of_file,
    read_keys,
)
from llava_pack.serve.access.scopes import LLAVA_PREFIX
from llava_pack.serve.access.sessions import IDLE_S, LONGEST_S, RENEW_S, Session
from llava_pack.serve.plain import from_plain, to_plain

_TOKEN = "s3cret-token"
_NOW = 1_800_000_000
_ANN = "lp_0123456789ab_" + "a" * 43
_POLICY = AccessPolicy(secrets=(_TOKEN,), start_secret="s", keys=keys_of_file("team-key\n"))
_STORE = {
    "0123456789ab": Key(
        id="0123456789ab", name="ann", digest=digest_of(_ANN), scopes=("ask",), expires=_NOW + 60
    )
}
_HOST = {"host": "localhost:7860"}
_GOOD = {**_HOST, "authorization": f"Bearer {_TOKEN}"}


def _rule(
    policy: AccessPolicy = _POLICY,
    path: str = "/v1/models",
    method: str = "GET",
    now_s: int = _NOW,
    **headers: str,
) -> Ruling:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return policy.judge(AccessRequest(path=path, method=method, headers=named), _STORE, now_s)


def _judge(*given: Any, **changes: Any) -> str:
    return _rule(*given, **changes).verdict


def _cookie(key_id: str = "token", began: int = _NOW, seen: int = _NOW) -> str:
    derived = _POLICY.derived
    return f"{derived.cookie_name}={derived.cookie(Session(key_id, began, seen))}"


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ({"authorization": f"Bearer {_TOKEN}"}, "token"),
        ({"authorization": f"bearer  {_TOKEN}"}, "token"),
        ({"authorization": "Bearer team-key"}, "file-1"),
        ({"authorization": f"Bearer {_ANN}"}, "ann"),
        ({"x_api_key": _TOKEN}, "token"),
        ({"x_api_key": _ANN}, "ann"),
        ({"cookie": f"other={{json: 1}}; {_cookie()}"}, "token"),
        ({"cookie": _cookie("0123456789ab")}, "ann"),
        ({"cookie": _cookie("file-1")}, "file-1"),
    ],
)
def test_a_key_is_taken_in_each_form_and_has_its_name(shown: dict[str, str], name: str) -> None:
    ruling = _rule(**_HOST, **shown)
    assert (ruling.verdict, ruling.caller.name) == ("allowed", name)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {_TOKEN}"},
        {"authorization": f"Bearer {_TOKEN}x"},
        {"authorization": f"Bearer {_TOKEN[:-1]}"},
        {"authorization": f"Bearer {_ANN[:-1]}b"},
        {"authorization": f"Bearer {_STORE['0123456789ab'].digest}"},
        {"authorization": "Bearer 0123456789ab"},
        {"x_api_key": ""},
        {"cookie": f"{_POLICY.derived.cookie_name}="},
        {"cookie": f"{_POLICY.derived.cookie_name}={_TOKEN}"},
        {"cookie": f"{_cookie()}0"},
        {"cookie": _cookie().replace("=token.", "=file-1.")},
        {"cookie": _cookie("gone")},
        {"cookie": f"x{_cookie()}"},
        {"cookie": _cookie(seen=_NOW - IDLE_S)},
        {"cookie": _cookie(began=_NOW - LONGEST_S)},
        {"authorization": "Bearer \xff\udcff".encode("utf-8", "replace").decode()},
    ],
)
def test_anything_else_is_no_key(shown: dict[str, str]) -> None:
    ruling = _rule(**_HOST, **shown)
    assert (ruling.verdict, ruling.key) == ("no-token", None)


def test_a_key_whose_time_is_over_is_told_so_and_nobody_else_is() -> None:
    shown = {**_HOST, "authorization": f"Bearer {_ANN}"}
    assert _judge(now_s=_NOW + 59, **shown) == "allowed"
    assert _judge(now_s=_NOW + 60, **shown) == "expired"
    assert _judge(now_s=_NOW + 60, **_HOST, cookie=_cookie("0123456789ab")) == "expired"
    guessed = {**_HOST, "authorization": f"Bearer {_ANN[:-1]}b"}
    assert _judge(now_s=_NOW + 60, **guessed) == "no-token"


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        ("/v1/chat/completions", "allowed"), ("/tokenize", "allowed"), ("/livez", "allowed"),
        ("/v1/nothing", "allowed"), ("/metrics", "wrong-scope"), ("/readyz", "wrong-scope"),
        ("/observe", "wrong-scope"), ("/", "wrong-scope"), ("/page/facts", "wrong-scope"),
        ("/login", "wrong-scope"), ("/monitoring", "no-route"), ("//v1/models", "no-route"),
        ("/v1/health/ready\n", "no-route"), ("/V1/models", "no-route"),
        ("http://localhost/v1/models", "no-route"), ("", "no-route"), ("*", "no-route"),
    ],
)  # fmt: skip
def test_a_key_opens_its_scopes_and_nothing_that_is_in_no_row(path: str, verdict: str) -> None:
    shown = {**_HOST, "authorization": f"Bearer {_ANN}"}
    assert _judge(path=path, method="POST", **shown) == verdict
    assert _judge(path=path, method="POST", **_HOST) == "no-token"


def test_keys_of_a_file_open_everything_but_what_is_kept_for_admins() -> None:
    assert keys_of_file("a\nb")[1].scopes == ("ask", "observe", "page")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "LOCALHOST:7860", "127.0.0.1:7999", "[::1]:7860", "[::1]"]
)
def test_loopback_names_are_ours_on_any_port(host: str) -> None:
    assert _judge(host=host, authorization=f"Bearer {_TOKEN}") == "allowed"


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "localhost:7860:1", "localhost:x", "10.0.0.5",
     "127.0.0.1.evil.example", "user@localhost", "localhost/x", "::1", "0.0.0.0:7860"],
)  # fmt: skip
def test_other_hosts_are_not(host: str) -> None:
    assert _judge(host=host, authorization=f"Bearer {_TOKEN}") == "wrong-host"


def test_off_loopback_our_names_and_addresses_are_ours() -> None:
    policy = AccessPolicy(secrets=(_TOKEN,), host_names=frozenset({"gpu01"}), any_address=True)
    shown = f"Bearer {_TOKEN}"
    assert _judge(policy, host="gpu01:7860", authorization=shown) == "allowed"
    assert _judge(policy, host="10.0.0.5:7860", authorization=shown) == "allowed"
    assert _judge(policy, host="rebound.example", authorization=shown) == "wrong-host"


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({"origin": "http://localhost:7860"}, "allowed"),
        ({"origin": "http://localhost:8888"}, "wrong-origin"),
        ({"origin": "http://127.0.0.1:7860"}, "wrong-origin"),
        ({"origin": "https://evil.example"}, "wrong-origin"),
        ({"origin": "null"}, "wrong-origin"),
        ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "no-cors"}, "allowed"),
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, "allowed"),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, "allowed"),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, "wrong-origin"),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors"}, "wrong-origin"),
    ],
)
def test_other_web_pages_cannot_drive_the_tunnel(headers: dict[str, str], verdict: str) -> None:
    assert _judge(**_GOOD, **headers) == verdict


def test_only_the_login_form_is_open() -> None:
    assert _judge(path="/login", **_HOST) == "allowed"
    assert _judge(path="/login", method="POST", **_HOST) == "no-token"
    for path in ("/login/", "//login", "/LOGIN", "/", "/livez", "/readyz", "/openapi.json"):
        assert _judge(path=path, **_HOST) == "no-token"


def test_without_a_token_host_origin_and_route_still_count() -> None:
    policy = AccessPolicy(secrets=None)
    assert _judge(policy, **_HOST) == "allowed"
    assert _judge(policy, host="evil.example") == "wrong-host"
    assert _judge(policy, **_HOST, origin="http://evil.example") == "wrong-origin"
    assert _judge(policy, path="/monitoring", **_HOST) == "no-route"
    assert _judge(policy, path="/llava/x/list_models", method="POST", **_HOST) == "allowed"
    assert _judge(policy, path="/llava/x/list_models", **_HOST) == "no-route"
    assert policy.llava_path == ""
    assert _rule(policy, **_HOST).caller.name == "anyone"
    assert _rule(policy, **_HOST, authorization=f"Bearer {_ANN}").caller.name == "ann"


def test_a_cookie_is_worth_nothing_in_another_start() -> None:
    other = replace(_POLICY, start_secret="another")
    assert other.derived.cookie_name != _POLICY.derived.cookie_name
    renamed = _cookie().replace(_POLICY.derived.cookie_name, other.derived.cookie_name)
    assert _judge(other, **_HOST, cookie=renamed) == "no-token"
    assert _TOKEN not in _cookie()
    made = [AccessPolicy(secrets=(_TOKEN,)).start_secret for _ in range(2)]
    assert made[0] != made[1]
    assert len(made[0]) == 64


def test_a_cookie_in_use_is_renewed_until_its_longest_time_is_over() -> None:
    session = Session("token", began=_NOW, seen=_NOW)
    assert not session.due(_NOW + RENEW_S - 1)
    assert session.due(_NOW + RENEW_S)
    late = _NOW + LONGEST_S - 1
    assert _judge(now_s=late, **_HOST, cookie=_cookie(seen=late)) == "allowed"
    assert _judge(now_s=late + 1, **_HOST, cookie=_cookie(seen=late)) == "no-token"


def test_a_cookie_dies_with_its_key() -> None:
    asked = AccessRequest(
        path="/v1/models", method="GET", headers={**_HOST, "cookie": _cookie("0123456789ab")}
    )
    assert _POLICY.judge(asked, _STORE, _NOW).verdict == "allowed"
    assert _POLICY.judge(asked, {}, _NOW).verdict == "no-token"


def test_keys_are_lines_of_a_file() -> None:
    assert read_keys("# team\n\n one \ntwo\n") == ("one", "two")


def test_secrets_are_compared_as_digests_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared has one length, whatever was offered; every secret goes that way."""
    compared: list[tuple[int, int]] = []
    digest = access.hmac.compare_digest

    def seen(ours: bytes, theirs: bytes) -> bool:
        compared.append((len(ours), len(theirs)))
        return digest(ours, theirs)

    monkeypatch.setattr(access.hmac, "compare_digest", seen)
    assert sessions.hmac is access.hmac
    for offered in ("", "x", _TOKEN[:-1], "y" * 10_000, f"{_ANN[:-1]}b"):
        assert _judge(**_HOST, authorization=f"Bearer {offered}") == "no-token"
        path = f"/llava/{offered}/list_models"
        assert _judge(path=path, method="POST", **_HOST) == "no-token"
    assert _judge(**_HOST, cookie=f"{_cookie()[:-1]}0") == "no-token"
    assert set(compared) == {(32, 32), (64, 64)}
    assert len(compared) >= 4 * 2 + 5 + 1


def test_llavas_key_is_each_keys_own_and_opens_its_routes_only() -> None:
    paths = [_POLICY.llava_path_of(key) for key in (*_POLICY.own, *_STORE.values())]
    assert paths[0] == _POLICY.llava_path
    names = [
        _rule(path=f"{path}/list_models", method="POST", **_HOST).caller.name for path in paths
    ]
    assert names == ["token", "ann"]
    key = paths[0].removeprefix(LLAVA_PREFIX)
    assert _TOKEN not in key
    assert _judge(**_HOST, authorization=f"Bearer {key}") == "no-token"
    assert _judge(**_HOST, cookie=f"{_POLICY.derived.cookie_name}={key}") == "no-token"
    foreign = f"/llava/0123456789ab.{key.partition('.')[2]}/list_models"
    assert _judge(path=foreign, method="POST", **_HOST) == "no-token"
    assert _judge(path=f"{paths[0]}/metrics", method="POST", **_HOST) == "no-token"
    observer = replace(_STORE["0123456789ab"], scopes=("observe",))
    asked = AccessRequest(path=f"{paths[1]}/list_models", method="POST", headers=_HOST)
    assert _POLICY.judge(asked, {observer.id: observer}, _NOW).verdict == "wrong-scope"


def test_salts_differ_by_key_and_by_start() -> None:
    ids = ("token", "file-1", "0123456789ab")
    salts = {_POLICY.derived.salt(key_id) for key_id in ids}
    salts |= {replace(_POLICY, start_secret="x").derived.salt(key_id) for key_id in ids}
    assert len(salts) == 6
    assert _rule(**_GOOD).caller.salt in salts


def test_a_policy_crosses_to_another_process_as_json() -> None:
    policy = replace(_POLICY, key_store="/k", host_names=frozenset({"gpu01"}), any_address=True)
    assert from_plain(AccessPolicy, json.loads(json.dumps(to_plain(policy)))) == policy
    assert from_plain(AccessPolicy, to_plain(AccessPolicy(secrets=None, start_secret="s"))) == (
        AccessPolicy(secrets=None, start_secret="s")
    )


def test_what_is_printed_of_a_policy_holds_no_secret() -> None:
    assert _TOKEN not in repr(_POLICY)
    assert "start_secret" not in repr(_POLICY)
    assert "value" not in repr(_POLICY.derived)


# an attack, what it gets, and the check that refuses it with what takes its place
_CHECKS: dict[str, tuple[dict[str, Any], str, tuple[Any, ...]]] = {
    "digest": (
        {"authorization": f"Bearer {_ANN[:-1]}b"}, "no-token",
        (access.hmac, "compare_digest", lambda ours, theirs: True),
    ),
    "mac of a cookie": (
        {"cookie": f"{_cookie('file-1')[:-1]}{'1' if _cookie('file-1')[-1] == '0' else '0'}"},
        "no-token", (sessions, "same", lambda *_: True),
    ),
    "mac of LLaVA's key": (
        {"path": "/llava/token.0/list_models", "method": "POST"}, "no-token",
        (access, "same", lambda *_: True),
    ),
    "scope": (
        {"path": "/metrics", "authorization": f"Bearer {_ANN}"}, "wrong-scope",
        (Key, "opens", lambda *_: True),
    ),
    "expiry": (
        {"now_s": _NOW + 60, "authorization": f"Bearer {_ANN}"}, "expired",
        (Key, "expired", lambda *_: False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _CHECKS)
def test_each_check_of_a_key_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, verdict, check = _CHECKS[name]
    assert _judge(**_HOST, **shown) == verdict
    monkeypatch.setattr(*check)
    assert _judge(**_HOST, **shown) == "allowed"
