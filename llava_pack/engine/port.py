"""The engine port: what the rest of llava-pack may ask of an engine, as values and one protocol.

An engine is a step loop. `submit` and `cancel` only take note; `step` does a bounded amount of
work for every request that it holds and returns what came of it. A request that cannot be
answered ends with `Failed`, alone; the others go on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from llava_pack.engine import limits
from llava_pack.engine.measures import Odds, Timings, Trace, Usage
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.pixels import Pixels
from llava_pack.engine.sampling import SETTINGS, GrammarError, Sampling
from llava_pack.engine.stats import Work
from llava_pack.format import errors
from llava_pack.format.errors import PackError, UsageError

PICTURE_ID = -200
"""What stands in a prompt for each token of a picture. Source: haotian-liu/LLaVA
llava/constants.py."""
Role = Literal["system", "user", "assistant"]
Reason = Literal["stop", "length", "cancelled"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class ContextLengthError(UsageError):
    """A prompt that is longer than the model's context; `UsageError` with a kind of its own."""

    kind: ClassVar[str] = "context-length"


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: rows of RGB bytes, top to bottom.

    `only_colour` is the one colour that all of it has, as #rrggbb, where whoever decoded it saw
    that there is no other; people should hear of it.
    """

    width: int
    height: int
    rgb: Pixels = field(repr=False)
    only_colour: str = field(default="", compare=False)
    _digest: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expected = self.width * self.height * 3
        if self.width < 1 or self.height < 1 or len(self.rgb) != expected:
            size = f"{self.width}x{self.height}"
            raise UsageError(f"a {size} picture needs {expected} bytes, got {len(self.rgb)}")

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.width, self.height

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the size and the pixels, as hex; computed once."""
        if not self._digest:
            found = hashlib.sha256(f"{self.width}x{self.height}:".encode())
            found.update(self.rgb)
            object.__setattr__(self, "_digest", found.hexdigest())
        return self._digest


Part = str | Picture


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: texts and pictures in the order in which they were given."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Return the texts, one line after the other."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Return the pictures in order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question with its history; `conv_mode` None takes the model's own template.

    `new_turn` says whether the prompt begins a turn of the assistant's. None begins one, unless the
    assistant spoke last: then its turn is continued. False begins none, and ends the last turn.

    What was computed for one request is reused for others with the same `salt` only: who must
    not learn from timing what somebody else asked gets a salt of their own.
    """

    request_id: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    conv_mode: str | None = None
    salt: str = ""
    new_turn: bool | None = None

    def __post_init__(self) -> None:
        if len(self.salt) > limits.MAX_SALT_CHARS:
            most = limits.MAX_SALT_CHARS
            raise UsageError(f"salt must be at most {most} characters, got {len(self.salt)}")


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens that were generated, and the text that became certain with them (maybe none).

    `odds` are those of `token_ids`, one by one, where `Sampling.logprobs` asked for them. The last
    token of an answer may be one that ends it: it is counted, and adds no text.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    odds: tuple[Odds, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request that was answered, or cancelled."""

    request_id: str
    reason: Reason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a request that could not be answered; `kind` is a PackError's kind."""

    request_id: str
    kind: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, request_id: str, error: PackError) -> "Failed":
        """Return the event for an error."""
        return cls(request_id, error.kind, str(error), error.hint)

    def error(self) -> PackError:
        """Return the error again, in its own class; a setting that it names is its subject.

        >>> type(Failed("r", "usage", "too long").error()).__name__
        'UsageError'
        """
        setting, mark, words = self.message.partition(": ")
        if mark and setting in SETTINGS:
            return error_of_kind(self.kind, words, self.hint, setting)
        return error_of_kind(self.kind, self.message, self.hint)


Event = Delta | Finished | Failed


def error_of_kind(kind: str, message: str, hint: str = "", subject: str = "") -> PackError:
    """Return the error class of a kind that crossed the socket; an unknown kind is a bug's."""
    classes: dict[str, type[PackError]] = {
        value.kind: value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, PackError)
    }
    classes[ContextLengthError.kind] = ContextLengthError
    classes[GrammarError.kind] = GrammarError
    return classes.get(kind, PackError)(message, hint=hint, subject=subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine serves; `image_tokens` is what one picture takes, 0 where nobody says.

    `made_on` is the kind of device with the libraries: where it is equal, so are an answer's bits.
    `picture_mode` is how pictures for it become RGB, by whoever decodes them. `engine` is which
    one of others it is, with its version; empty for llava-pack's own.
    """

    model: str
    precision: str
    device: str
    context_tokens: int
    slots: int
    conv_mode: str
    image_tokens: int
    made_on: str = ""
    picture_mode: PictureMode = DEFAULT_PICTURE_MODE
    engine: str = ""


class Engine(Protocol):
    """One model, answering many requests; used from one thread."""

    @property
    def info(self) -> EngineInfo:
        """Return what is served."""

    @property
    def idle(self) -> bool:
        """Return whether `step` would have nothing to do."""

    @property
    def running(self) -> int:
        """Return how many requests hold a slot."""

    @property
    def waiting(self) -> int:
        """Return how many requests wait for one."""

    @property
    def work(self) -> Work:
        """Return what was done so far, and what is held in memory."""

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        A prompt may be longer than the context here.

        Raises:
            UsageError: the conversation does not fit the template, or is longer than any context.
        """

    def trace(self, request: Request) -> Trace:
        """Return what becomes of a question with at most one picture, computed anew.

        Raises:
            UsageError: as `tokenize`.
            SpaceError: out of memory.
        """

    def prepare(self, request: Request) -> None:
        """Do what takes long for a request before it is submitted; safe from any thread.

        Who leaves it out has `submit` do it, while others wait.

        Raises:
            GrammarError: no answer can be held to its grammar.
        """

    def submit(self, request: Request) -> None:
        """Take a request; whatever is wrong with it comes back from `step` as `Failed`."""

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; an unknown id is ignored."""

    def step(self) -> Sequence[Event]:
        """Do a bounded piece of work for every request and return what came of it."""
