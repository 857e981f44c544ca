"""What proxies say: believed of listed ones alone, and never past a check of the guard."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.serve.access import policy as access
from llava_pack.serve.access.forwarded import Arrival, Headers, arrival
from llava_pack.serve.access.policy import AccessPolicy, AccessRequest
from llava_pack.serve.access.public_name import PublicName, public_name

_PROXIES = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")
_NAME = public_name(
    public_url="https://llava.corp/vlm", hosts=["host.docker.internal"],
    origins=["https://chat.corp"], proxies=_PROXIES,
)  # fmt: skip


def _came(
    *headers: tuple[str, str], peer: str | None = "127.0.0.1", path: str = "/v1/models",
    name: PublicName = _NAME, host: str = "127.0.0.1:7860",
) -> Arrival:  # fmt: skip
    raw = [(b"host", host.encode())]
    raw += [(key.lower().encode(), value.encode("latin-1")) for key, value in headers]
    return arrival(name, peer=peer, scheme="http", headers=raw, path=path)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([], "127.0.0.1"),
        ([("X-Forwarded-For", "192.0.2.7")], "192.0.2.7"),
        ([("X-Forwarded-For", "6.6.6.6, 192.0.2.7")], "192.0.2.7"),
        ([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "192.0.2.7")], "192.0.2.7"),
        ([("X-Forwarded-For", "6.6.6.6, 192.0.2.7, 10.1.1.1")], "192.0.2.7"),
        ([("X-Forwarded-For", "10.2.2.2, 10.1.1.1")], "10.2.2.2"),
        ([("X-Forwarded-For", "192.0.2.7:4711")], "192.0.2.7"),
        ([("X-Forwarded-For", "[2001:db9::1]:4711")], "2001:db9::1"),
        ([("X-Forwarded-For", "::ffff:192.0.2.7")], "192.0.2.7"),
        ([("X-Forwarded-For", "192.0.2.7, unknown")], "127.0.0.1"),
        ([("X-Forwarded-For", "192.0.2.7, <script>, 10.1.1.1")], "10.1.1.1"),
        ([("X-Forwarded-For", "")], "127.0.0.1"),
        ([("Forwarded", "for=192.0.2.7")], "192.0.2.7"),
        ([("Forwarded", 'for="[2001:db9::1]:80", for=10.1.1.1;by=x')], "2001:db9::1"),
        ([("Forwarded", 'for=6.6.6.6;x="a,for=7.7.7.7"'), ("Forwarded", "For=192.0.2.7")], "192.0.2.7"),
        ([("Forwarded", 'for="_hidden"')], "127.0.0.1"),
        ([("Forwarded", "for=192.0.2.7;;=")], "127.0.0.1"),
        ([("Forwarded", "for=6.6.6.6"), ("X-Forwarded-Proto", "https")], "127.0.0.1"),
        ([("X-Real-IP", "6.6.6.6")], "127.0.0.1"),
    ],
)  # fmt: skip
def test_who_asks_is_the_nearest_that_is_no_listed_proxy(
    headers: list[tuple[str, str]], client: str
) -> None:
    assert _came(*headers).client == client


@pytest.mark.parametrize(
    ("headers", "scheme", "host"),
    [
        ([("X-Forwarded-Proto", "https")], "https", "127.0.0.1:7860"),
        ([("X-Forwarded-Proto", "https, http")], "http", "127.0.0.1:7860"),
        ([("X-Forwarded-Proto", "gopher")], "http", "127.0.0.1:7860"),
        ([("X-Forwarded-Host", "llava.corp")], "https", "llava.corp"),
        ([("X-Forwarded-Host", "evil.example, llava.corp")], "https", "llava.corp"),
        ([("X-Forwarded-Host", "llava.corp"), ("X-Forwarded-Proto", "http")], "http", "llava.corp"),
        ([("Forwarded", "proto=https;host=llava.corp:444")], "https", "llava.corp:444"),
        ([("Forwarded", "proto=https;host=a, proto=http;host=b")], "http", "b"),
    ],
)
def test_what_was_asked_for_is_the_nearest_proxys_word(
    headers: list[tuple[str, str]], scheme: str, host: str
) -> None:
    came = _came(*headers)
    assert (came.scheme, came.host) == (scheme, host)


def test_a_unix_socket_has_a_word_of_its_own() -> None:
    said = ("X-Forwarded-For", "192.0.2.7")
    assert _came(said, peer=None).client == ""
    listed = public_name(proxies=["unix"])
    assert _came(said, peer=None, name=listed).client == "192.0.2.7"
    assert _came(said, peer="127.0.0.1", name=listed).client == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "host", "headers", "below", "root_path"),
    [
        # the proxy leaves the path as it was
        ("/vlm/v1/models", "127.0.0.1:7860", {}, "/v1/models", "/vlm"),
        ("/vlm/", "127.0.0.1:7860", {}, "/", "/vlm"),
        ("/vlm", "127.0.0.1:7860", {}, "", "/vlm"),
        # the proxy takes it away: known by the name, the page's origin, or its word
        ("/v1/models", "llava.corp", {}, "/v1/models", "/vlm"),
        ("/login", "localhost", {"Origin": "https://llava.corp"}, "/login", "/vlm"),
        ("/", "localhost", {"X-Forwarded-Host": "llava.corp"}, "/", "/vlm"),
        ("/", "localhost", {"X-Forwarded-Prefix": "/vlm"}, "/", "/vlm"),
        # nobody stands between
        ("/v1/models", "localhost:7860", {}, "/v1/models", ""),
        ("/login", "localhost", {"Origin": "http://localhost"}, "/login", ""),
        # once, as whole segments, in one spelling
        ("/vlm/vlm/login", "localhost", {}, "/vlm/login", "/vlm"),
        ("/vlmx/login", "localhost", {}, "/vlmx/login", ""),
        ("/VLM/login", "localhost", {}, "/VLM/login", ""),
        ("//vlm/login", "localhost", {}, "//vlm/login", ""),
        # a client's own that its proxy passes on
        ("/vlm/login", "localhost", {"X-Forwarded-Prefix": "/evil"}, "/login", "/vlm"),
        ("/login", "localhost", {"X-Forwarded-Prefix": "/evil"}, "/login", ""),
    ],
)
def test_what_stands_before_the_path_is_taken_off_once(
    path: str, host: str, headers: dict[str, str], below: str, root_path: str
) -> None:
    came = _came(*headers.items(), path=path, host=host)
    assert (came.path, came.root_path) == (below, root_path)


@pytest.mark.parametrize(
    ("said", "prefix"),
    [("/user/ann/", "/user/ann"), ("/a, /user/ann", "/user/ann"),
     *((bad, "") for bad in (
         "//evil.example", "/a/../b", "/\\evil", "/v1", "x", "/a%0d", "/", "/a, /..", ""
     ))],
)  # fmt: skip
def test_a_proxy_may_say_what_no_option_says(said: str, prefix: str) -> None:
    name = public_name(proxies=["127.0.0.1"])
    for path, below in (("/login", "/login"), (f"{prefix}/x", "/x")):
        came = _came(("X-Forwarded-Prefix", said), path=path, name=name)
        assert (came.path, came.root_path) == (below, prefix)


def test_without_a_public_url_any_other_name_is_the_proxys() -> None:
    name = public_name(root_path="/vlm", hosts=["hub.corp"])
    assert _came(path="/login", host="hub.corp", name=name).root_path == "/vlm"
    assert _came(path="/login", host="localhost:1", name=name).root_path == ""


# Laws over whatever a request may say.
_HOSTS = st.sampled_from(
    ["localhost", "127.0.0.1:7860", "llava.corp", "LLAVA.corp:443", "host.docker.internal:7860",
     "evil.example", "llava.corp.evil.example", "llava.corp@evil.example", "localhost,evil.example",
     "", "10.0.0.5", "[::1]", "llava.corp:x"]
)  # fmt: skip
_ORIGINS = st.sampled_from(
    ["https://llava.corp", "http://llava.corp", "https://chat.corp", "http://chat.corp", "null",
     "https://evil.example", "http://localhost", "http://127.0.0.1:7860",
     "https://llava.corp.evil.example"]
)  # fmt: skip
_WORDS = st.one_of(
    st.tuples(st.just("x-forwarded-host"), _HOSTS),
    st.tuples(st.just("x-forwarded-for"), st.sampled_from(["127.0.0.1", "6.6.6.6", "10.0.0.1, x"])),
    st.tuples(st.just("x-forwarded-proto"), st.sampled_from(["https", "http", "x"])),
    st.tuples(st.just("x-forwarded-prefix"), st.sampled_from(["/vlm", "/a", "//evil", "/v1"])),
    st.tuples(
        st.just("forwarded"), st.sampled_from(["host=llava.corp;for=127.0.0.1", "for=6.6.6.6"])
    ),
)
_PEERS = st.sampled_from(
    ["127.0.0.1", "10.1.2.3", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8::1", None]
)


@given(peer=_PEERS, host=_HOSTS, words=st.lists(_WORDS, max_size=4), path=st.sampled_from(
    ["/", "/login", "/vlm/login", "/vlm", "/vlm/vlm/login", "/a/login"]
))  # fmt: skip
def test_of_who_is_not_listed_no_word_counts(
    peer: str | None, host: str, words: list[tuple[str, str]], path: str
) -> None:
    unlisted = peer in {"192.0.2.7", None}
    with_words = _came(*words, peer=peer, host=host, path=path)
    without = _came(peer=peer, host=host, path=path)
    assert not unlisted or with_words == without


def _judged(peer: str | None, host: str, headers: list[tuple[str, str]], method: str) -> str:
    """Rule on a request with the right key, as the gateway does."""
    came = _came(*headers, peer=peer, host=host)
    asked: dict[str, str] = {**dict(headers), "host": came.host, "authorization": "Bearer t"}
    policy = AccessPolicy(secrets=("t",), name=_NAME)
    request = AccessRequest(path=came.path, method=method, headers=asked, upstream_host=host)
    return policy.judge(request, {}, 0).verdict


_CASES: dict[str, Any] = {
    "peer": _PEERS, "host": _HOSTS, "words": st.lists(_WORDS, max_size=4),
    "origin": st.none() | _ORIGINS, "method": st.sampled_from(["GET", "POST", "OPTIONS"]),
    "preflight": st.booleans(),
}  # fmt: skip
_OURS = {"localhost", "127.0.0.1", "[::1]", "llava.corp", "host.docker.internal"}


@given(**_CASES)
def test_no_unlisted_host_or_origin_passes(
    peer: str | None, host: str, words: list[tuple[str, str]], origin: str | None, method: str,
    preflight: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    headers = [*words, *([("origin", origin)] if origin else [])]
    headers += [("access-control-request-method", "POST")] if preflight else []
    verdict = _judged(peer, host, headers, method)
    if verdict in {"allowed", "preflight"}:
        assert host.lower().removesuffix(":7860").removesuffix(":443") in _OURS
        asked_for = _came(*headers, peer=peer, host=host).host.lower()
        assert asked_for.removesuffix(":7860").removesuffix(":443") in _OURS
        listed = {"https://llava.corp", "https://chat.corp"}
        assert origin is None or origin in {*listed, f"http://{asked_for}", f"https://{asked_for}"}
    assert (verdict == "preflight") <= (method == "OPTIONS" and origin == "https://chat.corp")


def test_both_names_of_a_proxied_request_must_be_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was rebound to a tunnel's end comes from a listed address, too."""
    forged = [("x-forwarded-host", "llava.corp"), ("origin", "https://llava.corp")]
    assert _judged("127.0.0.1", "evil.example", forged, "GET") == "wrong-host"
    assert _judged("127.0.0.1", "localhost", forged, "GET") == "allowed"
    other = [("x-forwarded-host", "evil.example")]
    assert _judged("127.0.0.1", "localhost", other, "GET") == "wrong-host"
    monkeypatch.setattr(access.AccessPolicy, "_ours", lambda *_: True)
    assert _judged("127.0.0.1", "evil.example", forged, "GET") == "allowed"


def test_headers_are_bytes_as_they_came() -> None:
    headers: Headers = [(b"host", b"\xff"), (b"x-forwarded-host", b"\xfe\xff")]
    came = arrival(_NAME, peer="127.0.0.1", scheme="http", headers=headers, path="/")
    assert came.host.encode("latin-1") == b"\xfe\xff"
