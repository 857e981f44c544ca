"""Who vouches for a bundle: a person's word, a trusted key, and what the prefix holds already.

The medium is never evidence: the key that a signature is checked with comes from a person or from
the prefix, and a key on the medium counts only where a person typed its fingerprint.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llava_pack.format import files
from llava_pack.format.errors import (
    CannotVerifyError,
    DowngradeError,
    IntegrityError,
    SignatureError,
    UsageError,
)
from llava_pack.format.manifest import Manifest
from llava_pack.format.signature import (
    CONTROL,
    FINGERPRINT,
    KEY_NAME,
    MAX_SIGNATURE_BYTES,
    SIG_NAME,
    SSHSIG_NAME,
    TOOLS,
    PublicKey,
    Signed,
    parse_public_key,
)
from llava_pack.format.sums import SUMS_NAME
from llava_pack.target import disk, generations, inventory, programs
from llava_pack.target.inventory import BundleListing

_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why a bundle may be installed."""

    by: str
    """`--expect`, `--trust-key`, `pinned key`, or several of them; `nothing` where none was."""
    signature: Literal["good", "unsigned"]
    key: PublicKey | None
    """That made the signature, None where there is none."""
    trusted: bool
    """The key was named by a person or is pinned; any other vouches only for itself."""
    tools: tuple[str, ...]
    """That accepted the signature."""
    expect: str = ""
    """How the id came that `--expect` named, where that is known."""

    def facts(self) -> dict[str, Any]:
        """Return what a receipt and `--json` hold."""
        facts: dict[str, Any] = {"by": self.by, "signature": self.signature}
        if self.expect:
            facts["expect"] = self.expect
        if self.key is not None:
            key = {"key": self.key.fingerprint, "key_trusted": self.trusted}
            facts |= {**key, "tools": list(self.tools)}
        return facts


def judge(listing: BundleListing, *, trust_key: str | None, prefix: Path | None) -> Verdict:
    """Check the signatures of a bundle, with the trusted key where there is one.

    Args:
        listing: held against `--expect` already, where a person typed one.
        trust_key: a file, or the fingerprint of the key that the bundle carries.
        prefix: whose pinned key counts; None to go by what was typed alone.

    Raises:
        SignatureError: a signature is bad, one is missing, or it is by another key.
        CannotVerifyError: no tool can check it, or the pinned key cannot be read.
        IntegrityError: a file of the signer's is larger than any of them.
        UsageError: `trust_key` is not usable.
    """
    pinned = None if prefix is None else pinned_key(prefix)
    given = None if trust_key is None else given_key(trust_key, listing.root)
    if given is not None and pinned is not None and given != pinned:
        raise SignatureError(
            f"expected the pinned key {pinned.fingerprint}, got {given.fingerprint}",
            subject="--trust-key",
            hint=f"if the publisher's key really changed: rm {prefix}/trust/{KEY_NAME}, then run "
            "the same command again",
        )
    words = {"--expect": listing.expected, "--trust-key": given, "pinned key": pinned}
    by = " and ".join(word for word, is_there in words.items() if is_there) or "nothing"
    trusted = given or pinned
    found = {name: _optional(listing.root, name) for name in (SIG_NAME, SSHSIG_NAME)}
    missing = [name for name, data in found.items() if data is None]
    if missing and (trusted is not None or len(missing) == 1):
        raise SignatureError(
            "missing, expected both signatures" + (" by the trusted key" if trusted else ""),
            subject=" and ".join(missing),
            hint=_unsigned_hint(prefix) if pinned else "llava-pack build --sign KEY creates both",
        )
    if missing:
        return Verdict(by=by, signature="unsigned", key=None, trusted=False, tools=())
    key = trusted or parse_public_key(_optional(listing.root, KEY_NAME) or b"")
    signed = Signed(key, listing.sums_bytes, found[SIG_NAME] or b"", found[SSHSIG_NAME] or b"")
    tools = _accepting(signed)
    return Verdict(by=by, signature="good", key=key, trusted=trusted is not None, tools=tools)


def check_named(verdict: Verdict, bundle: Path) -> None:
    """Refuse a bundle for which neither a person nor the prefix vouches.

    Raises:
        CannotVerifyError: there is nothing to verify it against.
    """
    if verdict.by == "nothing":
        message = "there is nothing to verify this bundle against, expected --expect or --trust-key"
        hint = f"llava-pack install {bundle} --expect ID, with the id from the card"
        raise CannotVerifyError(message, subject=str(bundle), hint=hint)


