"""How an answer is made: what it is held to, how its tokens are chosen, and where it ends."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from llava_pack.engine import limits
from llava_pack.format.errors import UsageError

GrammarKind = Literal["json_schema", "regex", "choice", "grammar"]
GRAMMAR_KINDS: tuple[GrammarKind, ...] = get_args(GrammarKind)


class GrammarError(UsageError):
    """A grammar that no answer can be held to; `UsageError` with a kind of its own."""

    kind: ClassVar[str] = "grammar"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What every answer to a request is a text of.

    Attributes:
        kind: a JSON Schema, a regular expression for the whole answer, a JSON list of texts of
            which the answer is one, or a grammar as Lark or llama.cpp (GBNF) writes it.
        text: what it is.

    Raises:
        GrammarError: it is of no kind, or too long.
    """

    kind: GrammarKind
    text: str

    def __post_init__(self) -> None:
        if self.kind not in GRAMMAR_KINDS:
            raise GrammarError(f"expected one of {', '.join(GRAMMAR_KINDS)}, got {self.kind}")
        if not 0 < len(self.text) <= limits.MAX_GRAMMAR_CHARS:
            raise GrammarError(
                f"a {self.kind.replace('_', ' ')} of {len(self.text)} characters; expected 1 to "
                f"{limits.MAX_GRAMMAR_CHARS}"
            )


JSON_GAP = r"\x20"
"""What may stand between the parts of JSON: one space. Given more, a small model writes no end."""
ANY_OBJECT = Grammar("json_schema", '{"type":"object"}')
"""What a client means that asks for JSON and names no schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when to end; temperature 0 is greedy.

    Attributes:
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_p: the likeliest tokens are kept that have this much of the probability together.
        seed: of the request's own generator; None takes one that nobody knows.
        max_tokens: how many tokens an answer has at most.
        stop: texts before which an answer ends.
        logprobs: None says nothing of odds; a number asks for each token's own log-probability and
            for those of that many likeliest tokens, as the model gave them.
        top_k: so many of the likeliest tokens are kept; 0 keeps all.
        min_p: tokens are kept that have this part of the likeliest one's probability.
        repetition_penalty: what logits of tokens are divided by, where they are positive, that
            stand in the prompt or the answer; negative ones are multiplied.
        frequency_penalty: taken off a logit for every time that the token stands in the answer.
        presence_penalty: taken off once for every token that does.
        logit_bias: added to the logits of single tokens.
        min_tokens: an answer does not end before it has so many.
        ignore_eos: what the model and its template end an answer by ends it not.
        stop_token_ids: tokens that end it, beside those.
        grammar: what it is held to.

    Raises:
        UsageError: a number is out of its range; the message names it and the range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise _outside("max_tokens", "at least 1", self.max_tokens)
        if not 0 <= self.min_tokens <= self.max_tokens:
            most = f"from 0 to max_tokens, {self.max_tokens}"
            raise _outside("min_tokens", most, self.min_tokens)
        if self.seed is not None and not 0 <= self.seed <= limits.MAX_SEED:
            raise _outside("seed", "from 0 to 2^63-1", self.seed)
        if self.logprobs is not None and not 0 <= self.logprobs <= limits.MAX_TOP_LOGPROBS:
            raise _outside("logprobs", f"from 0 to {limits.MAX_TOP_LOGPROBS}", self.logprobs)
        self._check_odds()
        self._check_stops()
        self._check_biases()

    def _check_odds(self) -> None:
        if not 0 <= self.temperature <= limits.MAX_TEMPERATURE:  # which NaN is not either
            raise _outside("temperature", "from 0 to 100", self.temperature)
        if not 0 < self.top_p <= 1:
            raise _outside("top_p", "above 0 and at most 1", self.top_p)
        if self.top_k < 0:
            raise _outside("top_k", "at least 0", self.top_k)
        if not 0 <= self.min_p <= 1:
            raise _outside("min_p", "from 0 to 1", self.min_p)
        least, most = limits.MIN_REPETITION_PENALTY, limits.MAX_REPETITION_PENALTY
        if not least <= self.repetition_penalty <= most:
            expected = f"from {least:g} to {most:g}"
            raise _outside("repetition_penalty", expected, self.repetition_penalty)
        for name in ("frequency_penalty", "presence_penalty"):
            if not -limits.MAX_PENALTY <= (value := getattr(self, name)) <= limits.MAX_PENALTY:
                raise _outside(name, "from -2 to 2", value)

    def _check_stops(self) -> None:
        if len(self.stop) > limits.MAX_STOPS:
            raise _outside("stop", f"at most {limits.MAX_STOPS} strings", len(self.stop))
        if not all(0 < len(text) <= limits.MAX_STOP_CHARS for text in self.stop):
            raise UsageError(
                f"each string must have 1 to {limits.MAX_STOP_CHARS} characters", subject="stop"
            )
        if len(self.stop_token_ids) > limits.MAX_STOP_IDS:
            most = f"at most {limits.MAX_STOP_IDS} ids"
            raise _outside("stop_token_ids", most, len(self.stop_token_ids))

    def _check_biases(self) -> None:
        if len(self.logit_bias) > limits.MAX_BIASES:
            raise _outside("logit_bias", f"at most {limits.MAX_BIASES} ids", len(self.logit_bias))
        for _, bias in self.logit_bias:
            if not -limits.MAX_BIAS <= bias <= limits.MAX_BIAS:
                raise _outside("logit_bias", "from -100 to 100 for each id", bias)

    @property
    def given(self) -> Mapping[str, Any]:
        """The settings that are not as everybody has them, by name, as JSON values."""
        return {
            name: value
            for name, value in asdict(self).items()
            if getattr(self, name) != getattr(_PLAIN, name)
        }

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Sampling":
        """Return the settings again, see `given`.

        Raises:
            UsageError: a number is out of range.
            TypeError: one is not known here.
        """
        values = dict(given)
        for name in ("stop", "stop_token_ids"):
            values[name] = tuple(values.get(name, ()))
        values["logit_bias"] = tuple((int(i), float(b)) for i, b in values.get("logit_bias", ()))
        grammar = values.get("grammar")
        values["grammar"] = Grammar(**grammar) if grammar else None
        return cls(**values)


_PLAIN = Sampling()
SETTINGS = tuple(field.name for field in fields(Sampling))
FIRST_SETTINGS = frozenset({"temperature", "top_p", "seed", "max_tokens", "stop", "logprobs"})
"""Those of engines that do not say which they have."""


def _outside(name: str, expected: str, got: object) -> UsageError:
    return UsageError(f"must be {expected}, got {got}", subject=name)
