"""One look at an address: what answers there, after redirects."""

from collections.abc import Mapping

from llava_pack.network.client import open_client
from llava_pack.network.front import NetworkFront
from llava_pack.network.obstacles import Reply

_WITHIN_S = 10.0
_AT_MOST_BYTES = 8 << 20
"""Pages of an index are long; what is longer is cut."""


def look(url: str, front: NetworkFront, *, headers: Mapping[str, str]) -> Reply | None:
    """Return what answers at an address; None where nothing does."""
    import httpx

    try:
        with (
            open_client(httpx, front, timeout=_WITHIN_S, follow_redirects=True) as client,
            client.stream("GET", url, headers=dict(headers)) as response,
        ):
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) >= _AT_MOST_BYTES:
                    break
            return Reply(
                asked=url,
                url=str(response.url),
                status=response.status_code,
                headers=response.headers,
                body=bytes(body),
            )
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
