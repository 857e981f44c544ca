"""Signing SHA256SUMS with a P-256 key: openssl signs, this module only writes formats.

A passphrase goes to openssl through its standard input: never on a command line, never in the
environment.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_pack.format.errors import CannotVerifyError, SignatureError, UsageError
from llava_pack.format.signature import (
    NAMESPACE,
    SSHSIG_MAGIC,
    PublicKey,
    der_numbers,
    parse_public_key,
    ssh_signature,
    ssh_string,
)
from llava_pack.target.programs import SEARCH_PATH

MIN_PASSPHRASE = 8
MAX_PASSPHRASE = 1000
"""openssl reads one line of at most 1,024 bytes."""
_ITERATIONS = 600_000


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A private key that opened, and its public half."""

    key: Path
    passphrase: str = field(repr=False)
    """Empty for a key without one."""
    public: PublicKey


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """Two signatures by one key over the same bytes."""

    der: bytes
    """ASN.1, for `openssl dgst -sha256 -verify`."""
    sshsig: bytes
    """Armored, for `ssh-keygen -Y verify`."""


def generate(key: Path, passphrase: str, *, protected: bool = True) -> PublicKey:
    """Write a new private key, readable by its owner alone, and return its public half.

    Args:
        key: must not exist.
        passphrase: empty where `protected` is False.
        protected: the key is worth nothing without its passphrase.

    Raises:
        UsageError: the file exists or cannot be written, or the passphrase is too short or long.
        CannotVerifyError: this machine has no openssl.
    """
    if protected:
        _check_passphrase(passphrase)
    try:
        os.close(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise UsageError(
            f"cannot be created: {error.strerror}",
            subject=str(key),
            hint="choose another file: a key is never overwritten",
        ) from error
    try:
        with tempfile.TemporaryDirectory(dir=key.absolute().parent) as scratch:
            key.write_bytes(_new_key(passphrase, Path(scratch) / "key"))
        return open_key(key, passphrase).public
    except BaseException:
        key.unlink()
        raise


def write_public(key: Path, public: PublicKey) -> Path:
    """Write the public half beside a private key, for the servers, and return where.

    Raises:
        UsageError: the file exists or cannot be written.
    """
    path = key.with_name(f"{key.name.removesuffix('.key')}.pub.pem")
    try:
        with path.open("xb") as stream:
            stream.write(public.pem)
    except OSError as error:
        hint = "move it away, then: openssl pkey -in KEY -pubout"
        raise UsageError(
            f"cannot be created: {error.strerror}", subject=str(path), hint=hint
        ) from error
    return path


def _new_key(passphrase: str, scratch: Path) -> bytes:
    """Return a private key in PEM; with a passphrase its key derivation takes a guesser's time."""
    command = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-pkeyopt", "ec_param_enc:named_curve"]
    if not passphrase:
        return _openssl(command, "")
    weak = _openssl([*command, "-aes-256-cbc", "-pass", "stdin"], passphrase)
    scratch.touch(mode=0o600)
    scratch.write_bytes(weak)
    slow = ["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-iter", str(_ITERATIONS), "-in", str(scratch)]
    try:
        return _openssl([*slow, "-passin", "stdin", "-passout", "stdin"], passphrase, lines=2)
    except SignatureError:  # LibreSSL has no -iter: its default then
        return weak


def is_encrypted(key: Path) -> bool:
    """Say whether a private key asks for a passphrase.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return b"ENCRYPTED" in key.read_bytes()[:200]
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}",
            subject=str(key),
            hint="llava-pack keygen creates a key",
        ) from error


def open_key(key: Path, passphrase: str) -> Signer:
    """Open a private key: what is found out before anything is fetched.

    Raises:
        UsageError: it does not open with this passphrase, or is no P-256 key.
        CannotVerifyError: this machine has no openssl.
    """
    if "\n" in passphrase or "\r" in passphrase:
        raise UsageError("expected one line", subject="passphrase")
    try:
        # a pipe, not a prompt: with an empty line a key that asks for a passphrase fails at once
        pem = _openssl(["pkey", "-in", str(key), "-passin", "stdin", "-pubout"], passphrase)
        return Signer(key=key, passphrase=passphrase, public=parse_public_key(pem))
    except SignatureError as error:
        raise UsageError(
            "expected a P-256 private key in PEM that this passphrase opens",
            subject=str(key),
            hint="enter the right passphrase, or create a key: llava-pack keygen",
        ) from error


def _check_passphrase(passphrase: str) -> None:
    size = len(passphrase.encode())
    if not MIN_PASSPHRASE <= size <= MAX_PASSPHRASE or not passphrase.isprintable():
        raise UsageError(
            f"expected {MIN_PASSPHRASE} to {MAX_PASSPHRASE} bytes of text on one line, got {size}",
            subject="passphrase",
            hint="choose a longer one, or pass --no-passphrase",
        )


def sign(signer: Signer, message: bytes) -> Signatures:
    """Sign for both tools with one key.

    Raises:
        SignatureError: openssl failed, with what it said.
    """
    digest = ssh_string(b"sha512") + ssh_string(hashlib.sha512(message).digest())
    # Source: OpenSSH, PROTOCOL.sshsig, section 2
    namespace = ssh_string(NAMESPACE.encode()) + ssh_string(b"")
    inner = _der_signature(signer, SSHSIG_MAGIC + namespace + digest)
    sshsig = ssh_signature(signer.public, *der_numbers(inner))
    return Signatures(der=_der_signature(signer, message), sshsig=sshsig)


def _der_signature(signer: Signer, message: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "message"
        path.write_bytes(message)
        command = ["dgst", "-sha256", "-sign", str(signer.key), "-passin", "stdin", str(path)]
        return _openssl(command, signer.passphrase)


def _openssl(arguments: Sequence[str], passphrase: str, *, lines: int = 1) -> bytes:
    """Run openssl and return what it wrote; the passphrase is given on `lines` lines of stdin."""
    program = shutil.which("openssl")
    if program is None and sys.platform == "win32":  # where Git brings it, off the PATH
        program = shutil.which("openssl", path=SEARCH_PATH)
    if program is None:
        raise CannotVerifyError(
            "not found on this machine, expected it on the PATH",
            subject="openssl",
            hint="install openssl: Linux and macOS have it, on Windows it comes with Git",
        )
    done = subprocess.run(
        [program, *arguments],
        input=f"{passphrase}\n".encode() * lines,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        said = " | ".join(done.stderr.decode(errors="backslashreplace").strip().splitlines()[-2:])
        raise SignatureError(f"openssl {arguments[0]}: {said}", subject="openssl")
    return done.stdout
