"""A package index as it answers itself: its page of a package, and a file that it links to."""

import json
import re
from html import unescape
from urllib.parse import urljoin, urlsplit

from llava_pack.format.errors import PackError
from llava_pack.network.front import NetworkFront
from llava_pack.network.look import look
from llava_pack.network.obstacles import Reply, obstacle

ACCEPT = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.1"}
"""Source: PEP 691."""
_LINK = re.compile(r"<a\b[^>]*?\bhref\s*=\s*[\"']([^\"']+)", re.IGNORECASE)
_FILES = (".whl", ".tar.gz", ".zip")


def page_of(index: str, package: str) -> str:
    """Return the address of a package's page.

    >>> page_of("https://packages.example/simple/", "torch")
    'https://packages.example/simple/torch/'
    """
    return f"{index.rstrip('/')}/{package}/"


def links_of(page: Reply) -> tuple[str, ...]:
    """Return the addresses of the files on an index's page, in its order."""
    text = page.body.decode("utf-8", "replace")
    if page.is_page or text.lstrip().startswith("<"):
        found = [unescape(link) for link in _LINK.findall(text)]
    else:
        try:
            found = [str(file["url"]) for file in json.loads(text)["files"]]
        except (ValueError, KeyError, TypeError):
            return ()
    urls = [urljoin(page.url, link).partition("#")[0] for link in found]
    return tuple(url for url in urls if urlsplit(url).path.endswith(_FILES))


def index_obstacle(index: str, package: str, front: NetworkFront) -> PackError | None:
    """Ask an index for a package's page and a file of it; return what stands in between, if any.

    An index answers with web pages by right: one with links to files is its own.
    """
    url = page_of(index, package)
    page = look(url, front, headers=ACCEPT)
    if page is None:
        return None
    links = links_of(page)
    if not links:
        return obstacle(page, url, front.proxies.proxy_for(page.url))
    file = look(links[-1], front, headers={"Range": "bytes=0-0"})
    name = urlsplit(links[-1]).path.rpartition("/")[2]
    return None if file is None else obstacle(file, name, front.proxies.proxy_for(file.url))
