"""Keys of a publisher and of somebody else, and bundles signed with them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from llava_pack.assemble.signing import Signer, generate, open_key, sign
from llava_pack.format.signature import KEY_NAME, SIG_NAME, SSHSIG_NAME
from llava_pack.format.sums import SUMS_NAME


@dataclass(frozen=True)
class Publisher:
    """Somebody with a key pair."""

    signer: Signer
    public_file: Path

    @property
    def fingerprint(self) -> str:
        """Return what their cards say."""
        return self.signer.public.fingerprint

    def sign(self, bundle: Path) -> None:
        """Sign a bundle as `build --sign` does."""
        signatures = sign(self.signer, (bundle / SUMS_NAME).read_bytes())
        (bundle / SIG_NAME).write_bytes(signatures.der)
        (bundle / SSHSIG_NAME).write_bytes(signatures.sshsig)
        (bundle / KEY_NAME).write_bytes(self.signer.public.pem)


def new_publisher(folder: Path, name: str) -> Publisher:
    """Make a key pair without a passphrase in `folder`."""
    key, public_file = folder / f"{name}.key", folder / f"{name}.pub.pem"
    public_file.write_bytes(generate(key, "", protected=False).pem)
    return Publisher(open_key(key, ""), public_file)


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    """Run openssl and return what it wrote.

    Raises:
        CalledProcessError: it failed.
    """
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True)
    return done.stdout


def other_key(folder: Path, *kind: str) -> tuple[Path, bytes]:
    """Return a private key of another kind, as `openssl genpkey` is told it, and its public PEM."""
    key = folder / "other.key"
    openssl("genpkey", *kind, "-out", key)
    return key, openssl("pkey", "-in", key, "-pubout")
