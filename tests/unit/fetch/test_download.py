"""What `download_all` gives, keeps and refuses, over real sockets."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import GitBlob, Patience, RemoteFile, Sha256, download_all
from llava_pack.format.errors import (
    AccessError,
    FetchError,
    IntegrityError,
    NetworkError,
    UsageError,
)
from tests.support.loopback import Answer, Asked, Loopback

QUICK = Patience(attempts=3, backoff_s=0.0, connect_s=60.0, read_s=60.0)
DATA = bytes(range(256)) * 3000


class Files(Loopback):
    """Serves bytes by path, with an ETag."""

    def __init__(
        self,
        held: dict[str, bytes],
        redirects: dict[str, str] | None = None,
        tls: Path | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.held = held
        self.redirects = redirects or {}

    def respond(self, asked: Asked) -> Answer:
        if location := self.redirects.get(asked.path):
            return Answer(status=302, headers={"Location": location})
        if (data := self.held.get(asked.path)) is None:
            return Answer(status=404)
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        return Answer(body=data, headers={"ETag": etag}, ranged=True)


class Counted:
    """A Progress that adds up."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.size_bytes = 0
        self.ended = 0

    def start(self, what: str, total_bytes: int | None) -> None:
        self.phases.append((what, total_bytes))

    def advance(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def done(self) -> None:
        self.ended += 1


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def sha256(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def git_blob(data: bytes) -> GitBlob:
    return GitBlob(
        hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
    )


def wanted(server: Loopback, path: str, data: bytes) -> RemoteFile:
    return RemoteFile(
        url=server.url + path, name=path.strip("/"), size_bytes=len(data), digest=sha256(data)
    )


def test_many_files_come_in_parallel_and_once(cache: Cache) -> None:
    held = {f"/f{n}.bin": DATA + bytes([n]) for n in range(20)}
    with Files(held) as server:
        files = [wanted(server, path, data) for path, data in held.items()]
        progress = Counted()
        got = download_all(files, cache, progress=progress)
        assert [got[f].path.read_bytes() for f in files] == list(held.values())
        assert progress.phases == [("fetch", sum(map(len, held.values())))]
        assert progress.size_bytes == progress.phases[0][1]
        assert progress.ended == 1
        asked = len(server.asked)
        again = Counted()
        assert download_all(files, cache, progress=again) == got
        assert len(server.asked) == asked
        assert again.size_bytes == progress.size_bytes
    assert list(cache.parts.iterdir()) == []


def test_the_same_content_under_two_names_is_fetched_once(cache: Cache) -> None:
    with Files({"/a.bin": DATA, "/b.bin": DATA}) as server:
        files = [wanted(server, path, DATA) for path in server.held]
        got = download_all(files, cache)
        assert sum(server.served.values()) == len(DATA)
    assert {f.path for f in got.values()} == {cache.path(sha256(DATA).hex)}


def test_cached_files_are_read_only_and_named_by_their_digest(cache: Cache) -> None:
    with Files({"/a.bin": DATA}) as server:
        [got] = download_all([wanted(server, "/a.bin", DATA)], cache).values()
    assert got.path.name == got.sha256 == sha256(DATA).hex
    assert got.path.stat().st_mode & 0o777 == 0o444
    assert got.size_bytes == len(DATA)


def test_a_cached_file_that_was_edited_is_fetched_again(cache: Cache) -> None:
    with Files({"/a.bin": DATA}) as server:
        file = wanted(server, "/a.bin", DATA)
        [got] = download_all([file], cache).values()
        got.path.chmod(0o644)
        got.path.write_bytes(DATA[:-1] + b"x")
        [again] = download_all([file], cache).values()
        assert again.path.read_bytes() == DATA
        assert len(server.asked) == 2


def test_a_cached_file_that_was_only_touched_stays(cache: Cache) -> None:
    with Files({"/a.bin": DATA}) as server:
        file = wanted(server, "/a.bin", DATA)
        [got] = download_all([file], cache).values()
        os.utime(got.path, (1, 1))
        assert list(download_all([file], cache).values()) == [got]
        assert len(server.asked) == 1


def test_git_blobs_are_checked_and_found_again(cache: Cache) -> None:
    data = b'{"model_type": "llava"}'
    with Files({"/config.json": data}) as server:
        file = RemoteFile(
            url=f"{server.url}/config.json", name="c", size_bytes=len(data), digest=git_blob(data)
        )
        [got] = download_all([file], cache).values()
        assert got.sha256 == sha256(data).hex
        assert list(download_all([file], cache).values()) == [got]
        assert len(server.asked) == 1


def test_a_file_nobody_vouches_for_is_asked_about_again(cache: Cache) -> None:
    with Files({"/p.tar.gz": DATA}) as server:
        file = RemoteFile(url=f"{server.url}/p.tar.gz", name="p.tar.gz")
        [got] = download_all([file], cache).values()
        assert list(download_all([file], cache).values()) == [got]
        assert server.served["/p.tar.gz"] == len(DATA)
        assert "if-none-match" in server.asked[1].headers
        server.held["/p.tar.gz"] = b"a newer one"
        [newer] = download_all([file], cache).values()
        assert newer.path.read_bytes() == b"a newer one"


def test_file_urls(cache: Cache, tmp_path: Path) -> None:
    wheel = tmp_path / "a wheel+cpu.whl"
    wheel.write_bytes(DATA)
    file = RemoteFile(url=wheel.as_uri(), name=wheel.name, digest=sha256(DATA))
    [got] = download_all([file], cache).values()
    assert got.path.read_bytes() == DATA
    wheel.write_bytes(b"other")
    assert list(download_all([file], cache).values()) == [got]


def test_a_file_url_that_leads_nowhere(cache: Cache, tmp_path: Path) -> None:
    file = RemoteFile(url=(tmp_path / "none.whl").as_uri(), name="none.whl")
    with pytest.raises(FetchError, match=r"none\.whl: cannot be read"):
        download_all([file], cache)


def test_an_empty_file(cache: Cache) -> None:
    with Files({"/empty": b""}) as server:
        file = RemoteFile(url=f"{server.url}/empty", name="e", size_bytes=0, digest=git_blob(b""))
        [got] = download_all([file], cache).values()
    assert got.path.read_bytes() == b""


@pytest.mark.parametrize("digest", [sha256(b"promised"), git_blob(b"promised")])
def test_a_wrong_digest_names_file_expected_and_got(cache: Cache, digest: Sha256 | GitBlob) -> None:
    with Files({"/w.bin": b"received"}) as server:
        file = RemoteFile(
            url=f"{server.url}/w.bin", name="org/model/w.bin", size_bytes=8, digest=digest
        )
        with pytest.raises(IntegrityError) as caught:
            download_all([file], cache)
    right = digest.hex if isinstance(digest, Sha256) else digest.oid
    received = sha256(b"received").hex if isinstance(digest, Sha256) else git_blob(b"received").oid
    assert caught.value.subject == "org/model/w.bin"
    assert f"expected {'sha256' if isinstance(digest, Sha256) else 'git blob'} {right}" in str(
        caught.value
    )
    assert received in str(caught.value)
    assert list(cache.parts.iterdir()) == []
    assert cache.path(sha256(b"received").hex) is None


def test_a_wrong_size_is_refused_before_the_bytes_come(cache: Cache) -> None:
    with Files({"/w.bin": DATA}) as server:
        file = RemoteFile(
            url=f"{server.url}/w.bin", name="w.bin", size_bytes=9, digest=sha256(DATA)
        )
        with pytest.raises(
            IntegrityError, match=f"expected 9 bytes, the source offers {len(DATA)} bytes"
        ):
            download_all([file], cache)
    assert list(cache.parts.iterdir()) == []


def test_a_wrong_size_that_was_not_announced(cache: Cache) -> None:
    with Files({"/w.bin": DATA}) as server:
        server.fault("/w.bin", unsized=True)
        file = RemoteFile(url=f"{server.url}/w.bin", name="w.bin", size_bytes=9)
        with pytest.raises(IntegrityError, match=f"expected 9 bytes, got {len(DATA)} bytes"):
            download_all([file], cache)
    assert list(cache.parts.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_door_that_is_shut(cache: Cache, status: int) -> None:
    with Files({"/w.bin": DATA}) as server:
        server.fault(
            "w.bin", statuses=[status], headers={"X-Error-Message": "Access is restricted."}
        )
        with pytest.raises(AccessError, match="Access is restricted") as caught:
            download_all([wanted(server, "/w.bin", DATA)], cache, patience=QUICK)
        assert len(server.asked) == 1
    assert "HF_TOKEN" in caught.value.hint


def test_what_is_gone_is_not_asked_for_twice(cache: Cache) -> None:
    with Files({}) as server:
        with pytest.raises(FetchError, match="answered 404"):
            download_all([wanted(server, "/w.bin", DATA)], cache, patience=QUICK)
        assert len(server.asked) == 1


def test_an_unreachable_host(cache: Cache) -> None:
    with Files({}) as server:
        url = server.url
    file = RemoteFile(url=f"{url}/w.bin", name="w.bin", size_bytes=3, digest=sha256(b"abc"))
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        download_all([file], cache, patience=QUICK)
    assert "HF_ENDPOINT" in caught.value.hint


def test_a_name_that_does_not_resolve(cache: Cache) -> None:
    file = RemoteFile(url="http://no-such-host.invalid/w.bin", name="w.bin")
    with pytest.raises(NetworkError, match=r"no-such-host\.invalid:80 cannot be reached"):
        download_all([file], cache, patience=QUICK)


def test_a_proxy_of_the_environment_is_asked(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    with Files({"/w.bin": DATA}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        file = RemoteFile(url="http://hub.invalid/w.bin", name="w.bin", digest=sha256(DATA))
        [got] = download_all([file], cache, patience=QUICK).values()
        assert got.size_bytes == len(DATA)
        assert proxy.asked[0].headers["host"] == "hub.invalid"


def test_an_unusable_proxy_setting(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://proxy")
    file = RemoteFile(url="http://hub.invalid/w.bin", name="w.bin")
    with pytest.raises(UsageError, match="HTTP_PROXY: expected a proxy by") as caught:
        download_all([file], cache, patience=QUICK)
    assert "http://proxy.corp:3128" in caught.value.hint


def test_headers_never_follow_a_redirect_to_another_origin(cache: Cache) -> None:
    with Files({"/w.bin": DATA}) as elsewhere:
        away = {"/away": f"{elsewhere.url}/w.bin", "/near": "/w.bin"}
        with Files({"/w.bin": DATA}, away) as server:
            secret = {"Authorization": "Bearer hf_secret", "X-Private": "1"}
            near, far = (
                RemoteFile(url=server.url + path, name=path, headers=secret) for path in away
            )
            download_all([near, far], cache, patience=QUICK)
            assert [a.headers.get("authorization") for a in server.asked] == [
                "Bearer hf_secret"
            ] * 3
    [asked] = elsewhere.asked
    assert not {"authorization", "x-private"} & set(asked.headers)
    assert "hf_secret" not in repr(near)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=loopback"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"])
def test_a_bundle_of_certificates_from_the_environment(
    cache: Cache, pem: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(pem.with_name("cert.pem")))
    with Files({"/w.bin": DATA}, tls=pem) as server:
        [got] = download_all([wanted(server, "/w.bin", DATA)], cache, patience=QUICK).values()
    assert got.path.read_bytes() == DATA


def test_a_certificate_that_nobody_vouches_for(cache: Cache, pem: Path) -> None:
    with Files({"/w.bin": DATA}, tls=pem) as server:
        with pytest.raises(NetworkError, match=r"certificate of .* is not trusted") as caught:
            download_all([wanted(server, "/w.bin", DATA)], cache, patience=QUICK)
        assert server.asked == []
    assert "SSL_CERT_FILE" in caught.value.hint


def test_a_redirect_out_of_tls_needs_a_digest(
    cache: Cache, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pem.with_name("cert.pem")))
    with (
        Files({"/w.bin": DATA}) as bare,
        Files({}, {"/w.bin": f"{bare.url}/w.bin"}, tls=pem) as server,
    ):
        with pytest.raises(FetchError, match="refused a redirect from https"):
            download_all([RemoteFile(url=f"{server.url}/w.bin", name="w")], cache, patience=QUICK)
        assert bare.asked == []
        [got] = download_all([wanted(server, "/w.bin", DATA)], cache, patience=QUICK).values()
        assert got.path.read_bytes() == DATA


def test_redirects_end(cache: Cache) -> None:
    with Files({}, {"/a": "/b", "/b": "/a"}) as server:
        file = RemoteFile(url=f"{server.url}/a", name="a")
        with pytest.raises(FetchError, match="more than 10 redirects"):
            download_all([file], cache, patience=QUICK)


@pytest.mark.parametrize("url", ["ftp://host/x", "http://host:port/x"])
def test_urls_of_no_use(cache: Cache, url: str) -> None:
    with pytest.raises(FetchError, match="not a URL that can be fetched"):
        download_all([RemoteFile(url=url, name="x")], cache, patience=QUICK)


def test_messages_show_no_password(cache: Cache) -> None:
    with Files({}) as server:
        url = server.url.replace("http://", "http://me:hunter2@") + "/w.bin?signature=abc"
        with pytest.raises(FetchError) as caught:
            download_all([RemoteFile(url=url, name="w.bin")], cache, patience=QUICK)
        assert server.asked[0].headers["authorization"].startswith("Basic ")
    assert "hunter2" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("bad", ["", "../../x", "A" * 64, "a" * 63])
def test_a_digest_is_a_digest(bad: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        Sha256(bad)
    with pytest.raises(ValueError, match="not a"):
        GitBlob(bad)
