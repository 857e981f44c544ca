"""The turns of a conversation, whatever shape it comes in. Pure.

Clients send system messages anywhere, greetings of the assistant first, and an answer that was
begun last. A template writes turns; what it has no place for is folded into a person's turn.

Source: transformers apply_chat_template (`add_generation_prompt`, `continue_final_message`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llava_pack.engine.port import ROLES, Message, Part, Role
from llava_pack.format.errors import UsageError

Turn = tuple[Role, tuple[Part, ...]]
Ending = Literal["opened", "continued", "closed"]
"""How a prompt ends: with the assistant's next turn begun, in its last one, or behind a turn."""
_NO_QUESTION: Turn = ("user", ("",))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """System text, turns of which no two neighbours have one role, and how the prompt ends.

    `system` None leaves the template its own. A turn of the assistant has one text.
    """

    system: str | None
    turns: tuple[Turn, ...]
    ending: Ending

    def shapes(self) -> Iterator["Dialogue"]:
        """Yield it, and then what says the same in turns that more templates take."""
        folded = (self, self.with_late_systems_asked(), self.with_systems_asked())
        shown: list[Dialogue] = []
        for shape in (*folded, *(one.begun_by_user() for one in folded)):
            if shape not in shown:
                shown.append(shape)
                yield shape

    def with_late_systems_asked(self) -> "Dialogue":
        """Return it with each later system message as text of a person's turn."""
        turns = (("user" if role == "system" else role, parts) for role, parts in self.turns)
        return Dialogue(self.system, _merged(turns), self.ending)

    def with_systems_asked(self) -> "Dialogue":
        """Return it with every system message as text of a person's turn."""
        given: tuple[Turn, ...] = () if self.system is None else (("user", (self.system,)),)
        asked = self.with_late_systems_asked()
        return Dialogue(None, _merged((*given, *asked.turns)), self.ending)

    def begun_by_user(self) -> "Dialogue":
        """Return it with an empty question first, unless a person's turn is first."""
        if self.turns and self.turns[0][0] == "user":
            return self
        return Dialogue(self.system, (_NO_QUESTION, *self.turns), self.ending)


def conversation(messages: Sequence[Message], *, new_turn: bool | None = None) -> Dialogue:
    """Return the turns of a conversation; neighbouring messages of one role count as one.

    Args:
        messages: as they came.
        new_turn: see `Request`.

    Raises:
        UsageError: no message, an unknown role, or a picture outside a person's turn.
    """
    if not messages:
        raise UsageError("there is no message; expected at least a question of the user")
    for message in messages:
        _check(message)
    turns = _merged((message.role, message.parts) for message in messages)
    system = None
    if turns[0][0] == "system":
        system, turns = "\n".join(map(str, turns[0][1])), turns[1:]
    begun = bool(turns) and turns[-1][0] == "assistant"
    if begun and not str(turns[-1][1][0]).strip():  # nothing to go on with: it is yet to be said
        begun, turns = False, turns[:-1]
    ending: Ending = "continued" if begun else "opened"
    if new_turn is not None:
        ending = "opened" if new_turn else "closed"
    return Dialogue(system, turns, ending)


def _check(message: Message) -> None:
    if message.role not in ROLES:
        raise UsageError(f"unknown role {message.role!r}, expected one of: {', '.join(ROLES)}")
    if message.pictures and message.role != "user":
        raise UsageError(f"expected pictures only in a user's message, got one from {message.role}")


def _merged(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    merged: list[Turn] = []
    for role, parts in turns:
        before = merged.pop()[1] if merged and merged[-1][0] == role else ()
        joined = (*before, *parts)
        merged.append((role, ("\n".join(map(str, joined)),) if role == "assistant" else joined))
    return tuple(merged)
