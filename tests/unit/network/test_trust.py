"""Whose certificates are believed, and what is said of a variable that cannot be used."""

import os
import ssl

import certifi
import pytest

from llava_pack.format.errors import UsageError
from llava_pack.network.front import read_front
from llava_pack.network.trust import VARIABLES, Trust, read_trust
from tests.support.authority import make_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("two"), "Other CA")


def names(trust):
    return {dict(pair[0] for pair in one["subject"])["commonName"] for one in known(trust)}


def known(trust):
    return trust.context().get_ca_certs()


@pytest.mark.parametrize("position", range(len(VARIABLES)))
def test_the_first_variable_that_is_set_decides(authority, other, position):
    chosen, *later = VARIABLES[position:]
    folder = chosen == "SSL_CERT_DIR"
    environ = {chosen: str(authority.hashed if folder else authority.root)}
    environ |= {name: str(other.root) for name in later if name != "SSL_CERT_DIR"}
    trust = read_trust(environ, "linux")
    assert trust.origin == chosen
    assert (
        trust.folders == (authority.hashed,) if folder else names(trust) == {"Corp Inspection CA"}
    )


def test_openssls_two_variables_count_together(authority, other):
    folders = os.pathsep.join([str(other.hashed)])
    trust = read_trust({"SSL_CERT_FILE": str(authority.root), "SSL_CERT_DIR": folders})
    assert (trust.file, trust.folders) == (authority.root, (other.hashed,))
    assert trust.origin == "SSL_CERT_FILE + SSL_CERT_DIR"


def test_a_bundle_variable_may_name_a_folder(authority):
    assert read_trust({"REQUESTS_CA_BUNDLE": str(authority.hashed)}).folders == (authority.hashed,)


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_that_names_nothing_is_refused_by_name(variable, tmp_path):
    with pytest.raises(UsageError, match="No such file") as caught:
        read_trust({variable: str(tmp_path / "absent")})
    assert caught.value.subject == variable
    assert caught.value.hint


@pytest.mark.parametrize("variable", [name for name in VARIABLES if name != "SSL_CERT_DIR"])
@pytest.mark.parametrize(
    "text", ["", "<html>Sign in</html>", "-----BEGIN CERTIFICATE-----\nQQ==\n"]
)
def test_a_file_without_certificates_is_refused_by_name(variable, text, tmp_path):
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(UsageError, match="holds no certificate") as caught:
        read_trust({variable: str(tmp_path / "ca.pem")})
    assert caught.value.subject == variable


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "CURL_CA_BUNDLE"])
def test_a_folder_without_openssls_names_says_how_to_make_them(authority, variable):
    with pytest.raises(UsageError, match="no certificate has the name") as caught:
        read_trust({variable: str(authority.folder)})
    assert "openssl rehash" in caught.value.hint


def test_an_empty_variable_is_none():
    assert read_trust(dict.fromkeys(VARIABLES, ""), "linux").origin == ""


def test_without_any_variable_the_systems_store_counts():
    assert known(read_trust({}, "linux")) or read_trust({}, "linux").folders
    for platform in ("win32", "darwin"):
        trust = read_trust({}, platform)
        assert trust == Trust()
        assert trust.variables()["UV_SYSTEM_CERTS"] == "true"
        assert type(trust.context()).__module__.startswith("truststore")


def test_a_linux_without_a_store_has_mozillas_list(monkeypatch, tmp_path):
    nowhere = ssl.get_default_verify_paths()._replace(
        openssl_cafile=str(tmp_path / "absent"), openssl_capath=str(tmp_path)
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    monkeypatch.setattr("llava_pack.network.trust._CANDIDATES", ())
    assert str(read_trust({}, "linux").file) == certifi.where()


def test_uv_is_told_the_same_and_nothing_of_the_rest(authority):
    environ = {
        "CURL_CA_BUNDLE": str(authority.root), "SSL_CERT_DIR": "", "https_proxy": "proxy.corp:3128",
        "no_proxy": "[fd00::]/8,10.1.*,hub.corp:8443", "PATH": "/bin",
    }  # fmt: skip
    assert read_front(environ).environment(environ) == {
        "PATH": "/bin",
        "SSL_CERT_FILE": str(authority.root),
        "HTTPS_PROXY": "http://proxy.corp:3128",
        "NO_PROXY": "fd00::/8,10.1.0.0/16,hub.corp",
    }
