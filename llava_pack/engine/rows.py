"""Which request gets which row of the cache, and what of an earlier conversation stays there.

A row that a request has left keeps its keys and values until somebody needs the row. A newcomer
whose prompt begins as such a row does takes over what is common: the next turn of a conversation
prefills only what is new. Prompts are compared by token ids and, where pictures stand, by digests
of their pixels, within one salt.

Keys and values of a prompt are computed in chunks that begin at multiples of one length, so a
whole chunk has the same bits whoever computed it; those of an answer were computed token by token,
next to others. Where an engine is exact, a row's answer is therefore taken over only by a prompt
that goes on after it, and anything else in whole chunks.
"""

from dataclasses import dataclass

from llava_pack.engine.manner import Manner
from llava_pack.engine.prompt import Keys


@dataclass(frozen=True, slots=True)
class Held:
    """What a row holds.

    `prompt` tokens were the prompt of the request that had it last; the first `whole` tokens are
    those that anybody's chunks give.
    """

    keys: Keys = ()
    salt: str = ""
    prompt: int = 0
    whole: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A row for a request: its first `reused` tokens are those of row `source`."""

    row: int
    source: int
    reused: int
    whole: int


def common(first: Keys, second: Keys) -> int:
    """Return how many keys two rows have in common from the start.

    >>> common((1, 2, "a", "a"), (1, 2, "a", "b"))
    3
    """
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Rows:
    """The rows of one cache."""

    def __init__(self, count: int, manner: Manner) -> None:
        self._held = [Held()] * count
        self._used = [0] * count
        self._busy: set[int] = set()
        self._clock = 0
        self._manner = manner

    @property
    def free(self) -> int:
        """Return how many rows nobody uses."""
        return len(self._held) - len(self._busy)

    def reusable(self, row: int, keys: Keys, salt: str) -> int:
        """Return how many first tokens of a prompt a row can give; never all of them."""
        held = self._held[row]
        if held.salt != salt:
            return 0
        same = common(held.keys, keys[:-1])
        if not self._manner.exact or same > held.prompt:
            return same
        return min(same, held.whole) // self._manner.chunk_tokens * self._manner.chunk_tokens

    def take(self, keys: Keys, salt: str) -> Lease:
        """Take a free row for a prompt: the one to go on in, or the one least worth keeping.

        Rows in use are looked at too: what they hold can be copied.
        """
        reusable = [self.reusable(row, keys, salt) for row in range(len(self._held))]
        source = max(range(len(reusable)), key=lambda row: (reusable[row], row not in self._busy))
        reused, held = reusable[source], self._held[source]
        goes_on = source not in self._busy and reused * 2 >= len(held.keys) > 0
        row = source if reused and goes_on else self._least()
        after_answer = self._manner.exact and reused > held.prompt
        whole = min(held.whole, reused) if after_answer else len(keys)
        self._busy.add(row)
        self._held[row] = Held()
        return Lease(row, source, reused, whole)

    def hold(self, lease: Lease, keys: Keys, salt: str, prompt: int) -> None:
        """Take note of what a row holds by now."""
        self._held[lease.row] = Held(keys, salt, prompt, min(lease.whole, prompt, len(keys)))

    def leave(self, row: int) -> None:
        """Free a row; what it holds stays until somebody needs it."""
        self._clock += 1
        self._used[row] = self._clock
        self._busy.discard(row)

    def forget(self, row: int) -> None:
        """Free a row whose contents are not to be trusted."""
        self._held[row] = Held()
        self.leave(row)

    def denser(self) -> tuple[int, int] | None:
        """Return the row to move, and where to, so that fewer rows are computed; None if as few.

        Rows are computed from the first to the last in use, in numbers that are powers of two.
        """
        if not self._busy:
            return None
        last = max(self._busy)
        if power_of_two(last + 1) <= power_of_two(len(self._busy)):
            return None
        return last, min(row for row in range(last) if row not in self._busy)

    def moved(self, source: int, target: int) -> None:
        """Take note that a row in use was copied to a free one, which is in use now."""
        self._held[target] = self._held[source]
        self._busy.add(target)
        self.leave(source)

    def _least(self) -> int:
        """Return the free row that is least worth keeping: an empty one, else the oldest."""
        free = [row for row in range(len(self._held)) if row not in self._busy]
        return min(free, key=lambda row: (bool(self._held[row].keys), self._used[row], row))


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is not below a count.

    >>> [power_of_two(count) for count in (1, 2, 3, 8, 9)]
    [1, 2, 4, 8, 16]
    """
    return 1 << max(0, count - 1).bit_length()
