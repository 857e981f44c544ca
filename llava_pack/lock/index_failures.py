"""What uv says when it fails, and what of it is the network's doing."""

import re
from urllib.parse import urlsplit

from llava_pack.format.errors import PackError
from llava_pack.network.client import absence
from llava_pack.network.front import NetworkFront
from llava_pack.network.index_pages import ACCEPT, index_obstacle
from llava_pack.network.look import look
from llava_pack.network.obstacles import obstacle, proxy_failure, untrusted

# Source: uv's own messages (uv-client, uv-resolver).
_URL = re.compile(r"https?://[^\s`()]+")
_PACKAGE = re.compile(
    r"(?:Because |and )?([\w.-]+) was not found in the package registry"
    r"|there are no versions of ([\w.-]+)"
    r"|Metadata for `([\w.-]+)`"
)
_FILE = re.compile(r"/([A-Za-z0-9_.]+?)-\d[^/\s]*(?:\.whl|\.tar\.gz)")
_STATUS = re.compile(r"HTTP status .* error .* for url\s+\((https?://[^\s)]+)\)")
_UNCONNECTED = "(Connect)"
_UNTRUSTED = "invalid peer certificate"


def network_failure(said: str, index: str, front: NetworkFront) -> PackError | None:
    """Return what stands between uv and the index, None where it is nothing that shows.

    Args:
        said: by uv.
        index: the default one.
        front: how it was asked.
    """
    url = match[0] if (match := _URL.search(said)) else index
    if _UNTRUSTED in said:
        return untrusted(urlsplit(url).hostname or url, "lock")
    proxy = front.proxies.proxy_for(url)
    absent = absence(proxy) if proxy and _UNCONNECTED in said else None
    if refused := proxy_failure(absent or said, "lock", proxy):
        return refused
    if match := _STATUS.search(said):
        reply = look(match[1], front, headers={**ACCEPT, "Range": "bytes=0-0"})
        name = urlsplit(match[1]).path.rpartition("/")[2].removesuffix(".metadata") or "lock"
        if reply and (problem := obstacle(reply, name, front.proxies.proxy_for(reply.url))):
            return problem
    package = _package(said)
    return index_obstacle(index, package, front) if index and package else None


def _package(said: str) -> str | None:
    """Return a package whose page or file uv could not use.

    >>> _package("Because foo was not found in the package registry")
    'foo'
    >>> _package("there are no versions of foo and you require foo")
    'foo'
    >>> _package("Failed to fetch: https://a/files/foo_bar-1.0-py3-none-any.whl.metadata")
    'foo-bar'
    """
    if match := _FILE.search(said):
        return match[1].replace("_", "-").lower()
    match = _PACKAGE.search(said)
    return next(filter(None, match.groups()), None) if match else None
