"""What stands in between is named for what it is, by the Hub's client, the downloader and uv."""

import gc

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import Patience, RemoteFile, Sha256, download_all
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.modelscope import ModelScopeSource
from llava_pack.fetch.pieces import Span, remote_pieces
from llava_pack.format.errors import AccessError, FetchError, NetworkError
from llava_pack.lock.indexes import configured_indexes
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.resolve import resolve
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.index import LoopbackIndex
from tests.support.lone_settings import forget_settings
from tests.support.loopback import Answer, Asked, Loopback
from tests.support.modelscope import LoopbackModelScope
from tests.support.proxies import HttpProxy, SocksProxy
from tests.support.wheels import write_wheel

HERE = parse_platform("x86_64-manylinux_2_28", "3.11")
REPO = "owner/model"
LOGIN = b'<html><head><title>Sign in &amp; surf</title></head><input type="password"></html>'
BLOCKED = b"<!DOCTYPE html><title>\n Access  Denied </title>Policy: executables</html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
QUICK = Patience(attempts=2, backoff_s=0.0)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Leave only what a test says, and an empty cache for uv."""
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


class Between(Loopback):
    """What answers in place of every host: a portal, a filter, a proxy that wants a password."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def respond(self, asked: Asked) -> Answer:
        if self.kind == "blocked":
            return Answer(status=403, body=BLOCKED, headers=HTML)
        if self.kind == "replaced":
            return Answer(body=BLOCKED, headers=HTML)
        if self.kind == "rfc6585":
            return Answer(status=511, body=LOGIN, headers=HTML)
        if self.kind == "password":
            return Answer(status=407, body=BLOCKED, headers=HTML)
        if asked.path == "/login":
            return Answer(body=LOGIN, headers=HTML)
        here = self.url.replace("127.0.0.1", "localhost")
        return Answer(
            status=302, body=b"<html>moved</html>", headers={**HTML, "Location": f"{here}/login"}
        )


def hub(url, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", url)
    HubSource(repo_id=REPO).list()


def modelscope(url, monkeypatch, tmp_path):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
    ModelScopeSource(repo_id=REPO).list()


def downloader(url, monkeypatch, tmp_path):
    wheel = RemoteFile(url=f"{url}/a-1.0.whl", name="a-1.0.whl", digest=Sha256("0" * 64))
    download_all([wheel], Cache(tmp_path / "cache"), patience=QUICK)


def uv(url, monkeypatch, tmp_path):
    resolve(["small-one"], HERE, configured_indexes(mirror=f"{url}/simple"))


ASKED = pytest.mark.parametrize("ask", [hub, modelscope, downloader, uv])


@ASKED
@pytest.mark.parametrize(
    ("kind", "expected", "said", "hint"),
    [
        ("portal", NetworkError, "web page 'Sign in & surf' of localhost came", "log in to this"),
        ("rfc6585", NetworkError, "'Sign in & surf'.*wants a login", "log in to this network"),
        ("blocked", NetworkError, "answered 403 with a web page 'Access Denied'", "--mirror"),
        ("replaced", NetworkError, "answered 200 with a web page 'Access Denied'", "--mirror"),
        ("password", AccessError, r"wants a user and a password \(407\)", "NTLM"),
    ],
)
def test_what_answers_in_place_of_a_host(ask, kind, expected, said, hint, monkeypatch, tmp_path):
    with Between(kind) as between:
        with pytest.raises(expected, match=said) as caught:
            ask(between.url, monkeypatch, tmp_path)
        assert hint in caught.value.hint


@ASKED
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("proxy_kind", [HttpProxy, SocksProxy])
@pytest.mark.parametrize("login", ["", "me:wrong"])
def test_a_proxy_that_refuses_a_login(ask, proxy_kind, login, monkeypatch, tmp_path):
    with proxy_kind(login="me:right") as proxy:
        monkeypatch.setenv("https_proxy", proxy.url(login))
        said = "refuses the user and password in" if login else "of https_proxy wants a user"
        with pytest.raises(AccessError, match=said) as caught:
            ask("https://hub.invalid", monkeypatch, tmp_path)
        assert "wrong" not in str(caught.value)
        assert proxy.asked == []
    del caught
    gc.collect()  # httpcore leaves the socket of a SOCKS proxy that refuses to the collector


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ask", [hub, modelscope, downloader])
def test_a_proxy_that_knows_no_socks(ask, monkeypatch, tmp_path):
    class Web(SocksProxy):
        def talk(self, client):
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Web() as web:
        monkeypatch.setenv("ALL_PROXY", web.url())
        with pytest.raises(NetworkError, match="does not answer as a SOCKS proxy does") as caught:
            ask("https://hub.invalid", monkeypatch, tmp_path)
    del caught
    gc.collect()


def test_wheels_that_a_filter_replaces_on_their_way_to_uv(monkeypatch, tmp_path):
    class Filtered(LoopbackIndex):
        def respond(self, asked: Asked) -> Answer:
            if ".whl" in asked.path:
                return Answer(status=status, body=BLOCKED, headers=HTML)
            return super().respond(asked)

    write_wheel(tmp_path, "small_one", "2.0")
    for status in (200, 403):
        with Filtered([tmp_path]) as index:
            monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / f"uv-{status}"))
            with pytest.raises(NetworkError, match=rf"answered {status} with a web page") as caught:
                resolve(["small-one"], HERE, configured_indexes(mirror=index.simple_url))
            assert caught.value.subject.endswith(".whl")


