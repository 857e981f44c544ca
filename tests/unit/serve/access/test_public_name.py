"""A name of its own: what a person may write, and the one spelling that each has behind it."""

from typing import Any

import pytest

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.public_name import (
    NO_NAME,
    PublicName,
    host_name,
    public_name,
    read_root_path,
)
from llava_pack.serve.access.scopes import FIRST_SEGMENTS, route_of


@pytest.mark.parametrize(
    ("url", "spelled", "host", "path", "origin"),
    [
        ("https://llava.corp/vlm", "https://llava.corp/vlm", "llava.corp", "/vlm",
         "https://llava.corp"),
        ("https://LLaVA.corp:443/vlm/", "https://llava.corp/vlm", "llava.corp", "/vlm",
         "https://llava.corp"),
        ("http://gpu01:8080", "http://gpu01:8080", "gpu01", "", "http://gpu01:8080"),
        ("https://hub.corp/user/ann@x.org/proxy/7860/",
         "https://hub.corp/user/ann@x.org/proxy/7860", "hub.corp", "/user/ann@x.org/proxy/7860",
         "https://hub.corp"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]", "[2001:db8::1]", "",
         "http://[2001:db8::1]"),
        ("https://bücher.example/", "https://xn--bcher-kva.example", "xn--bcher-kva.example", "",
         "https://xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_a_public_url_implies_name_path_and_origin(
    url: str, spelled: str, host: str, path: str, origin: str
) -> None:
    name = public_name(public_url=url)
    assert (name.url, name.hosts, name.root_path) == (spelled, frozenset({host}), path)
    assert name.origin == origin
    assert name.secure == url.startswith("https")
    assert not name.origins


@pytest.mark.parametrize(
    "given",
    [
        *({"public_url": text} for text in (
            "llava.corp", "llava.corp/vlm", "ftp://llava.corp", "https://", "https:///vlm",
            "https://a b", "https://u:p@llava.corp", "https://llava.corp?x", "https://llava.corp#x",
            "https://llava.corp:x", "https://llava.corp:0", "https://llava.corp:70000",
            "https://llava.corp/a//b", "https://llava.corp/../x", "https://llava.corp/a%2fb",
            "https://llava.corp\\@evil", "https://llava.corp/v1", "javascript:alert(1)",
        )),
        *({"hosts": [text]} for text in (
            "", "*", "*.corp", "a:80", "http://a", "a/b", "a b", "-a", "a\n", "user@a", "[::1",
            "x" * 300,
        )),
        *({"root_path": text} for text in (
            "/", "vlm", "//vlm", "/vlm//x", "/a/../b", "/./a", "/a?b", "/a#b", "/a%20b", "/a b",
            "/a\\b", "/é", "/a;b", "/v1", "/v1/x", "/login", "/llava", "/page/x",
            "/" + "x" * 300,
        )),
        *({"origins": [text]} for text in (
            "", "null", "chat.corp", "https://", "https://chat.corp/path", "https://a b",
            "https://u@chat.corp", "https://chat.corp:x", "https://*.corp", "//chat.corp",
        )),
        {"origins": ["*", "https://chat.corp"]},
        *({"proxies": [text]} for text in (
            "", "proxy.corp", "10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.256", "UNIX", "*",
        )),
        {"public_url": "https://llava.corp/vlm", "root_path": "/other"},
        {"public_url": "https://llava.corp", "root_path": "/vlm"},
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused_in_words(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        public_name(**given)
    option = {"hosts": "allowed-host", "origins": "allow-origin", "proxies": "trusted-proxy"}
    first = next(iter(given))
    assert f"--{option.get(first, first.replace('_', '-'))}" in str(caught.value)


def test_what_says_the_same_twice_is_no_contradiction() -> None:
    given = public_name(public_url="https://llava.corp/vlm", root_path="/vlm/")
    assert given.root_path == "/vlm"
    assert public_name() == NO_NAME == PublicName()


@pytest.mark.parametrize(
    ("origin", "listed"),
    [
        ("https://chat.corp", True), ("HTTPS://CHAT.CORP", True), ("https://chat.corp:443", False),
        ("http://chat.corp", False), ("https://chat.corp.evil.example", False), ("null", False),
        ("", False), ("*", False), ("app://obsidian.md", True), ("http://localhost:3000", True),
        ("http://localhost:3001", False),
    ],
)  # fmt: skip
def test_an_origin_is_listed_as_a_browser_sends_it(origin: str, listed: bool) -> None:  # noqa: FBT001
    name = public_name(
        origins=["https://chat.corp:443/", "app://obsidian.md", "http://localhost:3000"]
    )
    assert name.lists(origin) is listed
    assert public_name(origins=["*"]).lists(origin) is bool(origin)


def test_no_path_of_ours_begins_as_a_path_that_stands_before_it() -> None:
    """So whether a proxy has taken one away can be told, and it is taken away once."""
    for segment in sorted(FIRST_SEGMENTS):
        with pytest.raises(UsageError, match="begins like a route"):
            read_root_path(f"/{segment}/x", "--root-path")
    path = read_root_path("/vlm", "--root-path")
    assert route_of(path) is route_of(f"{path}/login") is None


@pytest.mark.parametrize(
    ("host", "name"),
    [("a:1", "a"), ("A", "a"), ("a:", "a"), ("[::1]:1", "[::1]"), ("::1", ""), ("a:b:1", ""),
     ("a:1x", ""), ("a:\u0661", ""), ("", "")],
)  # fmt: skip
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name
