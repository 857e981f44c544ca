"""Which replica answers: near what it has seen, never far from the least loaded. Pure.

A replica that saw a picture, or the beginning of a conversation, has kept what it computed of it.
So every request has an affinity, and each replica a score for it that no other replica changes
(rendezvous hashing, weighted by slots): where one leaves, only what was its own moves. Affinity
yields to load: a replica whose slots are taken by `YIELDS` more than the least loaded one's is
passed over.

Source: Thaler, Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); Mirrokni, Thorup,
Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018).
"""

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass

from llava_pack.engine.port import Message, Picture, Request

HERE = "local"
"""In place of an address, for the engine that a server has itself."""
YIELDS = 0.5
"""How much more of its slots a replica may have taken than the least loaded one, for affinity."""
_HASH_BYTES = 6
"""As many bits as a float holds exactly: no score is a division by zero."""
_DRAWN = 2.0 ** (8 * _HASH_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """A replica, as the rule sees it."""

    replica: str
    """Its address: what it is hashed by."""
    slots: int
    """Requests that it runs at once, at least 1."""
    busy: int
    """Requests that run or wait there."""
    ready: bool = True
    """Whether it may be asked at all."""

    @property
    def share(self) -> float:
        """The part of its slots that is taken; above 1 where requests wait."""
        return self.busy / self.slots

    @property
    def full(self) -> bool:
        """Whether one more request would wait there."""
        return self.busy >= self.slots


def choose(loads: Collection[ReplicaLoad], affinity: bytes) -> ReplicaLoad | None:
    """Return the replica that answers a request, None where none is ready.

    Args:
        loads: of every replica.
        affinity: of the request, see `affinity_of`.

    >>> busy = {"a": 0, "b": 3}
    >>> loads = [ReplicaLoad(replica=name, slots=4, busy=busy[name]) for name in busy]
    >>> [choose(loads, bytes([n])).replica for n in range(4)]
    ['a', 'a', 'a', 'a']
    """
    ready = [load for load in loads if load.ready]
    free = [load for load in ready if not load.full] or ready
    if not free:
        return None
    bound = min(load.share for load in free) + YIELDS
    return max(
        (load for load in free if load.share <= bound), key=lambda load: _score(load, affinity)
    )


def affinity_of(request: Request) -> bytes:
    """Return what requests share that are best answered where one of them was.

    That is the first thing that a person showed: the pictures of their first message, else all
    that was said up to it. Every later turn of a conversation begins alike, and so do other
    questions about the same pictures. Under another salt nothing is reused, so it is part of it.
    """
    found = hashlib.blake2b(request.salt.encode(), digest_size=_HASH_BYTES)
    for message in _beginning(request.messages):
        for part in message.pictures or message.parts:
            said = part.digest if isinstance(part, Picture) else part
            found.update(b"\0" + said.encode(errors="surrogatepass"))
    return found.digest()


def _beginning(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the first message of a person with what precedes it, or alone with its pictures."""
    for number, message in enumerate(messages):
        if message.role == "user":
            return (message,) if message.pictures else messages[: number + 1]
    return messages


def _score(load: ReplicaLoad, affinity: bytes) -> float:
    """Return how near a replica is to a request; the nearest one's share goes by its slots."""
    drawn = hashlib.blake2b(load.replica.encode(), key=affinity, digest_size=_HASH_BYTES).digest()
    return -load.slots / math.log((int.from_bytes(drawn) + 0.5) / _DRAWN)
