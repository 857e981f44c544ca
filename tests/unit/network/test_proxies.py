"""One rule says through which proxy an address is asked; what cannot be understood is refused."""

import ipaddress
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.format.errors import UsageError
from llava_pack.network.proxies import read_proxies

PROXY = "http://proxy.corp:3128"
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,9}(\.[a-z][a-z0-9]{0,9}){0,2}", fullmatch=True)
LOGINS = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable())


def direct(no_proxy, url):
    rule = read_proxies({"ALL_PROXY": PROXY, "no_proxy": no_proxy})
    return rule.proxy_for(url) is None


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("fd00::/8", "http://[fd12::1]:8000/", "http://[fe80::1]/"),
        ("[fd00::]/8", "https://[fd12::1]/", "https://[fe80::1]/"),
        ("::1", "http://[::1]:9/", "http://[::2]/"),
        ("[::1]", "http://[::1]:9/", "http://[::2]/"),
        ("[::1]:8080", "http://[::1]:8080/", "http://[::1]/"),
        ("10.0.0.0/8", "https://10.1.2.3/", "https://11.1.2.3/"),
        ("10.1.2.3/8", "https://10.9.9.9/", "https://11.1.2.3/"),
        ("10.1.*", "https://10.1.2.3/", "https://10.2.2.3/"),
        ("corp", "https://hub.corp/", "https://notcorp/"),
        (".corp", "https://corp/", "https://a.corp.example/"),
        ("*.corp", "https://a.b.corp/", "https://corpa/"),
        ("hub.corp.", "https://hub.corp/", "https://hub.corp.example/"),
        ("Hub.Corp", "https://HUB.corp./", "https://hub/"),
        ("hub.corp:8443", "https://hub.corp:8443/", "https://hub.corp/"),
        ("https://hub.corp", "https://hub.corp/", "https://hub/"),
        ("a.corp,  b.corp", "https://b.corp/", "https://c.corp/"),
        ("a.corp b.corp", "https://b.corp/", "https://c.corp/"),
    ],
)
def test_what_goes_without_a_proxy(entry, inside, outside):
    assert direct(entry, inside)
    assert not direct(entry, outside)


def test_a_star_switches_every_proxy_off():
    assert direct("*", "https://anything.example/")


def test_the_lower_case_goes_first_and_can_switch_off():
    both = {"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:2", "ALL_PROXY": "socks5://c:3"}
    rule = read_proxies(both)
    assert rule.proxy_for("http://x/").address == "http://a:1"
    assert rule.proxy_for("https://x/").address == "socks5h://c:3"
    assert read_proxies({"https_proxy": "", "HTTPS_PROXY": PROXY}).https is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("proxy.corp:3128", "http://proxy.corp:3128"),
        ("HTTP://proxy.corp/", "http://proxy.corp:80"),
        ("socks5://127.0.0.1", "socks5h://127.0.0.1:1080"),
        ("socks://127.0.0.1:1080/", "socks5h://127.0.0.1:1080"),
        ("http://[::1]:3128", "http://[::1]:3128"),
    ],
)
def test_ways_to_write_a_proxy(text, address):
    assert read_proxies({"HTTPS_PROXY": text}).https.address == address


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HTTP_PROXY", "gopher://proxy"),
        ("https_proxy", "http://"),
        ("HTTPS_PROXY", "http://proxy:port"),
        ("HTTPS_PROXY", "http://proxy:70000"),
        ("ALL_PROXY", "socks4://proxy"),
        ("HTTP_PROXY", "http://me:p#ss@proxy:3128"),
        ("HTTP_PROXY", "http://me:p/ss@proxy:3128"),
        ("HTTP_PROXY", "http://proxy:3128/path"),
        ("HTTP_PROXY", "http://[::1:3128"),
        ("no_proxy", "10.0.0.0/33"),
        ("NO_PROXY", "[::1"),
        ("NO_PROXY", "fd00::/200"),
        ("NO_PROXY", "a_b/c"),
    ],
)
def test_what_cannot_be_understood_names_its_variable_and_no_secret(variable, text):
    with pytest.raises(UsageError) as caught:
        read_proxies({"ALL_PROXY": PROXY, variable: text})
    assert caught.value.subject == variable
    assert caught.value.hint
    assert "ss@" not in str(caught.value)


@given(user=LOGINS, password=LOGINS, host=NAMES, port=st.integers(1, 65535))
@example(user="0", password="0", host="a-", port=1)
@example(user="CORP\\me", password="p@ss:word#/?%", host="proxy", port=3128)
def test_what_uv_is_told_is_read_back_as_the_same_proxy(user, password, host, port):
    text = f"http://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}"
    read = read_proxies({"HTTPS_PROXY": text})
    assert (read.https.user, read.https.password) == (user, password)
    assert read_proxies(read.variables()).https == read.https
    assert "password" not in repr(read)


@given(
    network=st.ip_addresses().flatmap(
        lambda address: st.integers(0, address.max_prefixlen).map(
            lambda prefix: ipaddress.ip_network((address, prefix), strict=False)
        )
    ),
    address=st.ip_addresses(),
)
def test_a_network_has_exactly_its_addresses(network, address):
    host = f"[{address}]" if address.version == 6 else str(address)
    assert direct(str(network), f"https://{host}/") == (address in network)


@given(entries=st.lists(NAMES | st.ip_addresses().map(str), max_size=4), host=NAMES)
def test_what_uv_is_told_of_exceptions_means_the_same(entries, host):
    rule = read_proxies({"ALL_PROXY": PROXY, "NO_PROXY": ",".join(entries)})
    again = read_proxies(rule.variables())
    url = f"https://{host}/"
    assert (rule.proxy_for(url) is None) == (again.proxy_for(url) is None)


@given(st.text(max_size=30))
@example("http://[")
@example("://")
@example("a@b@[::1]:3")
def test_any_text_is_a_proxy_or_is_refused(text):
    for variable in ("HTTP_PROXY", "NO_PROXY"):
        with suppress(UsageError):
            read_proxies({variable: text})


def test_where_no_variable_says_anything_the_systems_settings_count():
    system = {"http": "http://a:1", "https": "http://b:2"}
    assert read_proxies({}, system).proxy_for("https://x/").address == "http://b:2"
    assert read_proxies({"ALL_PROXY": PROXY}, system).http.address == PROXY
