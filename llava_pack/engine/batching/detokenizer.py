"""An answer's text as it grows: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Sequence


class AnswerText:
    """Turns the bytes of tokens into text that will not have to be taken back.

    A character whose bytes have not all come is held back, and so is an end that may become a
    stop string.

    >>> text = AnswerText(("STOP",))
    >>> text.push("größe".encode()[:3]), text.push("größe".encode()[3:] + b" ST")
    ('gr', 'öße ')
    >>> text.push(b"OPPED"), text.stopped
    ('', True)
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def push(self, data: bytes, *, stopping: bool = True) -> str:
        """Take the bytes of the next token and return the text that became certain.

        Args:
            data: of the token.
            stopping: whether a stop string that ends here, or later, would be one.
        """
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data)
        if not stopping:
            return self._release(len(self._held))
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), rest="")
        return self._release(len(self._held) - self._doubtful())

    def end(self) -> str:
        """Return what was held back: the answer ends here, without a stop string."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _release(self, count: int, rest: str | None = None) -> str:
        certain = self._held[:count]
        self._held = self._held[count:] if rest is None else rest
        return certain

    def _doubtful(self) -> int:
        """Return how many characters at the end could begin a stop string."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
