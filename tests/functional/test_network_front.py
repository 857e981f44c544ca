"""The Hub's client, the downloader and uv reach the world in one way, over real proxies and TLS."""

from urllib.parse import urlsplit

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.hub import HubSource
from llava_pack.format.errors import NetworkError, UsageError
from llava_pack.lock.indexes import configured_indexes
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.resolve import resolve
from llava_pack.network.trust import VARIABLES
from tests.support.authority import make_authority
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.index import LoopbackIndex
from tests.support.lone_settings import forget_settings
from tests.support.proxies import HttpProxy, SocksProxy
from tests.support.wheels import write_wheel

HERE = parse_platform("x86_64-manylinux_2_28", "3.11")
REPO = "owner/model"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Leave only what a test says, and an empty cache for uv."""
    forget_settings(monkeypatch, tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def sites(tmp_path_factory, authority):
    """A Hub and an index over TLS, by names that only a proxy can resolve."""
    repo = tmp_path_factory.mktemp("repo")
    (repo / "config.json").write_text("{}")
    (repo / "model.bin").write_bytes(bytes(5000))
    wheels = tmp_path_factory.mktemp("wheels")
    write_wheel(wheels, "small_one", "2.0")
    pem = authority.server("DNS:hub.corp", "DNS:index.corp", "IP:127.0.0.1")
    with (
        LoopbackHub({REPO: RepoSpec(folder=repo)}, tls=pem) as hub,
        LoopbackIndex([wheels], tls=pem) as index,
    ):
        yield hub, index


def places(sites):
    """Return where the names lead."""
    named = zip(("hub.corp", "index.corp"), sites, strict=True)
    return {name: ("127.0.0.1", urlsplit(site.url).port or 0) for name, site in named}


def build(tmp_path):
    """List and fetch a model, resolve packages and fetch them."""
    listing = HubSource(repo_id=REPO).list()
    listing.fetch(["*"], Cache(tmp_path / "cache"), tmp_path / "model")
    return resolve(["small-one"], HERE, configured_indexes(mirror="https://index.corp/simple"))


@pytest.mark.parametrize("kind", [HttpProxy, SocksProxy])
@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_all_of_them_follow_one_proxy_and_one_authority(
    sites, authority, tmp_path, monkeypatch, kind, variable
):
    folder = variable == "SSL_CERT_DIR"
    monkeypatch.setenv(variable, str(authority.hashed if folder else authority.root))
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.corp")
    with kind(login="me:p@ss/#1", names=places(sites)) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url("me:p%40ss%2F%231"))
        monkeypatch.setenv("NO_PROXY", "[fd00::]/8, ::1, 10.*, .lan")
        [wheel] = build(tmp_path)
    assert wheel.name == "small-one"
    assert (tmp_path / "model" / "model.bin").stat().st_size == 5000
    assert set(proxy.asked) >= {"hub.corp:443", "index.corp:443"}


@pytest.mark.parametrize("entry", ["127.0.0.0/8", "[::1], 127.0.0.1", "127.*"])
def test_all_of_them_leave_the_proxy_out_alike(sites, authority, tmp_path, monkeypatch, entry):
    hub, index = sites
    monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.root))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with HttpProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        monkeypatch.setenv("no_proxy", entry)
        HubSource(repo_id=REPO).list().fetch(["*"], Cache(tmp_path / "c"), tmp_path / "model")
        assert resolve(["small-one"], HERE, configured_indexes(mirror=index.simple_url))
    assert proxy.asked == []


def test_none_of_them_believes_a_stranger(sites, authority, tmp_path, monkeypatch):
    hub, index = sites
    stranger = make_authority(tmp_path / "stranger", "Stranger")
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger.root))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.root))  # comes later, so is not asked
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with pytest.raises(NetworkError, match=r"certificate of .* is not trusted"):
        HubSource(repo_id=REPO).list()
    with pytest.raises(NetworkError, match=r"certificate of .* is not trusted"):
        resolve(["small-one"], HERE, configured_indexes(mirror=index.simple_url))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "gopher://proxy"), ("no_proxy", "10.0.0.0/33"), ("SSL_CERT_FILE", "absent")],
)
def test_all_of_them_refuse_a_setting_by_its_name(sites, monkeypatch, variable, value):
    hub, index = sites
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for act in (
        lambda: HubSource(repo_id=REPO).list(),
        lambda: resolve(["small-one"], HERE, configured_indexes(mirror=index.simple_url)),
    ):
        with pytest.raises(UsageError) as caught:
            act()
        assert caught.value.subject == variable
