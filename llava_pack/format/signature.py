"""Signatures over SHA256SUMS: which keys and files count, and what two tools are asked.

There is no cryptography here: `openssl` and `ssh-keygen` do the arithmetic, on one P-256 key that
this module writes down for each of them.

Source: docs/reference/bundle-format.md, "Signatures".
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from llava_pack.format.errors import SignatureError

SIG_NAME = "SHA256SUMS.sig"
SSHSIG_NAME = "SHA256SUMS.sshsig"
KEY_NAME = "key.pem"
NAMESPACE = "llava-pack-bundle-v1"
PRINCIPAL = "llava-pack"
SSH_KEY_TYPE = b"ecdsa-sha2-nistp256"
SSHSIG_MAGIC = b"SSHSIG"
MAX_SIGNATURE_BYTES = 4096
_ARMOR_COLUMNS = 70
TOOLS = {
    "openssl": ["dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "message"],
    "ssh-keygen": f"-Y verify -f allowed_signers -I {PRINCIPAL} -n {NAMESPACE} -s sshsig".split(),
}
"""How each is asked about what was signed; the message is on its standard input too."""
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
DER_BYTES = 91
_POINT_BYTES = 65
# SubjectPublicKeyInfo of id-ecPublicKey on prime256v1, up to the 04 of an uncompressed point
_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_PEM = re.compile(
    rb"-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/]{64})\r?\n([A-Za-z0-9+/]{57}[AQgw]==)\r?\n"
    rb"-----END PUBLIC KEY-----(?:\r?\n)*"
)


@dataclass(frozen=True)
class PublicKey:
    """A P-256 public key."""

    der: bytes
    """SubjectPublicKeyInfo, 91 bytes."""

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the DER, 64 hex digits."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def pem(self) -> bytes:
        """Return the one PEM block of the key, for openssl."""
        text = base64.b64encode(self.der)
        lines = (b"-----BEGIN PUBLIC KEY-----", text[:64], text[64:], b"-----END PUBLIC KEY-----")
        return b"\n".join(lines) + b"\n"

    @property
    def ssh_blob(self) -> bytes:
        """Return the key as ssh writes it. Source: RFC 5656, section 3.1."""
        fields = (SSH_KEY_TYPE, b"nistp256", self.der[-_POINT_BYTES:])
        return b"".join(ssh_string(field) for field in fields)

    @property
    def allowed_signers(self) -> bytes:
        """Return the file that tells ssh-keygen to accept this key alone, for bundles alone."""
        options = f'{PRINCIPAL} namespaces="{NAMESPACE}" '.encode()
        return options + SSH_KEY_TYPE + b" " + base64.b64encode(self.ssh_blob) + b"\n"


def der_signature(r: int, s: int) -> bytes:
    """Return a signature as openssl writes it. Source: RFC 3279, section 2.2.3."""
    body = b"".join(b"\x02" + bytes([len(number)]) + number for number in map(_signed, (r, s)))
    return b"\x30" + bytes([len(body)]) + body


def der_numbers(signature: bytes) -> tuple[int, int]:
    """Return both numbers of a signature that openssl made, or accepted."""
    first = signature[4 : 4 + signature[3]]
    rest = signature[4 + len(first) :]
    return int.from_bytes(first, "big"), int.from_bytes(rest[2 : 2 + rest[1]], "big")


def ssh_signature(key: PublicKey, r: int, s: int) -> bytes:
    """Return a signature as `ssh-keygen -Y sign` writes it."""
    numbers = ssh_string(_signed(r)) + ssh_string(_signed(s))
    blob = _ssh_head(key) + ssh_string(ssh_string(SSH_KEY_TYPE) + ssh_string(numbers))
    text = base64.b64encode(blob)
    rows = [text[at : at + _ARMOR_COLUMNS] for at in range(0, len(text), _ARMOR_COLUMNS)]
    lines = (b"-----BEGIN SSH SIGNATURE-----", *rows, b"-----END SSH SIGNATURE-----")
    return b"".join(line + b"\n" for line in lines)


def ssh_numbers(signature: bytes, key: PublicKey) -> tuple[int, int]:
    """Return both numbers of a signature by `key` that ssh-keygen made, or accepted."""
    rows = signature.partition(b"-----\n")[2].partition(b"-----END")[0]
    # the lengths of the signature, of its type, of both numbers, and of the first of them
    rest = base64.b64decode(rows)[len(_ssh_head(key)) + 12 + len(SSH_KEY_TYPE) :]
    size = int.from_bytes(rest[:4], "big")
    return int.from_bytes(rest[4 : 4 + size], "big"), int.from_bytes(rest[8 + size :], "big")


def as_made(name: str, data: bytes, key: PublicKey) -> bytes | None:
    """Return the one form of a signer's file, with the numbers in `data`; None where it has none.

    Tools overlook what follows a signature (openssl reads 72 bytes), and a field that is reserved.
    """
    try:
        if name == SIG_NAME:
            return der_signature(*der_numbers(data))
        return key.pem if name == KEY_NAME else ssh_signature(key, *ssh_numbers(data, key))
    except (ValueError, IndexError):
        return None


def _ssh_head(key: PublicKey) -> bytes:
    """Return all but the signature itself. Source: OpenSSH, PROTOCOL.sshsig, section 3."""
    namespace = ssh_string(NAMESPACE.encode()) + ssh_string(b"")
    return SSHSIG_MAGIC + (1).to_bytes(4, "big") + ssh_string(key.ssh_blob) + namespace + _HASH


def _signed(number: int) -> bytes:
    if number >> 256:
        raise ValueError("expected a number of at most 256 bits")
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def ssh_string(data: bytes) -> bytes:
    """Return bytes with their length before them. Source: RFC 4251, section 5."""
    return len(data).to_bytes(4, "big") + data


def parse_public_key(data: bytes) -> PublicKey:
    """Return the key of one PEM block; any other kind of key, and anything beside it, is refused.

    Raises:
        SignatureError: it is not exactly one P-256 public key.
    """
    match = _PEM.fullmatch(data)
    der = base64.b64decode(b"".join(match.groups())) if match else b""
    if len(der) != DER_BYTES or not der.startswith(_PREFIX):
        raise SignatureError("expected one PEM block with a P-256 public key", subject=KEY_NAME)
    return PublicKey(der)


_HASH = ssh_string(b"sha512")


@dataclass(frozen=True)
class Signed:
    """A message, two signatures, and the one key that must have made them."""

    key: PublicKey
    message: bytes
    sig: bytes
    sshsig: bytes


CONTROL = Signed(
    key=PublicKey(
        base64.b64decode(
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErkNKrrIRf47tjaW1GbrG6j7wQxiWg7BF94PgqWMb3w7qoNsDxqiT"
            "RioRBs8J3BbCWVharwezcj7GoLezmwM9eA=="
        )
    ),
    message=b"llava-pack control\n",
    sig=base64.b64decode(
        "MEYCIQDsGC8gJfkEewbEc1sq9Cu/w8VNlfaFxuTDkRIJZk2dPQIhAPKmtK6VeszCsa8GN/58VOfee/yflwOpBCM/"
        "CznIe86j"
    ),
    sshsig=b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EErkNKrrIRf47tjaW1GbrG6j7wQxiWg7BF94PgqWMb3w7qoNsDxqiTRioRBs8J3BbCWVha
rwezcj7GoLezmwM9eAAAABRsbGF2YS1wYWNrLWJ1bmRsZS12MQAAAAAAAAAGc2hhNTEyAA
AAZAAAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAASQAAACEAuV7ynp6pn4BSSvLDIqI+Aouh
O1pyp6QX8rwF7BorUysAAAAgMVnbBh9tFCzOC72AD/NvFxMeGA9nqqs6un1+P5K4/v4=
-----END SSH SIGNATURE-----
""",
)
"""Known to be good, by a key that signs nothing else: a tool that does not accept it, or accepts it
for other bytes, is too old or broken, and counts as absent."""
