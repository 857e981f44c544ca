"""Who vouches for a bundle: ids, keys, pins; what is bad is refused by every way in."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llava_pack.format.signature import KEY_NAME, NAMESPACE, SIG_NAME, SSHSIG_NAME
from llava_pack.format.sums import SUMS_NAME
from llava_pack.target import programs
from tests.support.bundle import BASE_PYTHON, CHECKOUT, change, seal
from tests.support.keys import new_publisher, openssl, other_key
from tests.target.namespaces import covering, may_mount

SHELLS = ["dash", "bash --posix", "busybox ash"]
RSA = ("-algorithm", "RSA", "-pkeyopt")
EC = ("-algorithm", "EC", "-pkeyopt")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: new_publisher(folder, name) for name in ("publisher", "stranger")}


@pytest.fixture
def publisher(keys):
    return keys["publisher"]


@pytest.fixture
def stranger(keys):
    return keys["stranger"]


@pytest.fixture
def signed(medium, publisher):
    """Write a bundle signed by the publisher, or by somebody else."""

    def write(name="bundle", by=None, **fields):
        made = medium(name, **fields)
        (by or publisher).sign(made.root)
        return made

    return write


@pytest.fixture(params=["verify", "install.sh"])
def way(request, host, cli):
    """Each way in, as a function of a medium and options; `install` reads as `verify` does."""

    def enter(medium, *options):
        if request.param == "install.sh":
            done = host.install_sh(medium, *map(str, options), expect=False)
            return done.returncode, done.stdout + done.stderr
        prefix = ["--prefix", host.prefix] if request.param == "install" else []
        ended = cli(request.param, medium.root, *options, *prefix)
        return ended.code, ended.out + ended.err

    return enter


installs = pytest.mark.parametrize("way", ["install", "install.sh"], indirect=True)


def pin(host, publisher):
    (host.prefix / "trust").mkdir(parents=True)
    (host.prefix / "trust" / KEY_NAME).write_bytes(publisher.signer.public.pem)


def receipt(host, recipe="tiny"):
    return json.loads((host.prefix / "models" / recipe / "current/receipt.json").read_text())


def pinned(host):
    path = host.prefix / "trust" / KEY_NAME
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("shell", SHELLS)
def test_the_key_in_a_file_is_enough_and_is_pinned(host, signed, publisher, shell):
    bundle = signed()
    options = ["--trust-key", str(publisher.public_file)]
    done = host.install_sh(bundle, *options, body=shell, expect=False)
    assert done.returncode == 0, done.stderr
    assert pinned(host) == publisher.signer.public.pem
    assert receipt(host)["verified"] == {
        "by": "--trust-key",
        "signature": "good",
        "key": publisher.fingerprint,
        "key_trusted": True,
        "tools": [shutil.which("openssl"), shutil.which("ssh-keygen")],
    }


def test_the_pinned_key_is_enough_for_what_comes_later(host, signed, publisher, cli):
    fingerprint = publisher.fingerprint.upper()
    done = host.install_sh(signed(), "--trust-key", fingerprint, expect=False)
    assert done.returncode == 0, done.stderr
    assert pinned(host) == publisher.signer.public.pem
    newer = signed("newer", release=1_800_000_000, weights=b"newer")
    assert cli("install", newer.root, "--prefix", host.prefix).code == 0
    assert receipt(host)["verified"]["by"] == "pinned key"
    newest = signed("newest", release=1_900_000_000, weights=b"newest")
    assert host.install_sh(newest, expect=False).returncode == 0
    assert receipt(host)["verified"]["by"] == "pinned key"
    assert host.current() == 3


def test_the_fingerprint_from_the_card_means_the_key_that_came_along(way, signed, publisher):
    options = ["--trust-key", publisher.fingerprint.upper(), "--json"]
    code, said = way(signed(recipe="another"), *options)
    assert code == 0, said


def test_a_key_is_taken_from_where_one_stands(host, signed, publisher, tmp_path):
    (tmp_path / "a key.pem").write_bytes(publisher.signer.public.pem)
    options = ["--trust-key", "a key.pem", "--dry-run"]
    done = host.install_sh(signed(), *options, expect=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pinned(host) is None


def test_another_fingerprint_than_that_of_the_key_that_came_along(way, signed, stranger):
    code, said = way(signed(), "--trust-key", stranger.fingerprint)
    assert code == 5
    assert stranger.fingerprint in said


def test_the_key_on_the_medium_is_no_key_to_trust(way, signed, tmp_path):
    bundle = signed()
    assert way(bundle, "--trust-key", bundle.root / KEY_NAME)[0] == 2
    (tmp_path / "link.pem").symlink_to(bundle.root / KEY_NAME)
    assert way(bundle, "--trust-key", tmp_path / "link.pem")[0] == 2


@pytest.mark.parametrize("kind", ["absent", "rsa", "sm2", "private", "text"])
def test_a_trusted_key_that_is_none_is_a_usage_error(way, signed, publisher, tmp_path, kind):
    made = {
        "absent": lambda: None,
        "rsa": lambda: other_key(tmp_path, *RSA, "rsa_keygen_bits:1024")[1],
        "sm2": lambda: other_key(tmp_path, *EC, "ec_paramgen_curve:SM2")[1],
        "private": publisher.signer.key.read_bytes,
        "text": lambda: b"trust me\n",
    }[kind]()
    if made is not None:
        (tmp_path / "given.pem").write_bytes(made)
    assert way(signed(), "--trust-key", tmp_path / "given.pem")[0] == 2


def test_an_id_lets_a_key_of_the_medium_in_but_not_into_the_pins(host, signed, stranger):
    assert host.install_sh(signed(by=stranger)).returncode == 0
    assert pinned(host) is None
    found = receipt(host)["verified"]
    assert (found["by"], found["signature"]) == ("--expect", "good")
    assert found["key_trusted"] is False


def _swap(name, data):
    return lambda root, _: (root / name).write_bytes(data)


def _of_another_file(name):
    def forge(root, tools):
        (root / SUMS_NAME).rename(root / "aside")
        (root / SUMS_NAME).write_bytes(b"another file\n")
        kept = {one: (root / one).read_bytes() for one in (SIG_NAME, SSHSIG_NAME)}
        tools["publisher"].sign(root)
        for one in kept.keys() - {name}:
            (root / one).write_bytes(kept[one])
        (root / "aside").rename(root / SUMS_NAME)

    return forge


def _wrong_namespace(root, tools):
    _ssh_sign(root, tools, "file", SSHSIG_NAME)


def _ssh_signature_as_both(root, tools):
    # `ssh-keygen -Y sign SHA256SUMS` writes SHA256SUMS.sig, where openssl's signature belongs
    _ssh_sign(root, tools, NAMESPACE, SIG_NAME)


def _ssh_sign(root, tools, namespace, name):
    key = tools["publisher"].signer.key
    public = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, check=True).stdout
    key.with_name(f"{key.name}.pub").write_bytes(public)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key]
    data = (root / SUMS_NAME).read_bytes()
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    (root / name).write_bytes(done.stdout)


def _flip(name):
    return lambda root, _: change(root / name, lambda data: data[:60] + b"A" + data[61:])


BAD_SIGNATURES = {
    "no openssl signature": lambda root, _: (root / SIG_NAME).unlink(),
    "no ssh signature": lambda root, _: (root / SSHSIG_NAME).unlink(),
    "empty openssl signature": _swap(SIG_NAME, b""),
    "empty ssh signature": _swap(SSHSIG_NAME, b""),
    "openssl signature of another file": _of_another_file(SIG_NAME),
    "ssh signature of another file": _of_another_file(SSHSIG_NAME),
    "changed openssl signature": _flip(SIG_NAME),
    "changed ssh signature": _flip(SSHSIG_NAME),
    "ssh signature in another namespace": _wrong_namespace,
    "ssh signature in the other's place": _ssh_signature_as_both,
}


@pytest.mark.parametrize("bad", BAD_SIGNATURES)
def test_a_signature_that_is_bad_is_refused_with_a_key_and_with_an_id(
    way, host, signed, keys, publisher, bad
):
    bundle = signed()
    BAD_SIGNATURES[bad](bundle.root, keys)
    assert way(bundle, "--trust-key", publisher.public_file)[0] == 5
    assert way(bundle, "--expect", bundle.id)[0] == 5
    assert host.current() is None


def test_no_signature_is_refused_where_a_key_is_trusted(way, medium, publisher):
    bundle = medium()
    code, said = way(bundle, "--trust-key", publisher.public_file)
    assert code == 5
    assert SIG_NAME in said
    code, said = way(bundle, "--trust-key", publisher.public_file, "--expect", bundle.id)
    assert code == 5


def test_a_stranger_s_good_signatures_are_refused(way, signed, publisher, stranger, tmp_path):
    bundle = signed(by=stranger)
    message = (bundle.root / SUMS_NAME).read_bytes()
    command = ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE]
    lax = [*command, "-s", bundle.root / SSHSIG_NAME]
    assert subprocess.run(lax, input=message, capture_output=True, check=False).returncode == 0
    assert way(bundle, "--trust-key", publisher.public_file)[0] == 5


def _rsa(root, folder, bits):
    """Sign with RSA, and show that openssl would be content."""
    key, pem = other_key(folder, *RSA, f"rsa_keygen_bits:{bits}")
    (root / KEY_NAME).write_bytes(pem)
    sums = root / SUMS_NAME
    (root / SIG_NAME).write_bytes(openssl("dgst", "-sha256", "-sign", key, sums))
    lax = ["dgst", "-sha256", "-verify", root / KEY_NAME, "-signature", root / SIG_NAME, sums]
    assert b"Verified OK" in openssl(*lax)


def _curve(root, folder, curve, *more):
    key, _ = other_key(folder, *EC, f"ec_paramgen_curve:{curve}")
    pem = openssl("pkey", "-in", key, "-pubout", *more)
    (root / KEY_NAME).write_bytes(pem)
    if curve != "SM2":
        (root / SIG_NAME).write_bytes(openssl("dgst", "-sha256", "-sign", key, root / SUMS_NAME))


def _around(before, after):
    return lambda root, _: change(root / KEY_NAME, lambda pem: before + pem + after)


BAD_KEYS = {
    "a weak RSA key": lambda root, folder: _rsa(root, folder, 512),
    "an RSA key": lambda root, folder: _rsa(root, folder, 2048),
    "P-384": lambda root, folder: _curve(root, folder, "P-384"),
    "secp256k1": lambda root, folder: _curve(root, folder, "secp256k1"),
    "SM2, as long as P-256": lambda root, folder: _curve(root, folder, "SM2"),
    "a compressed point": lambda root, folder: _curve(
        root, folder, "P-256", "-ec_conv_form", "compressed"
    ),
    "text before it": _around(b"a key:\n", b""),
    "a second key": _around(b"", b"-----BEGIN PUBLIC KEY-----\nMAo=\n-----END PUBLIC KEY-----\n"),
    "no key": lambda root, _: (root / KEY_NAME).unlink(),
}


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_key_pem_is_one_p256_key_and_nothing_else(way, signed, tmp_path, bad):
    bundle = signed()
    BAD_KEYS[bad](bundle.root, tmp_path)
    if bad != "no key":
        der = openssl("pkey", "-pubin", "-in", bundle.root / KEY_NAME, "-outform", "DER")
        assert way(bundle, "--trust-key", hashlib.sha256(der).hexdigest())[0] == 5
    assert way(bundle, "--expect", bundle.id)[0] == 5


@installs
def test_another_key_later_is_refused_until_a_person_removes_the_pin(
    way, host, signed, publisher, stranger
):
    pin(host, publisher)
    bundle = signed("other", by=stranger)
    for options in (
        [],
        ["--expect", bundle.id],
        ["--trust-key", stranger.public_file],
        ["--trust-key", stranger.fingerprint, "--expect", bundle.id],
    ):
        code, said = way(bundle, *options)
        assert code == 5, options
        assert pinned(host) == publisher.signer.public.pem
    path = host.prefix / "trust" / KEY_NAME
    assert str(path) in said
    path.unlink()
    assert way(bundle, "--trust-key", stranger.public_file)[0] == 0
    assert pinned(host) == stranger.signer.public.pem


@installs
def test_an_unsigned_bundle_is_refused_where_a_key_is_pinned(way, host, medium, publisher):
    pin(host, publisher)
    bundle = medium()
    code, said = way(bundle, "--expect", bundle.id)
    assert code == 5
    assert SIG_NAME in said


@installs
@pytest.mark.parametrize("what", ["text", "a link to nothing like it"])
def test_a_pin_that_is_no_key_cannot_verify_anything(way, host, signed, publisher, what):
    pin(host, publisher)
    path = host.prefix / "trust" / KEY_NAME
    path.unlink()
    if what == "text":
        path.write_text("not a key")
    else:
        path.symlink_to("/etc/hostname")
    assert way(signed(), "--trust-key", publisher.public_file)[0] == 6


TOOLS = {
    "absent": None,
    "older than -Y": "echo 'unknown option -- Y' >&2; exit 1",
    "content with anything": "exit 0",
    "broken": "kill -9 $$",
}


@pytest.mark.parametrize("tool", ["openssl", "ssh-keygen", "both"])
@pytest.mark.parametrize("state", TOOLS)
def test_a_tool_that_cannot_tell_counts_as_absent(
    host, signed, publisher, cli, tmp_path, monkeypatch, tool, state
):
    search = tmp_path / "bin"
    search.mkdir()
    for name in ("openssl", "ssh-keygen"):
        if tool not in {name, "both"}:
            (search / name).symlink_to(shutil.which(name))
        elif TOOLS[state] is not None:
            (search / name).write_text(f"#!/bin/sh\n{TOOLS[state]}\n")
            (search / name).chmod(0o755)
    monkeypatch.setattr(programs, "SEARCH_PATH", str(search))
    bundle = signed()
    options = ["--trust-key", publisher.public_file, "--json"]
    ended = cli("verify", bundle.root, *options)
    if tool == "both":
        assert ended.code == 6
    else:
        (left,) = {"openssl", "ssh-keygen"} - {tool}
        assert ended.document["trust"]["tools"] == [str(search / left)]
        (bundle.root / (SIG_NAME if left == "openssl" else SSHSIG_NAME)).write_bytes(b"bad")
        assert cli("verify", bundle.root, *options).code == 5


@pytest.mark.namespace
@pytest.mark.skipif(not may_mount(), reason="no mount namespaces here")
@pytest.mark.parametrize("state", ["older than -Y", "content with anything"])
@pytest.mark.parametrize("names", [("openssl",), ("ssh-keygen",), ("openssl", "ssh-keygen")])
def test_install_sh_finds_tools_out_too(host, signed, publisher, tmp_path, names, state):
    fake = tmp_path / "fake"
    fake.write_text(f"#!/bin/sh\n{TOOLS[state]}\n")
    fake.chmod(0o755)
    wrap = covering({shutil.which(name): fake for name in names})
    bundle = signed()
    options = ["--trust-key", str(publisher.public_file)]
    done = host.install_sh(bundle, *options, expect=False, wrap=wrap)
    assert done.returncode == (6 if len(names) == 2 else 0), done.stderr
    if len(names) == 1:
        left = SSHSIG_NAME if names == ("openssl",) else SIG_NAME
        (bundle.root / left).write_bytes(b"bad")
        assert host.install_sh(bundle, *options, expect=False, wrap=wrap).returncode == 5


def test_an_upgrade_runs_nothing_from_the_medium(host, signed, publisher, cli, tmp_path):
    host.install_sh(signed(), "--trust-key", str(publisher.public_file), expect=False)
    mark = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(77)\n".encode()
    files = ("installer/llava_pack/target/main.py", "installer/llava_pack/__init__.py")
    newer = signed("newer", release=1_800_000_000, extra=dict.fromkeys(files, mark))
    (newer.root / "install.sh").chmod(0o755)
    assert cli("install", newer.root, "--prefix", host.prefix).code == 0
    assert host.current() == 2
    assert not (tmp_path / "ran").exists()
    # the bundle is the publisher's own: what it brings would run where install.sh is typed
    assert host.install_sh(newer, expect=False).returncode == 77
    assert (tmp_path / "ran").exists()


@installs
def test_an_older_release_is_refused_unless_it_is_asked_for(way, host, signed, publisher):
    key = ["--trust-key", str(publisher.public_file)]
    host.install_sh(signed("new", release=1_800_000_000), *key, expect=False)
    older = signed("old", release=1_700_000_000, weights=b"older")
    code, said = way(older, "--expect", older.id)
    assert code == 8
    assert "--allow-downgrade" in said
    assert host.current() == 1
    assert way(older, "--allow-downgrade")[0] == 0
    # what is active is no downgrade, whatever was there before
    assert way(older)[0] == 0
    assert host.current() == 2


@installs
def test_another_recipe_does_not_slip_in(way, host, signed, publisher):
    key = ["--trust-key", str(publisher.public_file)]
    host.install_sh(signed("one", recipe="one"), *key, expect=False)
    two = signed("two", recipe="two")
    code, said = way(two)
    assert code == 2
    assert "--recipe two" in said
    assert way(two, "--recipe", "one", "--expect", two.id)[0] == 2
    assert host.current("two") is None
    assert way(two, "--recipe", "two")[0] == 0
    assert host.current("two") == 1
    # one that is named by its id is no surprise
    three = signed("three", recipe="three")
    assert way(three, "--expect", three.id, "--dry-run")[0] == 0


@installs
def test_it_says_what_it_is_before_it_acts(way, medium):
    bundle = medium(recipe="tiny", release=1_234_567_890)
    said = way(bundle, "--expect", bundle.id)[1]
    announced = said.index(f"release 2009-02-13 23:31 UTC, id {bundle.id}")
    assert said.index("tiny: A tiny LLaVA") < announced < said.index("placing files")


def test_verify_says_who_vouches(signed, publisher, stranger, cli):
    bundle = signed()
    plain = cli("verify", bundle.root)
    assert "a key named only by the bundle itself" in plain.err
    assert "only the bundle vouches for itself" in plain.err
    with_key = cli("verify", bundle.root, "--trust-key", publisher.public_file)
    assert f"signed by the key {publisher.fingerprint}" in with_key.err
    assert "vouches for itself" not in with_key.err
    assert cli("verify", bundle.root, "--trust-key", stranger.public_file).code == 5


def test_sums_are_not_read_before_their_signature(way, signed, publisher, stranger):
    bundle = signed()
    (bundle.root / SUMS_NAME).write_bytes(b"not a list of sums")
    stranger.sign(bundle.root)
    assert way(bundle, "--trust-key", publisher.public_file)[0] == 5
    publisher.sign(bundle.root)
    assert way(bundle, "--trust-key", publisher.public_file)[0] == 4


def test_a_bundle_made_anew_needs_a_new_signature(way, signed, publisher):
    bundle = signed()
    change(bundle.root / "licenses/LICENSE", lambda data: data + b"\n")
    seal(bundle.root)
    assert way(bundle, "--trust-key", publisher.public_file)[0] == 5


@pytest.mark.parametrize("shell", ["sh", "busybox sh"])
@pytest.mark.parametrize(
    "pasted", ["'{}'", ' "{}" ', "sha256:{}", "SHA256:{} ", "`{}`\r\n", "{}"], ids=repr
)
def test_an_id_is_taken_as_it_was_pasted(host, medium, shell, pasted):
    bundle = medium()
    split = f"{bundle.id[:8]} {bundle.id[8:].upper()}"
    for text in (bundle.id, split):
        typed = ("--dry-run", "--expect", pasted.format(text))
        done = host.install_sh(bundle, *typed, shell=shell, expect=False)
        assert done.returncode == 0, done.stderr


@installs
@pytest.mark.parametrize("nothing", ["", "sha256:", " '' "], ids=repr)
def test_an_id_that_is_empty_is_2_and_no_id_that_was_left_out(
    host, way, signed, publisher, nothing
):
    pin(host, publisher)
    code, said = way(signed(), "--expect", nothing)
    assert code == 2
    assert "--expect: expected 32 to 64 hex digits" in said
    assert host.current() is None


@pytest.mark.parametrize("dots", ["…", "..."])
def test_a_shortened_id_is_refused_in_words(host, medium, cli, dots):
    bundle = medium()
    short = f"{bundle.id[:40]}{dots}"
    done = host.install_sh(bundle, "--expect", short, expect=False)
    assert done.returncode == 2
    assert "the id is shortened" in done.stderr
    ended = cli("verify", bundle.root, "--expect", short)
    assert ended.code == 2
    assert "the id is shortened" in ended.err


@pytest.mark.parametrize("way", ["{}/install.sh", "install.sh", "./install.sh"])
def test_without_a_bundle_the_scripts_own_folder_is_meant(host, medium, way):
    bundle = medium()
    shutil.copy(CHECKOUT / "installers" / "install.sh", bundle.root)
    command = ["sh", way.format(bundle.root), "--prefix", host.prefix, "--expect", bundle.id]
    done = _run([*command, "--dry-run"], bundle.root)
    assert done.returncode == 0, done.stderr
    assert "would copy" in done.stderr


def test_a_copy_beside_the_sums_alone_asks_for_the_bundle(host, medium, tmp_path):
    bundle = medium()
    first = tmp_path / "first"
    first.mkdir(mode=0o700)
    shutil.copy(CHECKOUT / "installers" / "install.sh", first)
    shutil.copy(bundle.root / "SHA256SUMS", first)
    done = _run(["sh", "install.sh", "--expect", bundle.id, "--prefix", host.prefix], first)
    assert done.returncode == 2
    assert "install.sh does not lie in a bundle" in done.stderr
    assert "--bundle DIR --expect ID" in done.stderr


def _run(command, folder):
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={"PATH": f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@installs
def test_a_key_that_is_empty_is_2_and_no_key_that_was_left_out(host, way, signed, publisher):
    pin(host, publisher)
    code, said = way(signed(), "--trust-key", "")  # as a variable gives it that was never set
    assert code == 2
    assert "--trust-key" in said
