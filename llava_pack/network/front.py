"""The one front: what every program of the laptop is told of certificates and proxies."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.request import getproxies

from llava_pack.network import proxies, trust
from llava_pack.network.proxies import Proxies, read_proxies
from llava_pack.network.trust import Trust, read_trust

_OWN_SETTINGS = ("win32", "darwin")
"""Systems that keep proxies elsewhere than in variables."""


@dataclass(frozen=True, kw_only=True)
class NetworkFront:
    """Certificates and proxies, read once from an environment."""

    trust: Trust
    proxies: Proxies

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment for uv in which it decides as everything else here does."""
        ours = {name.upper() for name in (*trust.VARIABLES, *proxies.VARIABLES)}
        others = {name: value for name, value in environ.items() if name.upper() not in ours}
        return {**others, **self.trust.variables(), **self.proxies.variables()}


def read_front(environ: Mapping[str, str]) -> NetworkFront:
    """Return what an environment says.

    Raises:
        UsageError: a variable of it cannot be used; it is named.
    """
    told = {name.upper() for name, value in environ.items() if value}
    none = not told & set(proxies.VARIABLES)
    system = getproxies() if none and sys.platform in _OWN_SETTINGS else {}
    return NetworkFront(trust=read_trust(environ), proxies=read_proxies(environ, system))
