"""What counts as a key."""

import base64
import subprocess

import pytest

from llava_pack.format.errors import SignatureError
from llava_pack.format.signature import CONTROL, PublicKey, parse_public_key
from tests.support.keys import openssl, other_key

PEM = CONTROL.key.pem


def test_a_key_comes_back_whatever_the_lines_end_with():
    assert parse_public_key(PEM) == CONTROL.key
    assert parse_public_key(PEM.replace(b"\n", b"\r\n")) == CONTROL.key
    assert parse_public_key(PEM.rstrip()) == CONTROL.key


def test_ssh_keygen_reads_the_same_key_out_of_the_pem(tmp_path):
    (tmp_path / "key.pem").write_bytes(PEM)
    command = ["ssh-keygen", "-i", "-m", "PKCS8", "-f", tmp_path / "key.pem"]
    said = subprocess.run(command, capture_output=True, check=True).stdout.split()
    assert base64.b64decode(said[1]) == CONTROL.key.ssh_blob
    assert said[1] in CONTROL.key.allowed_signers


@pytest.mark.parametrize("curve", ["SM2", "secp256k1", "P-384", "brainpoolP256r1"])
def test_other_curves_are_none(tmp_path, curve):
    _, pem = other_key(tmp_path, "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}")
    with pytest.raises(SignatureError):
        parse_public_key(pem)


def test_a_key_of_the_right_length_with_another_head_is_none():
    der = bytes([CONTROL.key.der[0], CONTROL.key.der[1] ^ 1]) + CONTROL.key.der[2:]
    with pytest.raises(SignatureError):
        parse_public_key(PublicKey(der).pem)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PEM + PEM,
        b"\n" + PEM,
        PEM + b"# a comment\n",
        PEM.replace(b"PUBLIC KEY", b"EC PUBLIC KEY"),
        PEM.replace(b"\n", b" "),
        PEM.replace(b"==", b"=A"),
        PEM.replace(b"eA==", b"eB=="),
        PEM[:100],
        PEM.replace(b"M", b"\xff", 1),
        PEM.replace(b"\n", b"\n\n", 1),
    ],
)
def test_one_block_and_nothing_else(data):
    with pytest.raises(SignatureError):
        parse_public_key(data)


def test_a_compressed_point_is_none(tmp_path):
    (tmp_path / "key.pem").write_bytes(PEM)
    compressed = ["pkey", "-pubin", "-in", tmp_path / "key.pem", "-ec_conv_form", "compressed"]
    with pytest.raises(SignatureError):
        parse_public_key(openssl(*compressed))
