"""Authorities of one's own, made by openssl, and certificates that they sign."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Authority:
    """An authority in a folder: `root.pem` is what a client believes."""

    folder: Path

    @property
    def root(self) -> Path:
        """Its own certificate."""
        return self.folder / "root.pem"

    @property
    def hashed(self) -> Path:
        """A folder with its certificate under the name that OpenSSL looks for."""
        return self.folder / "hashed"

    def server(self, *names: str) -> Path:
        """Return certificate and key of a server by these names, in one file.

        Args:
            names: as openssl writes them, for example `IP:127.0.0.1` or `DNS:hub.corp`.
        """
        stem = self.folder / f"server-{len(list(self.folder.glob('server-*.pem')))}"
        key, asked, signed = (stem.with_suffix(end) for end in (".key", ".csr", ".crt"))
        extension = stem.with_suffix(".ext")
        extension.write_text(f"subjectAltName={','.join(names)}\n")
        _openssl(*_NEW_KEY, "-keyout", key, "-out", asked, "-subj", "/CN=server")
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.root, "-CAkey", self.folder / "root.key",
            "-CAcreateserial", "-days", "2", "-extfile", extension, "-out", signed,
        )  # fmt: skip
        both = stem.with_suffix(".pem")
        both.write_bytes(signed.read_bytes() + key.read_bytes())
        return both


_NEW_KEY = ("req", "-utf8", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_authority(folder: Path, name: str = "Corp Inspection CA") -> Authority:
    """Return a new authority in an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Authority(folder=folder)
    _openssl(
        *_NEW_KEY, "-x509", "-days", "2", "-subj", f"/O=Corp/CN={name}",
        "-keyout", folder / "root.key", "-out", made.root,
    )  # fmt: skip
    made.hashed.mkdir()
    name = _openssl("x509", "-in", made.root, "-noout", "-subject_hash").decode().strip()
    (made.hashed / f"{name}.0").write_bytes(made.root.read_bytes())
    return made


def _openssl(*arguments: object) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout
