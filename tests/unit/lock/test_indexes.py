from llava_pack.lock.indexes import Indexes, configured_indexes, parse_pip_config


def test_variables_win_over_files():
    text = ":env:.find-links='/from-variable'\nglobal.find-links='/from-file'\n"
    assert parse_pip_config(text) == {"find-links": "/from-variable"}


def test_find_links_of_pip_reach_uv(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    indexes = configured_indexes()
    assert indexes.arguments()[:2] == ["--find-links", str(tmp_path)]
    assert indexes.local_folders() == (tmp_path,)


def test_uvs_own_index_is_left_alone(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    assert configured_indexes().index_url is None
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    assert configured_indexes().index_url == "https://pip.example/simple"


def test_pages_of_links_are_no_local_folders(tmp_path):
    places = ("https://host/links.html", tmp_path.as_uri(), str(tmp_path / "absent"))
    assert Indexes(find_links=places).local_folders() == (tmp_path,)


def test_more_of_pips_indexes_reach_uv_and_the_best_version_wins(monkeypatch):
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
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
    assert "secret" not in " ".join(indexes.arguments())


def test_where_uv_has_indexes_pips_are_left_out(monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://b.example")
    monkeypatch.setenv("UV_INDEX", "https://uv.example/simple")
    assert "UV_INDEX" not in configured_indexes().environment


def test_no_index_of_pip_is_kept(monkeypatch):
    assert "--no-index" not in configured_indexes().arguments()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "--no-index" in configured_indexes().arguments()
