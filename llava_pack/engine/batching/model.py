"""What the scheduler asks of a model whose cache has rows; nothing here touches a tensor."""

from collections.abc import Sequence
from typing import Any, Protocol

from llava_pack.engine.batching.policy import Manner
from llava_pack.engine.batching.token import ChosenToken
from llava_pack.engine.inputs.prompt import Prompt
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.engine.stats import Work


class Chooser(Protocol):
    """Chooses tokens for one request; it keeps the request's own random state."""


class Model(Protocol):
    """What the scheduler asks of a model with rows."""

    @property
    def info(self) -> EngineInfo:
        """Return what is served."""

    @property
    def manner(self) -> Manner:
        """Return how the work is cut."""

    @property
    def work(self) -> Work:
        """Return the counters of pictures; the others are the scheduler's."""

    def write(self, request: Request) -> Prompt:
        """Return the request's prompt, or raise what is wrong with it."""

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, whatever its length."""

    def trace(self, request: Request) -> Trace:
        """Return what becomes of a question, stage by stage."""

    def look(self, prompts: Sequence[Prompt], begins: Sequence[int]) -> list[Any]:
        """Return each prompt's embeddings from a token on, their pictures seen together."""

    def chooser(self, prompt: Prompt, sampling: Sampling) -> Chooser:
        """Return what chooses the tokens of an answer, or raise what is wrong with it."""

    def prepare(self, request: Request) -> None:
        """Do what takes long for a request, on any thread, or raise what is wrong with it."""

    def prefill(
        self, row: int, embeddings: Any, begin: int, chooser: Chooser
    ) -> ChosenToken | None:
        """Process embeddings in a row; return the first token when `chooser` is to choose one."""

    def decode(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        lengths: Sequence[int],
        choosers: Sequence[Chooser],
    ) -> list[ChosenToken]:
        """Give each row its last token, at its length, and return the next ones."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token adds to an answer."""
