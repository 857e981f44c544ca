"""Features of pictures that were seen, kept up to a number of bytes; the oldest go first."""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that knows its bytes, as tensors do."""

    @property
    def nbytes(self) -> int:
        """Return its size."""


T = TypeVar("T", bound=Sized)


class FeatureCache(Generic[T]):
    """Maps what a picture is to what the tower saw of it.

    Keys are made here on the server, from the decoded pixels and all that is done to them before
    the tower; no client can name one.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[tuple[str, ...], T] = OrderedDict()
        self.size_bytes = 0
        self.queries = 0
        self.hits = 0

    def get(self, key: tuple[str, ...]) -> T | None:
        """Return what is kept under a key, and count that it was asked for."""
        self.queries += 1
        found = self._kept.get(key)
        if found is not None:
            self.hits += 1
            self._kept.move_to_end(key)
        return found

    def shared(self) -> None:
        """Count a query that was answered by one beside it."""
        self.queries += 1
        self.hits += 1

    def put(self, key: tuple[str, ...], value: T) -> None:
        """Keep a value, unless it alone is larger than everything that may be kept."""
        if key in self._kept or value.nbytes > self._limit_bytes:
            return
        self._kept[key] = value
        self.size_bytes += value.nbytes
        while self.size_bytes > self._limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.nbytes
