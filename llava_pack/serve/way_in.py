"""How a person's ssh got to this server, as that person's laptop tells: `--reached-as`."""

import re
from dataclasses import dataclass

from llava_pack.format.errors import UsageError

_HOP = re.compile(
    r"(?:(?P<user>[^\s,@]+)@)?(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s,@:\[\]-][^\s,@:\[\]]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, kw_only=True)
class WayIn:
    """A destination of ssh, as it was typed."""

    user: str
    """Empty where ssh's own configuration says it."""
    host: str
    port: int | None
    """None where nobody typed one."""
    jump: str
    """For `ssh -J`; empty for none."""


def way_in(text: str) -> WayIn:
    """Return what is meant by the hops of a login, the server last.

    Raises:
        UsageError: it is no list of hops.

    >>> way_in("ada@bastion,root@gpu01:42354")
    WayIn(user='root', host='gpu01', port=42354, jump='ada@bastion')
    """
    hops = text.split(",")
    found = [_HOP.fullmatch(hop) for hop in hops]
    last = found[-1]
    if last is None or None in found or int(last["port"] or 1) not in range(1, 65536):
        raise UsageError(
            f"expected USER@HOST:PORT, or USER@BASTION,USER@HOST:PORT, got {text}",
            subject="--reached-as",
        )
    return WayIn(
        user=last["user"] or "",
        host=last["host"].strip("[]"),
        port=int(last["port"]) if last["port"] else None,
        jump=",".join(hops[:-1]),
    )
