"""The files that SHA256SUMS does not list: not one byte of them is free, by every way in."""

import base64
import os

import pytest

from llava_pack.format.signature import KEY_NAME, SIG_NAME, SSHSIG_NAME, ssh_string
from llava_pack.format.sums import SUMS_NAME
from llava_pack.format.welcome import START_NAME
from tests.support.bundle import change
from tests.support.keys import new_publisher

FIVE_GB = 5_000_000_000
NO_BYTES = b""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: new_publisher(folder, name) for name in ("publisher", "stranger")}


@pytest.fixture(params=["verify", "install", "install.sh"])
def way(request, host, cli, keys):
    """Each way in, with the publisher's key trusted, as a function that gives code and words."""
    key = ["--trust-key", str(keys["publisher"].public_file)]

    def enter(medium, *more):
        if request.param == "install.sh":
            done = host.install_sh(medium, *key, *more)
            return done.returncode, done.stdout + done.stderr
        prefix = ["--prefix", host.prefix] if request.param == "install" else []
        ended = cli(request.param, medium.root, *key, "--expect", medium.id, *prefix, *more)
        return ended.code, ended.out + ended.err

    return enter


@pytest.fixture
def signed(medium, keys):
    made = medium()
    keys["publisher"].sign(made.root)
    return made


def longer(name, more):
    return lambda root, _: change(root / name, lambda data: data + more)


def endless(name):
    return lambda root, _: os.truncate(root / name, FIVE_GB)


def a_reserved_field(root, _):
    """Fill the one field of an ssh signature that is not signed; ssh-keygen does not mind."""

    def fill(data):
        rows = data.split(b"\n")
        blob = base64.b64decode(b"".join(rows[1:-2]))
        hash_name = ssh_string(b"sha512")
        blob = blob.replace(ssh_string(NO_BYTES) + hash_name, ssh_string(b"payload") + hash_name)
        text = base64.b64encode(blob)
        middle = [text[at : at + 70] for at in range(0, len(text), 70)]
        return b"\n".join([rows[0], *middle, *rows[-2:]])

    change(root / SSHSIG_NAME, fill)


def bytes_after_a_signature_of_72(root, keys):
    """Openssl reads no more than 72 bytes; about one signature in four has as many."""
    while (root / SIG_NAME).stat().st_size != 72:
        keys["publisher"].sign(root)
    change(root / SIG_NAME, lambda data: data + b"more")


def empty_lines(root, _):
    change(root / SSHSIG_NAME, lambda data: data.replace(b"\n", b"\n\n\n", 3))


def a_stranger_s_key(root, keys):
    (root / KEY_NAME).write_bytes(keys["stranger"].signer.public.pem)


RIDERS = {
    "words after the welcome": (START_NAME, longer(START_NAME, b"more\n")),
    "a welcome of 5 GB": (START_NAME, endless(START_NAME)),
    "a line after the key": (KEY_NAME, longer(KEY_NAME, b"\n")),
    "a key of 5 GB": (KEY_NAME, endless(KEY_NAME)),
    "a stranger's key": (KEY_NAME, a_stranger_s_key),
    "bytes after a signature": (SIG_NAME, bytes_after_a_signature_of_72),
    "a signature of 5 GB": (SIG_NAME, endless(SIG_NAME)),
    "words after an ssh signature": (SSHSIG_NAME, longer(SSHSIG_NAME, b"more\n")),
    "an ssh signature of 5 GB": (SSHSIG_NAME, endless(SSHSIG_NAME)),
    "a reserved field of an ssh signature": (SSHSIG_NAME, a_reserved_field),
    "empty lines in an ssh signature": (SSHSIG_NAME, empty_lines),
}


@pytest.mark.parametrize("rider", RIDERS)
def test_nothing_rides_along(way, signed, keys, host, rider):
    name, change_it = RIDERS[rider]
    change_it(signed.root, keys)
    code, said = way(signed)
    assert code == 4, said
    assert name in said
    assert host.current() is None


def test_a_signed_bundle_is_accounted_for_whole(way, signed):
    code, said = way(signed)
    assert code == 0, said
    for name in (SUMS_NAME, START_NAME, KEY_NAME, SIG_NAME, SSHSIG_NAME):
        assert name in said


def test_verify_names_them_with_their_sizes(signed, cli):
    ended = cli("verify", signed.root, "--json")
    assert ended.code == 0
    paths = [SUMS_NAME, START_NAME, KEY_NAME, SIG_NAME, SSHSIG_NAME]
    sizes = {name: (signed.root / name).stat().st_size for name in paths}
    assert ended.document["unlisted"] == sizes
    assert sizes[KEY_NAME] == 178


def test_the_key_of_a_bundle_that_is_not_signed_is_one_file_too_many(medium, keys, cli):
    bundle = medium()
    a_stranger_s_key(bundle.root, keys)
    ended = cli("verify", bundle.root, "--json")
    assert ended.code == 4
    [defect] = ended.document["defects"]
    assert (defect["path"], defect["expected"]) == (
        KEY_NAME, "no such file in an unsigned bundle",
    )  # fmt: skip


def test_a_signature_that_no_tool_here_reads_still_holds_two_numbers_alone(
    signed, cli, keys, tmp_path, monkeypatch
):
    """With openssl alone an ssh signature is not verified, and carries no more than 64 bytes."""
    import shutil

    from llava_pack.target import programs

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/openssl").symlink_to(shutil.which("openssl"))
    monkeypatch.setattr(programs, "SEARCH_PATH", str(tmp_path / "bin"))
    key = keys["publisher"].public_file
    assert cli("verify", signed.root, "--trust-key", key).code == 0
    for content in (b"not base64: !", b"", b"-----\n" + b"A" * 3000 + b"\n-----END"):
        (signed.root / SSHSIG_NAME).write_bytes(content)
        assert cli("verify", signed.root, "--trust-key", key).code == 4
