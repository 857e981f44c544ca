from llava_pack.fetch.credentials import Credentials
from llava_pack.lock.indexes import Indexes

URL = "https://index.example/files/a-1-py3-none-any.whl"
ME = {"Authorization": "Basic bWU6c2VjcmV0"}


def headers(*urls, url=URL, keyring=False, **environ):
    environ.setdefault("NETRC", "/nonexistent")
    return Credentials(Indexes(urls=urls, keyring=keyring), environ).headers(url)


def test_netrc_is_asked_for_the_host_of_the_file(tmp_path):
    file = tmp_path / "netrc"
    file.write_text("machine index.example login me password secret\n")
    assert headers(NETRC=str(file)) == ME
    assert headers(url="https://other.example/a.whl", NETRC=str(file)) == {}
    assert headers("https://me@index.example/simple", NETRC=str(file)) == ME


def test_the_url_of_an_index_wins_and_serves_its_own_origin_only():
    index = "https://u:p%40@index.example/simple"
    assert headers("https://x.example", index) == {"Authorization": "Basic dTpwQA=="}
    assert headers(index, url=URL.replace("https", "http")) == {}
    assert headers(index, url=URL.replace(".example", ".example:8443")) == {}


def test_files_of_this_machine_need_none(tmp_path):
    assert headers(url=(tmp_path / "a.whl").as_uri(), NETRC=str(tmp_path)) == {}


def test_a_keyring_is_asked_once_and_only_where_somebody_allowed_it(tmp_path, monkeypatch):
    program, log = tmp_path / "keyring", tmp_path / "log"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\n[ "$2" = index.example ] && echo secret || exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    index = "https://me@index.example/simple/"
    assert headers(index) != ME
    assert not log.exists()
    asked = Credentials(Indexes(urls=(index,), keyring=True), {"NETRC": "/nonexistent"})
    assert asked.headers(URL) == asked.headers(URL.replace("a-1", "b-1")) == ME
    said = log.read_text().splitlines()
    assert said == ["get https://index.example/simple/ me", "get index.example me"]
