"""One request on its way through an engine."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from llava_pack.engine.measures import Timings, Usage
from llava_pack.engine.port import Finished, Reason, Request
from llava_pack.engine.prompt import Keys, Prompt
from llava_pack.engine.rows import Lease
from llava_pack.engine.text import AnswerText


@dataclass
class Job:
    """A request with all that became of it so far.

    Attributes:
        prompt: None until it was its turn.
        keys: what its prompt is compared by.
        lease: its row.
        embeddings: of the prompt, from the lease's `reused` tokens on, until they are prefilled.
        done: tokens in the row.
    """

    request: Request
    arrived_s: float
    prompt: Prompt | None = None
    keys: Keys = ()
    lease: Lease | None = None
    embeddings: Any = None
    chooser: Any = None
    text: AnswerText = field(default_factory=AnswerText)
    done: int = 0
    tokens: list[int] = field(default_factory=list)
    began_s: float | None = None
    first_s: float | None = None

    @property
    def id(self) -> str:
        """Return the request's id."""
        return self.request.request_id

    @property
    def prompt_tokens(self) -> int:
        """Return the length of the prompt, 0 until it was written."""
        return len(self.prompt) if self.prompt is not None else 0

    @property
    def row(self) -> int:
        """Return its row."""
        if self.lease is None:
            raise RuntimeError(f"request {self.id} has no row")
        return self.lease.row

    @property
    def held(self) -> Keys:
        """Return the keys of what its row holds."""
        return (*self.keys, *self.tokens)[: self.done]

    def move(self, row: int) -> None:
        """Take note that its row is another one now."""
        if self.lease is not None:
            self.lease = replace(self.lease, row=row)

    def finished(self, reason: Reason) -> Finished:
        """Return the event that ends it."""
        now = time.monotonic()
        timings = Timings(
            queued_s=(self.began_s or now) - self.arrived_s,
            first_token_s=(self.first_s or now) - self.arrived_s,
            total_s=now - self.arrived_s,
        )
        cached = self.lease.reused if self.lease else 0
        return Finished(
            self.id, reason, Usage(self.prompt_tokens, len(self.tokens), cached), timings
        )
