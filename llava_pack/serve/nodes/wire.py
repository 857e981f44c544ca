"""What the head of several nodes and the others tell each other, as values and as lines.

Each line is a JSON object. The supervisors of the head and of a follower hold one connection, on
which both prove that they know the join key, and then say again and again what is wanted and what
is: a line that is lost with a connection changes nothing. The key itself is never sent.
"""

import hashlib
import hmac
import json
import secrets
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from typing import Any, TypeVar

from llava_pack.format.errors import PackError, ServeError
from llava_pack.serve.plain import from_plain, to_plain

BEAT_S = 2.0
"""How often each side says how it stands."""
SILENT_S = 10.0
"""How long a side that says nothing counts as there."""
MAX_LINE_BYTES = 16 * 1024
_NONCE_BYTES = 32

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """The first line, of the head: that it is one, and what a follower's proof is made from."""

    head: str
    nonce: str


@dataclass(frozen=True, kw_only=True)
class Application:
    """The follower's answer.

    Attributes:
        rank: its place.
        bundle_id: of what is installed there.
        address: its own, which the other nodes reach.
        nonce: what the head's proof is made from.
        proof: that it has the key.
    """

    rank: int
    bundle_id: str
    address: str
    nonce: str
    proof: str = ""


@dataclass(frozen=True, kw_only=True)
class JoinVerdict:
    """The head's answer to that: its own proof, or the error that the follower ends with."""

    proof: str = ""
    kind: str = ""
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class SharedSettings:
    """What the engines of all nodes have to be started with alike."""

    precision: str
    device: str
    slots: int
    context_tokens: int | None
    gpus: int | None


@dataclass(frozen=True, kw_only=True)
class NodeOrder:
    """What the head wants.

    Attributes:
        life: number of the start that is to run; 0 for none.
        count: how many nodes there are.
        port: of the head, where the engines meet.
        settings: of the engines.
    """

    life: int
    count: int
    port: int
    settings: SharedSettings


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """How a follower stands.

    Attributes:
        life: number of the start that runs there, also while it ends; 0 for none.
        ended: number of the last one that ended by itself.
        why: that one ended.
    """

    life: int = 0
    ended: int = 0
    why: str = ""


def new_nonce() -> str:
    """Return a text that nobody had before."""
    return secrets.token_hex(_NONCE_BYTES)


def proof(key: str, side: str, greeting: Greeting, application: Application) -> str:
    """Return what only who has the key can say of a greeting and an application.

    Args:
        key: the join key.
        side: whose proof it is, so that none can be handed back: `head` or `follower`.
        greeting: of the head.
        application: of the follower; its own proof is no part of it.

    Source: RFC 2104.
    """
    told = {**to_plain(application), "proof": "", "side": side, "greeting": to_plain(greeting)}
    message = json.dumps(told, sort_keys=True).encode()
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def refusal(error: PackError) -> JoinVerdict:
    """Return the verdict that a follower ends with."""
    return JoinVerdict(kind=error.kind, message=error.message, hint=error.hint)


def send(writer: StreamWriter, value: object) -> None:
    """Write a value as a line, for a peer that reads it later or never."""
    writer.write(json.dumps(to_plain(value)).encode() + b"\n")


async def receive(reader: StreamReader, kind: type[_T]) -> _T:
    """Return the next line as a value.

    Raises:
        OSError: the connection has ended.
        ServeError: the line is no such value.
    """
    try:
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("the connection was closed")
        told: Any = json.loads(line)
    except ValueError as error:  # also a line that is too long
        raise ServeError("another node sent a line that this version does not know") from error
    return from_plain(kind, told)
