"""Who to be at a package index: what its URL says, else ~/.netrc, else the keyring."""

import base64
import netrc
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from llava_pack.fetch.remote import origin
from llava_pack.lock.indexes import Indexes

_KEYRING_TIMEOUT_S = 60


class Credentials:
    """Headers for the files of package indexes; each origin is looked up once.

    Args:
        indexes: what uv and pip are configured with.
        environ: NETRC names the file of names and passwords.
    """

    def __init__(self, indexes: Indexes, environ: Mapping[str, str]) -> None:
        self._indexes = indexes
        self._environ = environ
        self._found: dict[str, dict[str, str]] = {}

    def headers(self, url: str) -> dict[str, str]:
        """Return the headers for a file of a package index, empty where nobody gave credentials.

        >>> indexes = Indexes(urls=("https://u:p@a.example/simple",))
        >>> Credentials(indexes, {}).headers("https://a.example/f/x.whl")
        {'Authorization': 'Basic dTpw'}
        """
        if urlsplit(url).scheme not in {"http", "https"}:
            return {}
        place = origin(url)
        if place not in self._found:
            self._found[place] = self._look_up(place)
        return self._found[place]

    def _look_up(self, place: str) -> dict[str, str]:
        index = next((one for text in self._indexes.urls if (one := _of(text, place))), None)
        user = unquote(index.username or "") if index else ""
        if index and index.password is not None:
            return _basic(user, unquote(index.password))
        if found := _netrc(self._environ, urlsplit(place).hostname or "", user):
            return _basic(*found)
        if index and user and self._indexes.keyring:
            service = index._replace(netloc=index.netloc.rpartition("@")[2]).geturl()
            for name in (service, index.hostname or ""):
                if (password := _keyring(name, user)) is not None:
                    return _basic(user, password)
        return _basic(user, "") if user else {}


def _of(text: str, place: str) -> SplitResult | None:
    """Return an index's URL where it is of that origin and names a user."""
    index = urlsplit(text)
    return index if index.username is not None and origin(text) == place else None


def _netrc(environ: Mapping[str, str], host: str, user: str) -> tuple[str, str] | None:
    place = environ.get("NETRC") or "~/.netrc"
    try:
        known = netrc.netrc(Path(place).expanduser()).authenticators(host)
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return None
    if known is None or (user and known[0] != user):
        return None
    return known[0], known[2] or ""


def _keyring(service: str, user: str) -> str | None:
    """Ask the `keyring` program, as pip and uv do."""
    program = shutil.which("keyring")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "get", service, user],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_KEYRING_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stdout.rstrip("\r\n")
    return said if done.returncode == 0 and said else None


def _basic(user: str, password: str) -> dict[str, str]:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}
