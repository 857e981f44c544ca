from llava_pack.fetch.credentials import index_headers

URL = "https://index.example/files/a-1-py3-none-any.whl"


def test_netrc_is_asked_for_the_host_of_the_file(tmp_path):
    file = tmp_path / "netrc"
    file.write_text("machine index.example login me password secret\n")
    environ = {"NETRC": str(file)}
    assert index_headers(URL, environ) == {"Authorization": "Basic bWU6c2VjcmV0"}
    assert index_headers("https://other.example/a.whl", environ) == {}


def test_the_url_of_an_index_wins_and_serves_its_own_origin_only(tmp_path):
    environ = {"PIP_EXTRA_INDEX_URL": "https://x.example https://u:p%40@index.example/simple"}
    environ["NETRC"] = str(tmp_path / "absent")
    assert index_headers(URL, environ) == {"Authorization": "Basic dTpwQA=="}
    assert index_headers(URL.replace("https", "http"), environ) == {}
    assert index_headers(URL.replace(".example", ".example:8443"), environ) == {}


def test_files_of_this_machine_need_none(tmp_path):
    assert index_headers((tmp_path / "a.whl").as_uri(), {"NETRC": str(tmp_path)}) == {}
