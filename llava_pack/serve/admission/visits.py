"""One request of a key, from the guard to its end: what it took, charged and written down."""

import time
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from llava_pack.engine.port import Delta, Event, Failed, Finished, Request
from llava_pack.serve.access.audit import AuditLog, Entry
from llava_pack.serve.access.key import Key
from llava_pack.serve.access.quota import Books
from llava_pack.serve.caller import ANYONE, Caller

_KEY = "visit"
_CHARS_A_TOKEN = 4
"""An estimate, for an answer that was left before the engine told how long its prompt was."""


@dataclass(slots=True)
class _Count:
    """What one of a visit's requests to a model takes."""

    tokens_in: int = 0
    tokens_out: int = 0
    has_prompt: bool = True
    """Whether its prompt is counted with it, and not with another one that has the same."""


class Visit:
    """One request of a key; routes tell it what they ask of a model.

    Args:
        caller: who asks.
        key: whose request it is; None where no key is asked for.
        request_id: as in `X-Request-Id`.
        route: method and template, for the audit log.
        client: the address that it came from, empty where there is none; for the audit log.
        ledger: where it is charged and written down; None does neither.
    """

    def __init__(
        self,
        caller: Caller = ANYONE,
        *,
        key: Key | None = None,
        request_id: str = "",
        route: str = "",
        client: str = "",
        ledger: "Ledger | None" = None,
    ) -> None:
        self.caller = caller
        self.key = key
        self.request_id = request_id
        self.route = route
        self.client = client
        self.model = ""
        self.pictures = 0
        self._chars = 0
        self._prepaid = 1
        self._counts: list[_Count] = []
        self._ledger = ledger
        self._began_s = time.monotonic()

    @property
    def tokens_in(self) -> int:
        """Tokens of all prompts, as far as that is known."""
        return sum(count.tokens_in for count in self._counts if count.has_prompt)

    @property
    def tokens_out(self) -> int:
        """Tokens of all answers so far."""
        return sum(count.tokens_out for count in self._counts)

    def note(self, scope: MutableMapping[str, Any]) -> None:
        """Write this visit and its caller down for the routes behind the guard."""
        self.caller.note(scope)
        scope["state"][_KEY] = self

    def admit(self) -> None:
        """Take it from the key's quota.

        Raises:
            QuotaError: the key has asked as much as it may for now.
        """
        if self._ledger is not None and self.key is not None:
            self._ledger.books.admit(self.key)

    def takes(self, answers: int) -> None:
        """Take more answers from the key's quota; of all of them `admit` has taken one.

        It is too late to refuse: what there is not is owed, and the next request waits for it.
        """
        more, self._prepaid = answers - self._prepaid, 0
        if more and self._ledger is not None and self.key is not None:
            self._ledger.books.take(self.key, more)

    def asks(self, request: Request) -> None:
        """Note what a model is asked."""
        self.pictures = sum(len(message.pictures) for message in request.messages)
        self._chars = sum(len(message.text) for message in request.messages)

    async def counted(
        self, model: str, events: AsyncGenerator[Event, None], *, has_prompt: bool = True
    ) -> AsyncGenerator[Event, None]:
        """Yield what comes of a request to a model, and count what it takes.

        Args:
            model: its name.
            events: what comes.
            has_prompt: whether the prompt counts, and not with another answer to it.
        """
        self.model = model
        self._counts.append(count := _Count(has_prompt=has_prompt))
        async with aclosing(events):
            async for event in events:
                match event:
                    case Delta():
                        count.tokens_in = count.tokens_in or 1 + self._chars // _CHARS_A_TOKEN
                        count.tokens_out += len(event.token_ids)
                    case Finished():
                        count.tokens_in = event.usage.prompt_tokens
                        count.tokens_out = event.usage.completion_tokens
                    case Failed():
                        pass
                yield event

    def close(self, status: int, *, listed: bool = True) -> None:
        """Charge what it took, and write it down."""
        if self._ledger is None:
            return
        if self.key is not None:
            self._ledger.books.charge(self.key, self.tokens_in + self.tokens_out)
        if listed:
            self._ledger.audit.write(self._entry(status))

    def _entry(self, status: int) -> Entry:
        return Entry(
            request_id=self.request_id,
            key=self.caller.name,
            key_id=self.key.id if self.key else "",
            client=self.client,
            route=self.route,
            model=self.model,
            status=status,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            pictures=self.pictures,
            seconds=time.monotonic() - self._began_s,
        )


class Ledger:
    """What is kept of visits: quotas and the audit log."""

    def __init__(self, audit: AuditLog, books: Books | None = None) -> None:
        self.audit = audit
        self.books = books or Books(time.monotonic)


def visit_of(scope: MutableMapping[str, Any]) -> Visit:
    """Return the visit that the guard wrote down; one that nobody counts where it wrote none.

    >>> visit_of({}).caller.name
    'anyone'
    """
    visit = scope.get("state", {}).get(_KEY)
    return visit if isinstance(visit, Visit) else Visit()
