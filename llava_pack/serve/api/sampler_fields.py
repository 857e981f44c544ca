"""How an answer's tokens are chosen and where it ends, under the names that clients have for it.

Source: OpenAI API reference, "Create chat completion"; vllm sampling_params.py (`top_k`, `min_p`,
`repetition_penalty`, `min_tokens`, `ignore_eos`, `stop_token_ids`); llama.cpp
tools/server/README.md (`repeat_penalty`).
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from llava_pack.engine import limits
from llava_pack.engine.sampling import Grammar, Sampling
from llava_pack.serve.api.parts import Wire

MAX_TOKENS = 131_072
_DEFAULT_TOKENS = 512
_LIKELIEST = 1e-6
"""A `top_p` below the odds of the likeliest token, which alone is left: what 0 means."""
_MAX_TEMPERATURE = 2.0
"""OpenAI's; the engine takes more."""
_MAX_TOP_K = 2**31 - 1
_MAX_ID = 2**31 - 1
_NO_BOUND = -1


def _as_bound(tokens: Any) -> Any:
    """Return a bound on the answer: -1 is none but the context's, and 0 says nothing.

    Source: LM Studio's and llama.cpp's servers for -1; Ollama's for 0.
    """
    return {-1: MAX_TOKENS, 0: None}.get(tokens, tokens) if type(tokens) is int else tokens


def _as_stops(stop: Any) -> Any:
    """Return stop strings as a list, without empty ones, as llama.cpp's server takes them."""
    stops = [stop] if isinstance(stop, str) else stop
    return [text for text in stops if text != ""] if isinstance(stops, list) else stops


TokenBound = Annotated[
    Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None,
    BeforeValidator(
        _as_bound, json_schema_input_type=Annotated[int, Field(ge=_NO_BOUND, le=MAX_TOKENS)] | None
    ),
]
StopString = Annotated[str, Field(min_length=1, max_length=limits.MAX_STOP_CHARS)]
_Penalty = Annotated[float, Field(ge=-limits.MAX_PENALTY, le=limits.MAX_PENALTY)]
_Repetition = Annotated[
    float, Field(ge=limits.MIN_REPETITION_PENALTY, le=limits.MAX_REPETITION_PENALTY)
]
_Bias = Annotated[float, Field(ge=-limits.MAX_BIAS, le=limits.MAX_BIAS)]
_TokenId = Annotated[int, Field(ge=0, le=_MAX_ID)]


class SamplerFields(Wire):
    """The sampler's settings; each means nothing where it is null."""

    temperature: Annotated[float, Field(ge=0, le=_MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1), AfterValidator(lambda p: p or _LIKELIEST)] | None = (
        None
    )
    top_k: Annotated[int, Field(ge=_NO_BOUND, le=_MAX_TOP_K)] | None = None
    """0 and -1 keep all tokens."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: _Repetition | None = None
    repeat_penalty: _Repetition | None = None
    """The same, as llama.cpp has it."""
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[_TokenId, _Bias], Field(max_length=limits.MAX_BIASES)] | None = None
    seed: Annotated[int, Field(ge=-limits.MAX_SEED - 1, le=limits.MAX_SEED)] | None = None
    max_tokens: TokenBound = None
    max_completion_tokens: TokenBound = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: (
        Annotated[tuple[_TokenId, ...], Field(max_length=limits.MAX_STOP_IDS)] | None
    ) = None
    stop: (
        Annotated[
            tuple[StopString, ...],
            Field(max_length=limits.MAX_STOPS, fail_fast=True),
            BeforeValidator(_as_stops, json_schema_input_type=str | tuple[str, ...]),
        ]
        | None
    ) = None

    @property
    def answer_tokens(self) -> int:
        """The bound on the answer, under its new or its old name."""
        return self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS

    def sampling(self, *, logprobs: int | None = None, grammar: Grammar | None = None) -> Sampling:
        """Return the settings as the engine takes them.

        Raises:
            UsageError: two of them contradict each other.
        """
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed % 2**63,
            max_tokens=self.answer_tokens,
            stop=self.stop or (),
            logprobs=logprobs,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or self.repeat_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((self.logit_bias or {}).items()),
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
            stop_token_ids=self.stop_token_ids or (),
            grammar=grammar,
        )
