"""Keys and signatures of the laptop: openssl makes them, both tools know them again."""

import io
import os
import shutil
import stat
import subprocess

import pytest

from llava_pack.assemble.card import Card
from llava_pack.assemble.signing import Signatures, generate, is_encrypted, open_key, sign
from llava_pack.cli import main
from llava_pack.format.errors import CannotVerifyError, UsageError
from llava_pack.format.signature import CONTROL, NAMESPACE, PRINCIPAL, parse_public_key
from tests.conftest import ROOT
from tests.support.keys import openssl

PASSPHRASE = "a pässphrase of words"
MESSAGE = b"what is signed\n"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "release.key"
    generate(path, PASSPHRASE)
    return path


def accepted(folder, public, signatures, message):
    """Ask both tools, as docs/reference/bundle-format.md says."""
    names = {"key": public.pem, "allowed": public.allowed_signers, "message": message}
    names |= {"sig": signatures.der, "sshsig": signatures.sshsig}
    for name, data in names.items():
        (folder / name).write_bytes(data)
    by_openssl = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "sig", "message"]
    by_ssh = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", PRINCIPAL, "-n", NAMESPACE]
    return [
        subprocess.run(
            command, cwd=folder, input=message, capture_output=True, check=False
        ).returncode
        == 0
        for command in (by_openssl, [*by_ssh, "-s", "sshsig"])
    ]


def test_both_tools_accept_what_is_signed_and_nothing_else(key, tmp_path):
    signer = open_key(key, PASSPHRASE)
    signatures = sign(signer, MESSAGE)
    assert accepted(tmp_path, signer.public, signatures, MESSAGE) == [True, True]
    assert accepted(tmp_path, signer.public, signatures, MESSAGE + b"!") == [False, False]


def test_a_new_key_is_its_owner_s_and_behind_a_passphrase(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert is_encrypted(key)
    assert sorted(path.name for path in key.parent.iterdir()) == ["release.key"]
    text = openssl("asn1parse", "-in", key, "-i").decode()
    assert "0927C0" in text, "600,000 rounds of the key derivation"
    with pytest.raises(UsageError):
        open_key(key, "another passphrase")
    with pytest.raises(UsageError):
        open_key(key, "")


def test_the_fingerprint_is_the_digest_of_the_der(key):
    public = open_key(key, PASSPHRASE).public
    der = openssl("pkey", "-in", key, "-passin", "stdin", "-pubout", "-outform", "DER",
                  data=f"{PASSPHRASE}\n".encode())  # fmt: skip
    assert len(der) == 91
    assert openssl("dgst", "-sha256", "-r", data=der).split()[0].decode() == public.fingerprint
    assert parse_public_key(public.pem) == public


def test_a_passphrase_is_on_no_command_line_and_in_no_environment(tmp_path, monkeypatch):
    log, real = tmp_path / "log", shutil.which("openssl")
    spy = tmp_path / "bin" / "openssl"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\n{{ printf "%s " "$@"; env; }} >>{log}\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    path = tmp_path / "spied.key"
    generate(path, PASSPHRASE)
    sign(open_key(path, PASSPHRASE), MESSAGE)
    said = log.read_text()
    assert "genpkey" in said
    assert "dgst" in said
    assert "pässphrase" not in said


@pytest.mark.parametrize("passphrase", ["", "short", "x" * 1001, "two\nlines and more"])
def test_a_passphrase_that_protects_nothing_is_refused(tmp_path, passphrase):
    with pytest.raises(UsageError):
        generate(tmp_path / "new.key", passphrase)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [["-algorithm", "RSA"], ["-algorithm", "ED25519"],
                                  ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]])  # fmt: skip
def test_only_p256_signs(tmp_path, kind):
    openssl("genpkey", *kind, "-out", tmp_path / "other.key")
    with pytest.raises(UsageError):
        open_key(tmp_path / "other.key", "")


def test_without_openssl_nothing_is_signed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotVerifyError):
        generate(tmp_path / "new.key", "", protected=False)
    assert list(tmp_path.iterdir()) == []


def test_the_known_signature_is_the_same_in_both_languages_and_good(tmp_path):
    script = (ROOT / "installers/install.sh").read_text()
    assert "".join(CONTROL.key.pem.decode().split("\n")[1:3]) in script
    assert CONTROL.sshsig.decode() in script
    assert f"echo '{CONTROL.message.decode().strip()}'" in script
    signatures = Signatures(der=CONTROL.sig, sshsig=CONTROL.sshsig)
    assert accepted(tmp_path, CONTROL.key, signatures, CONTROL.message) == [True, True]


def test_keygen_says_aloud_that_a_key_has_no_passphrase(tmp_path, capsys):
    path = tmp_path / "ci.key"
    assert main(["keygen", str(path), "--no-passphrase"]) == 0
    said = capsys.readouterr()
    assert "no passphrase" in said.err
    public = parse_public_key((tmp_path / "ci.pub.pem").read_bytes())
    assert said.out.strip() == public.fingerprint == open_key(path, "").public.fingerprint
    assert main(["keygen", str(path), "--no-passphrase"]) == 2
    assert open_key(path, "").public == public


def test_keygen_and_build_ask_nobody_where_there_is_no_terminal(key, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["keygen", str(tmp_path / "new.key")]) == 2
    assert main(["build", "demo", "--sign", str(key)]) == 2
    assert "--passphrase-file" in capsys.readouterr().err


def test_build_finds_out_before_it_fetches_that_the_key_does_not_open(key, tmp_path, capsys):
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase\n")
    wrong.chmod(0o644)
    command = ["build", "demo", "--sign", str(key), "--passphrase-file", str(wrong)]
    assert main(command) == 2
    assert "is readable by other accounts" in capsys.readouterr().err
    assert main(["build", "demo", "--sign", str(tmp_path / "absent.key")]) == 2


def test_the_card_of_a_signed_bundle_pins_its_key():
    card = Card(recipe="demo", bundle="demo-bundle", bundle_id="ab" * 32, release=0, size_bytes=5,
                files=2, key="cd" * 32)  # fmt: skip
    lines = card.lines()
    assert f"key       {'cd' * 32}" in lines
    assert lines[-1].endswith(f"--expect {'ab' * 32} --trust-key {'cd' * 32}")