def pinned_key(prefix: Path) -> PublicKey | None:
    """Return the key of the bundles that this prefix takes, None before one was installed by it.

    Raises:
        CannotVerifyError: there is a file, but no key in it.
    """
    path = prefix / "trust" / KEY_NAME
    try:
        with inventory.open_file(prefix, f"trust/{KEY_NAME}") as stream:
            return parse_public_key(stream.read(MAX_SIGNATURE_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, SignatureError) as error:
        _pass_on(error)
        message = "expected the key that was pinned here, got something else"
        hint = f"restore the publisher's key, or rm {path} and pass --trust-key"
        raise CannotVerifyError(message, subject=str(path), hint=hint) from error


def given_key(trust_key: str, bundle: Path) -> PublicKey:
    """Return the key that a person means: in a file, or the bundle's with the fingerprint typed.

    Raises:
        UsageError: the file is none, holds no P-256 key, or is on the medium.
        SignatureError: the key in the bundle has another fingerprint.
    """
    digits = trust_key.strip().lower()
    if FINGERPRINT.fullmatch(digits):
        key = parse_public_key(_optional(bundle, KEY_NAME) or b"")
        if key.fingerprint != digits:
            message = f"expected fingerprint {digits}, got {key.fingerprint}"
            raise SignatureError(message, subject=KEY_NAME, hint="compare with the build's card")
        return key
    path = Path(trust_key).absolute()
    hint = "pass the publisher's public key, or its fingerprint"
    if path.resolve().is_relative_to(bundle.resolve()):
        message = "is part of the bundle, expected a key from another source"
        raise UsageError(message, subject=str(path), hint=hint)
    try:
        with path.open("rb") as stream:
            return parse_public_key(stream.read(MAX_SIGNATURE_BYTES))
    except (OSError, SignatureError) as error:
        _pass_on(error)
        message = "expected a file with one P-256 public key in PEM, or 64 hex digits"
        raise UsageError(message, subject=f"--trust-key {trust_key}", hint=hint) from error


def _pass_on(error: Exception) -> None:
    """Raise what says nothing about a key or a tool: that this machine is short of something."""
    if isinstance(error, OSError) and error.errno in disk.SHORT:
        raise error


def _unsigned_hint(prefix: Path | None) -> str:
    return (
        "get a bundle signed by the pinned key; to accept unsigned bundles here from now on, "
        f"rm {prefix}/trust/{KEY_NAME}, then run the same command with --expect"
    )


def _optional(root: Path, name: str) -> bytes | None:
    """Return a small file of the medium, None where it is not there."""
    try:
        (root / name).lstat()
    except FileNotFoundError:
        return None
    data = inventory.read_file(root, name, MAX_SIGNATURE_BYTES)
    if len(data) > MAX_SIGNATURE_BYTES:
        message = f"size, expected at most {MAX_SIGNATURE_BYTES} bytes, got more"
        raise IntegrityError(message, subject=name, hint=inventory.COPY_AGAIN)
    return data


def _lay(folder: Path, signed: Signed) -> None:
    folder.mkdir()
    texts = {"key.pem": signed.key.pem, "allowed_signers": signed.key.allowed_signers}
    texts |= {"message": signed.message, "sig": signed.sig, "sshsig": signed.sshsig}
    for name, data in texts.items():
        (folder / name).write_bytes(data)


def _accepts(program: str, folder: Path) -> bool:
    environ = {"PATH": programs.SEARCH_PATH, "LC_ALL": "C", **programs.SYSTEM}
    with (folder / "message").open("rb") as message:
        try:
            done = subprocess.run(
                [program, *TOOLS[Path(program).stem]], stdin=message, env=environ, cwd=folder,
                capture_output=True, check=False, timeout=_TIMEOUT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            _pass_on(error)
            return False
    return done.returncode == 0


def _accepting(signed: Signed) -> tuple[str, ...]:
    """Return the tools that accept a signature: every tool here that can tell, and at least one."""
    with tempfile.TemporaryDirectory(prefix="llava-pack-") as scratch:
        folder = Path(scratch)
        _lay(folder / "signed", signed)
        _lay(folder / "control", CONTROL)
        _lay(folder / "forged", replace(CONTROL, message=b"llava-pack forged\n"))
        found = [shutil.which(name, path=programs.SEARCH_PATH) for name in TOOLS]
        tools = [tool for tool in found if tool and _accepts(tool, folder / "control")]
        tools = [tool for tool in tools if not _accepts(tool, folder / "forged")]
        for tool in tools:
            if not _accepts(tool, folder / "signed"):
                message = f"{tool} says that it was not signed by the key {signed.key.fingerprint}"
                hint = "the bundle was changed, or is somebody else's: ask the person who built it"
                raise SignatureError(message, subject=SUMS_NAME, hint=hint)
    if not tools:
        message = "neither openssl nor an ssh-keygen of OpenSSH 8.1 or newer works on this machine"
        hint = "install one of them: the signature must be checked"
        raise CannotVerifyError(message, subject=SUMS_NAME, hint=hint)
    return tuple(tools)


def check_change(
    prefix: Path, manifest: Manifest, bundle_id: str, *, recipe: str | None, named: bool,
    allow_downgrade: bool,
) -> None:  # fmt: skip
    """Refuse what would change a prefix without anybody having said so, by `recipe` or an id.

    Raises:
        UsageError: the bundle is of another recipe than the prefix has, or than was said.
        DowngradeError: a newer release of the recipe is installed.
    """
    name = manifest.recipe.name
    installed = generations.recipes(prefix)
    silent = recipe is None and not named and bool(installed) and name not in installed
    if silent or (recipe is not None and recipe != name):
        raise UsageError(
            f"the bundle is of recipe {name}, expected {recipe or ' or '.join(installed)}",
            subject=str(prefix),
            hint=f"to install {name} beside it, pass --recipe {name}",
        )
    items = generations.listing(prefix, name)
    if allow_downgrade or any(i.current and i.receipt.bundle_id == bundle_id for i in items):
        return
    newest = max((item.receipt.release for item in items), default=0)
    if manifest.release < newest:
        message = f"the bundle is of release {manifest.release}, expected {newest} or newer"
        hint = "llava-pack revert returns to an installed release; --allow-downgrade overrides this"
        raise DowngradeError(message, subject=name, hint=hint)


def pin(prefix: Path, verdict: Verdict) -> None:
    """Keep the trusted key that a bundle was installed by: later ones must be signed by it."""
    if verdict.key is None or not verdict.trusted or pinned_key(prefix) == verdict.key:
        return
    (prefix / "trust").mkdir(mode=0o755, exist_ok=True)
    files.write(prefix / "trust" / KEY_NAME, verdict.key.pem, 0o444)
