"""Whose certificates are believed: one answer for the Hub's client, the downloader and uv.

A variable stands in place of the system's store, as it does for OpenSSL, curl and requests. The
first of these that is set decides: SSL_CERT_FILE and SSL_CERT_DIR together, REQUESTS_CA_BUNDLE,
CURL_CA_BUNDLE, PIP_CERT; the later ones may name a folder too.
"""

import os
import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import UsageError, reason_of

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_BUNDLES = VARIABLES[2:]
_HASHED = re.compile(r"[0-9a-fA-F]{8}\.\d+")
"""How OpenSSL finds a certificate in a folder. Source: openssl-rehash(1)."""
_KEEPERS = ("win32", "darwin")
"""Systems that judge certificates themselves."""
_CANDIDATES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where systems keep their store. Source: truststore 0.10, _openssl.py."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The certificates of authorities that are believed.

    Attributes:
        file: of PEM; None where there is none.
        folders: of certificates under the names that OpenSSL gives them.
        origin: the variables that say so, empty for the system's own store.
    """

    file: Path | None = None
    folders: tuple[Path, ...] = ()
    origin: str = ""

    def context(self) -> ssl.SSLContext:
        """Return what a TLS client verifies with; with neither file nor folder, by the system.

        It is as strict as curl and uv are, whatever this Python's defaults: many companies' own
        authorities are not written as strictly as RFC 5280 wants them.
        """
        if self.file is None and not self.folders:
            import truststore

            return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        for folder in self.folders:
            context.load_verify_locations(capath=folder)
        if self.file is not None:
            context.load_verify_locations(cafile=self.file)
        return context

    def variables(self) -> dict[str, str]:
        """Return the same for uv. UV_NATIVE_TLS is what older ones call UV_SYSTEM_CERTS."""
        told = {}
        if self.file is not None:
            told["SSL_CERT_FILE"] = str(self.file)
        if self.folders:
            told["SSL_CERT_DIR"] = os.pathsep.join(map(str, self.folders))
        return told or {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}


def read_trust(environ: Mapping[str, str], platform: str = sys.platform) -> Trust:
    """Return what an environment says, else the system's store.

    Raises:
        UsageError: a variable names what is not there, or holds no certificate.
    """
    if environ.get("SSL_CERT_FILE") or environ.get("SSL_CERT_DIR"):
        return _openssl(environ)
    for variable in _BUNDLES:
        if named := environ.get(variable):
            path = Path(named)
            if path.is_dir():
                return Trust(folders=(_folder(path, variable),), origin=variable)
            return Trust(file=_file(path, variable), origin=variable)
    return Trust() if platform in _KEEPERS else _system_store()


def _openssl(environ: Mapping[str, str]) -> Trust:
    """Return what OpenSSL's own two variables say, which count together."""
    file, folders = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    return Trust(
        file=_file(Path(file), "SSL_CERT_FILE") if file else None,
        folders=tuple(
            _folder(Path(one), "SSL_CERT_DIR") for one in (folders or "").split(os.pathsep) if one
        ),
        origin=" + ".join(name for name in VARIABLES[:2] if environ.get(name)),
    )


def _file(path: Path, variable: str) -> Path:
    """Return a file of certificates.

    Raises:
        UsageError: it is none.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise _refused(variable, path, "it holds no certificate that can be read") from error
    except OSError as error:
        raise _refused(variable, path, reason_of(error)) from error
    return path.absolute()


def _folder(path: Path, variable: str) -> Path:
    """Return a folder of certificates.

    Raises:
        UsageError: it is none.
    """
    try:
        hashed = _has_hashed(path)
    except OSError as error:
        raise _refused(variable, path, reason_of(error)) from error
    if not hashed:
        raise UsageError(
            f"names {path}, where no certificate has the name that OpenSSL looks for",
            subject=variable,
            hint=f"run: openssl rehash {path}, or name a file of certificates (.pem)",
        )
    return path.absolute()


def _has_hashed(folder: Path) -> bool:
    return any(_HASHED.fullmatch(path.name) for path in folder.iterdir())


def _refused(variable: str, path: Path, reason: str) -> UsageError:
    return UsageError(
        f"names {path}: {reason}",
        subject=variable,
        hint="set it to a file of certificates (.pem) that is there, or unset it: then the "
        "system's own store counts",
    )


def _system_store() -> Trust:
    """Return where OpenSSL was built to look, else where systems keep it, else Mozilla's list."""
    built = ssl.get_default_verify_paths()
    for text in (built.openssl_cafile, *_CANDIDATES):
        if text and Path(text).is_file():
            return Trust(file=Path(text))
    folder = Path(built.openssl_capath)
    if folder.is_dir() and _has_hashed(folder):
        return Trust(folders=(folder,))
    import certifi

    return Trust(file=Path(certifi.where()))
