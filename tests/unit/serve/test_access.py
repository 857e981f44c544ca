"""The access policy: who may ask, decided on headers alone."""

import pytest

from llava_pack.serve import access
from llava_pack.serve.access import AccessPolicy, read_keys

_TOKEN = "s3cret-token"
_POLICY = AccessPolicy(secrets=(_TOKEN, "team-key"))
_HOST = {"host": "localhost:7860"}
_GOOD = {**_HOST, "authorization": f"Bearer {_TOKEN}"}


def _judge(
    policy: AccessPolicy = _POLICY, path: str = "/v1/models", method: str = "GET", **headers: str
):
    return policy.judge(path, method, {k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    "shown",
    [
        {"authorization": f"Bearer {_TOKEN}"},
        {"authorization": f"bearer  {_TOKEN}"},
        {"authorization": "Bearer team-key"},
        {"x_api_key": _TOKEN},
        {"cookie": f"other={{json: 1}}; {_POLICY.cookie_name}={_POLICY.cookie_value}"},
    ],
)
def test_the_token_is_taken_in_each_form(shown: dict[str, str]) -> None:
    assert _judge(**_HOST, **shown) == "allowed"


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {_TOKEN}"},
        {"authorization": f"Bearer {_TOKEN}x"},
        {"authorization": f"Bearer {_TOKEN[:-1]}"},
        {"x_api_key": ""},
        {"cookie": f"{_POLICY.cookie_name}="},
        {"cookie": f"{_POLICY.cookie_name}={_TOKEN}"},
        {"cookie": f"x{_POLICY.cookie_name}={_POLICY.cookie_value}"},
        {"authorization": "Bearer \xff\udcff".encode("utf-8", "replace").decode()},
    ],
)
def test_anything_else_is_not_the_token(shown: dict[str, str]) -> None:
    assert _judge(**_HOST, **shown) == "no-token"


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


def test_without_a_token_host_and_origin_still_count() -> None:
    policy = AccessPolicy(secrets=None)
    assert _judge(policy, **_HOST) == "allowed"
    assert _judge(policy, host="evil.example") == "wrong-host"
    assert _judge(policy, **_HOST, origin="http://evil.example") == "wrong-origin"


def test_the_cookie_differs_by_start_and_does_not_tell_the_token() -> None:
    other = AccessPolicy(secrets=("another",))
    assert other.cookie_name != _POLICY.cookie_name
    assert other.cookie_value != _POLICY.cookie_value
    assert _TOKEN not in _POLICY.cookie_name + _POLICY.cookie_value


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
    for offered in ("", "x", _TOKEN[:-1], "y" * 10_000):
        assert _judge(**_HOST, authorization=f"Bearer {offered}") == "no-token"
        assert _judge(**_HOST, cookie=f"{_POLICY.cookie_name}={offered}") == "no-token"
        path = f"/llava/{offered}/list_models"
        assert _judge(path=path, method="POST", **_HOST) == "no-token"
    assert set(compared) == {(32, 32)}
    assert len(compared) >= 12


def test_the_key_of_llavas_routes_is_not_the_token_and_differs_from_the_cookie() -> None:
    key = _POLICY.llava_path.removeprefix(access.LLAVA_PREFIX)
    assert key not in {_TOKEN, _POLICY.cookie_value[:32]}
    assert _judge(path=f"/llava/{key}/list_models", method="POST", **_HOST) == "allowed"
    assert _judge(**_HOST, authorization=f"Bearer {key}") == "no-token"
    assert AccessPolicy(secrets=None).llava_path == ""
