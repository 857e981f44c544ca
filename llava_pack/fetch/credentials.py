"""Who to be at a package index: what its URL in a variable says, else ~/.netrc."""

import base64
import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llava_pack.fetch.remote import origin

_VARIABLES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
)


def index_headers(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for a file of a package index, empty where nobody gave credentials.

    >>> index_headers("https://a.example/f/x.whl", {"UV_INDEX": "b=https://u:p@a.example/simple"})
    {'Authorization': 'Basic dTpw'}
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        return {}
    for text in " ".join(environ.get(name, "") for name in _VARIABLES).split():
        index = urlsplit(text[text.find("http") :])
        if index.username is not None and origin(index.geturl()) == origin(url):
            return _basic(unquote(index.username), unquote(index.password or ""))
    found = _netrc(environ, urlsplit(url).hostname or "")
    return {} if found is None else _basic(*found)


def _netrc(environ: Mapping[str, str], host: str) -> tuple[str, str] | None:
    place = environ.get("NETRC") or "~/.netrc"
    try:
        known = netrc.netrc(Path(place).expanduser()).authenticators(host)
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return None
    return None if known is None else (known[0], known[2] or "")


def _basic(user: str, password: str) -> dict[str, str]:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}