def test_a_page_that_was_asked_for_is_no_obstacle(tmp_path):
    page = b"<html><title>Model</title></html>"

    class Pages(Loopback):
        def respond(self, asked: Asked) -> Answer:
            return Answer(body=page, headers=HTML)

    with Pages() as site:
        sized = RemoteFile(url=f"{site.url}/README", name="README", size_bytes=len(page))
        named = RemoteFile(url=f"{site.url}/a.html", name="a.html")
        got = download_all([sized, named], Cache(tmp_path / "cache"), patience=QUICK)
    assert {one.path.read_bytes() for one in got.values()} == {page}


def test_a_piece_of_a_weight_file_is_never_a_page(tmp_path):
    with Between("replaced") as between:
        file = RemoteFile(url=f"{between.url}/w", name="w", size_bytes=9, digest=Sha256("0" * 64))
        assert remote_pieces({"w": file}, [Span("w", 0, 4)], Cache(tmp_path / "cache")) == {}


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return {REPO: RepoSpec(folder=folder)}


@pytest.mark.parametrize("statuses", [[429], [503, 502], [429, 500, 504]])
def test_a_busy_listing_is_asked_again(repo, statuses, monkeypatch, slept):
    with LoopbackHub(repo) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        site.fault("/revision/main", statuses=list(statuses))
        assert HubSource(repo_id=REPO).list().files
    assert slept == [0.5, 1.0, 2.0][: len(statuses)]
    with LoopbackModelScope(repo) as site:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
        site.fault("/repo/files", statuses=list(statuses))
        assert ModelScopeSource(repo_id=REPO).list().files


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [({"Retry-After": "7"}, 7.0), ({"RateLimit": '"api";r=0;t=55'}, 55.0)],
)
def test_a_listing_waits_as_long_as_it_is_asked_to(repo, headers, pause_s, monkeypatch, slept):
    with LoopbackHub(repo) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        site.fault("/revision/main", statuses=[429], headers=headers)
        assert HubSource(repo_id=REPO).list().files
    assert slept == [pause_s]


def test_a_listing_that_stays_busy_is_given_up(repo, monkeypatch, slept):
    with LoopbackHub(repo) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        site.fault("/revision/main", statuses=[503] * 9)
        with pytest.raises(FetchError, match="answered 503"):
            HubSource(repo_id=REPO).list()
        assert len(site.asked) == Patience().attempts


def test_uv_asks_a_busy_index_again(monkeypatch, tmp_path):
    monkeypatch.delenv("UV_HTTP_RETRIES")
    write_wheel(tmp_path, "small_one", "2.0")
    with LoopbackIndex([tmp_path]) as index:
        index.fault("/small-one/", statuses=[429, 503])
        assert resolve(["small-one"], HERE, configured_indexes(mirror=index.simple_url))


@pytest.fixture
def slept(monkeypatch):
    """Pauses between tries, which are noted and left out."""
    pauses: list[float] = []
    monkeypatch.setattr("llava_pack.fetch.patience.time.sleep", pauses.append)
    return pauses
