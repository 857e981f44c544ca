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
