"""A conversation as it is asked, and its answer as it grows."""

from dataclasses import dataclass, field

from llava_pack.engine.port import Picture


@dataclass(frozen=True, slots=True)
class Attachment:
    """A picture as it was read from its file, and decoded."""

    data: bytes = field(repr=False)
    picture: Picture


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    text: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(slots=True)
class ChatAnswer:
    """What was said, filled in while it is said; a server tells `token_ids` with its last piece."""

    text: str = ""
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
