"""What pip and uv are told reaches both the resolver and the downloader."""

from pathlib import Path

import pytest

from llava_pack.lock.configuration import parse_pip_config, uv_indexes
from llava_pack.lock.indexes import Indexes, configured_indexes
from llava_pack.network.trust import VARIABLES


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Leave only what a test says."""
    import os

    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "shared"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pip_conf(monkeypatch, tmp_path):
    def write(text):
        file = tmp_path / "pip.conf"
        file.write_text(text)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(file))

    return write


def uv_toml(folder: Path, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "uv.toml").write_text(text)


def test_variables_win_over_files():
    text = ":env:.find-links='/from-variable'\nglobal.find-links='/from-file'\n"
    assert parse_pip_config(text) == {"find-links": "/from-variable"}


def test_a_command_of_pips_wins_over_global_and_others_do_not_count():
    text = "download.proxy='a'\nfreeze.proxy='b'\nglobal.proxy='c'\nlist.cert='d'\n"
    assert parse_pip_config(text) == {"proxy": "a"}


def test_find_links_of_pip_reach_uv(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    indexes = configured_indexes()
    assert indexes.arguments()[:2] == ["--find-links", str(tmp_path)]
    assert indexes.local_folders() == (tmp_path,)


def test_uvs_own_index_is_left_alone(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    assert "UV_DEFAULT_INDEX" not in configured_indexes().environment
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    assert configured_indexes().environment["UV_DEFAULT_INDEX"] == "https://pip.example/simple"


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("config/uv", '[[index]]\nurl = "https://uv.example/simple"\ndefault = true\n'),
        ("shared/uv", 'index-url = "https://uv.example/simple"\n'),
        (".", '[pip]\nindex-url = "https://uv.example/simple"\n'),
    ],
)
def test_an_index_in_uvs_files_is_left_alone_too(tmp_path, pip_conf, place, text):
    pip_conf("[global]\nindex-url = https://pip.example/simple\n")
    assert "UV_DEFAULT_INDEX" in configured_indexes().environment
    uv_toml(tmp_path / place, text)
    indexes = configured_indexes()
    assert "UV_DEFAULT_INDEX" not in indexes.environment
    assert "https://uv.example/simple" in indexes.urls


def test_uvs_files_are_found_as_uv_finds_them(tmp_path):
    uv_toml(tmp_path / "config" / "uv", '[[index]]\nurl = "https://user.example"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nindex-url = "https://project.example"\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CONFIG_DIRS": ""}
    below = tmp_path / "src"
    below.mkdir()
    found = [one["url"] for one in uv_indexes(environ, below)]
    assert found[:2] == ["https://project.example", "https://user.example"]
    assert uv_indexes({**environ, "UV_NO_CONFIG": "1"}, below) == ()
    uv_toml(tmp_path / "own", 'extra-index-url = ["https://own.example"]\n')
    environ["UV_CONFIG_FILE"] = str(tmp_path / "own" / "uv.toml")
    assert [one["url"] for one in uv_indexes(environ, below)] == ["https://own.example"]


def test_without_any_pip_the_variables_still_count(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    assert configured_indexes().environment["UV_DEFAULT_INDEX"] == "https://pip.example/simple"


def test_pages_of_links_are_no_local_folders(tmp_path):
    places = ("https://host/links.html", tmp_path.as_uri(), str(tmp_path / "absent"))
    assert Indexes(find_links=places).local_folders() == (tmp_path,)


def test_more_of_pips_indexes_reach_uv_and_the_best_version_wins(monkeypatch):
    monkeypatch.setenv(
        "PIP_EXTRA_INDEX_URL", "https://me:secret@a.example/simple https://b.example"
    )
    monkeypatch.setenv("PIP_TRUSTED_HOST", "a.example")
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", "subprocess")
    indexes = configured_indexes()
    assert indexes.environment["UV_INDEX"].split()[1] == "https://b.example"
    assert indexes.environment["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert indexes.environment["UV_INSECURE_HOST"] == "a.example"
    assert indexes.environment["UV_KEYRING_PROVIDER"] == "subprocess"
    assert indexes.keyring is True
    assert "secret" not in " ".join(indexes.arguments()) + repr(indexes)


def test_where_uv_has_indexes_pips_are_left_out(monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://b.example")
    monkeypatch.setenv("UV_INDEX", "https://uv.example/simple")
    assert "UV_INDEX" not in configured_indexes().environment


def test_no_index_of_pip_is_kept(monkeypatch):
    assert "--no-index" not in configured_indexes().arguments()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "--no-index" in configured_indexes().arguments()


def test_pips_proxy_and_certificates_are_taken_where_there_are_no_others(pip_conf, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    pip_conf("[global]\nproxy = proxy.example:3128\ncert = /own/ca.pem\n")
    found = configured_indexes().environment
    assert found["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert found["PIP_CERT"] == "/own/ca.pem"
    monkeypatch.setenv("https_proxy", "http://another.example:8080")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ca.pem")
    assert configured_indexes().environment == {}


def test_uvs_names_of_indexes_bring_their_passwords(monkeypatch):
    monkeypatch.setenv("UV_INDEX", "in-house=https://a.example/simple")
    monkeypatch.setenv("UV_INDEX_IN_HOUSE_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_IN_HOUSE_PASSWORD", "secret")
    assert configured_indexes().urls == ("https://me:secret@a.example/simple",)
