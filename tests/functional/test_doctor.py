"""`llava-pack doctor` visits every host of a build, for real, and says what to set."""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from llava_pack.network.certificate import issuer_of
from llava_pack.network.trust import VARIABLES
from tests.support.authority import make_authority
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.index import LoopbackIndex
from tests.support.loopback import Answer, Loopback
from tests.support.proxies import HttpProxy
from tests.support.python_archive import PythonMirror
from tests.support.wheels import write_wheel

REPO = "owner/model"
HTML = {"Content-Type": "text/html"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory, authority):
    repo = tmp_path_factory.mktemp("repo")
    (repo / "config.json").write_text("{}")
    (repo / "model.bin").write_bytes(bytes(3 << 20))
    pem = authority.server("DNS:hub.corp", "IP:127.0.0.1")
    with LoopbackHub({REPO: RepoSpec(folder=repo)}, tls=pem, cdn=True) as site:
        yield site


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    wheels = tmp_path_factory.mktemp("wheels")
    write_wheel(wheels, "tokenizers", "1.0")
    with LoopbackIndex([wheels]) as site:
        yield site


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    archive = tmp_path_factory.mktemp("python") / "cpython-install_only.tar.gz"
    archive.write_bytes(bytes(1 << 20))
    with PythonMirror(archive) as site:
        yield site


@pytest.fixture
def environ(tmp_path, hub, index, python, authority):
    """What the command sees: loopback sites in place of every host."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("PIP_", "UV_")) and name not in VARIABLES
    }
    return {
        **ours,
        "HF_ENDPOINT": hub.url,
        "SSL_CERT_FILE": str(authority.root),
        "UV_DEFAULT_INDEX": index.simple_url,
        "UV_PYTHON_DOWNLOADS_JSON_URL": python.list_url,
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "PIP_CONFIG_FILE": os.devnull,
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


def doctor(environ, tmp_path, *options):
    recipe = "llava-v1.5-7b"
    command = [sys.executable, "-m", "llava_pack", "doctor", recipe, "--cuda", "12"]
    command += ["--model", f"hf:{REPO}", "--tower", f"hf:{REPO}", *options]
    return subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )


def hosts(done):
    fields = json.loads(done.stdout)
    return {errand["what"]: errand["hosts"] for errand in fields["errands"]}, fields["ok"]


def test_every_host_of_a_build_with_where_it_redirects_to(environ, tmp_path, hub):
    done = doctor(environ, tmp_path, "--json")
    found, ok = hosts(done)
    assert (done.returncode, ok) == (0, True), done.stderr
    assert set(found) == {"the Hub", "package index", "CPython"}
    first, second = found["the Hub"]
    assert (first["host"], second["host"]) == ("127.0.0.1", "localhost")
    assert first["issuer"] == "Corp Inspection CA"
    assert first["private_authority"] is True
    assert second["issuer"] is None
    assert second["bytes_per_s"] > 0
    assert [one["status"] for one in found["package index"]] == [200, 206]
    assert not any("authorization" in one.headers for one in hub.cdn.asked)


def test_it_says_what_to_do_next(environ, tmp_path):
    done = doctor(environ, tmp_path)
    assert done.returncode == 0
    assert "certificates: those of SSL_CERT_FILE" in done.stdout
    assert "certificate by Corp Inspection CA" in done.stdout
    assert "no public authority signed it" in done.stdout
    assert "next: llava-pack build llava-v1.5-7b" in done.stderr


def test_an_authority_that_nobody_here_knows_is_named(environ, tmp_path):
    stranger = make_authority(tmp_path / "stranger", "Another CA")
    done = doctor({**environ, "SSL_CERT_FILE": str(stranger.root)}, tmp_path)
    assert done.returncode == 9
    assert "is signed by 'Corp Inspection CA', which is not trusted" in done.stdout
    assert "→ if that is your organisation's own authority" in done.stdout


def test_the_proxy_on_the_way_and_one_that_refuses(environ, tmp_path, hub):
    with HttpProxy(
        login="me:right", names={"hub.corp": ("127.0.0.1", urlsplit(hub.url).port or 0)}
    ) as proxy:
        through = {**environ, "HF_ENDPOINT": "https://hub.corp", "NO_PROXY": "127.0.0.1,localhost"}
        done = doctor({**through, "HTTPS_PROXY": proxy.url("me:right")}, tmp_path, "--json")
        found, ok = hosts(done)
        assert ok, done.stdout
        assert found["the Hub"][0]["proxy"] == proxy.url()
        assert found["package index"][0]["proxy"] is None
        done = doctor({**through, "HTTPS_PROXY": proxy.url("me:wrong")}, tmp_path)
    assert done.returncode == 12
    assert "refuses the user and password in HTTPS_PROXY" in done.stdout
    assert "wrong" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "reason"), [("127.0.0.1:9", "refused"), ("proxy.invalid:3128", "Name or service")]
)
def test_a_proxy_that_is_not_there_is_named_as_the_culprit(environ, tmp_path, place, reason):
    wrong = {"HTTPS_PROXY": f"http://{place}", "HTTP_PROXY": f"http://{place}", "NO_PROXY": ""}
    done = doctor({**environ, **wrong, "HF_ENDPOINT": "https://hub.corp"}, tmp_path, "--json")
    problems = [
        host["problem"] for errand in json.loads(done.stdout)["errands"] for host in errand["hosts"]
    ]
    assert done.returncode == 9
    assert len(problems) >= 2
    for problem in problems:
        said = f"the proxy http://{place} of HTTP"
        assert problem["message"].startswith(said), problem
        assert reason in problem["message"] or "Temporary failure" in problem["message"]
        assert problem["hint"].startswith("check HTTP")
        assert "set HTTPS_PROXY" not in problem["hint"]


def test_a_name_without_an_address_and_a_login_page(environ, tmp_path):
    class Portal(Loopback):
        def respond(self, asked):
            return Answer(body=b"<title>Guest</title><input type=password>", headers=HTML)

    with Portal() as portal:
        changed = {"HF_ENDPOINT": "https://hub.invalid", "UV_DEFAULT_INDEX": f"{portal.url}/simple"}
        done = doctor({**environ, **changed}, tmp_path)
    assert done.returncode == 9
    assert "hub.invalid has no address here" in done.stdout
    assert "the web page 'Guest' of 127.0.0.1 came" in done.stdout


def test_a_setting_that_cannot_be_used_is_named_at_once(environ, tmp_path):
    done = doctor({**environ, "SSL_CERT_FILE": str(tmp_path / "absent.pem")}, tmp_path)
    assert done.returncode == 2
    assert "SSL_CERT_FILE: names" in done.stderr


def test_a_repository_that_is_not_there_is_no_networks_fault(environ, tmp_path):
    done = doctor({**environ}, tmp_path, "--model", "hf:owner/absent", "--json")
    fields = json.loads(done.stdout)
    assert done.returncode == 10
    [problem] = [
        host["problem"]
        for errand in fields["errands"]
        for host in errand["hosts"]
        if host["problem"]
    ]
    assert problem["error"] == "recipe"


@pytest.mark.parametrize("name", ["Corp CA", "Prüfstelle", "检查"])
def test_the_issuer_is_read_as_openssl_wrote_it(tmp_path, name):
    made = make_authority(tmp_path / "ca", name)
    done = subprocess.run(
        ["openssl", "x509", "-in", made.root, "-outform", "DER"], check=True, capture_output=True
    )
    assert issuer_of(done.stdout) == name
    for cut in range(0, len(done.stdout), 7):
        assert issuer_of(done.stdout[:cut]) in {"", name}
