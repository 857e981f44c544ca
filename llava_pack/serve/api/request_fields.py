"""What becomes of every field that a client may send: honoured, refused, or harmless.

A field that would change the answer, and that nothing here does, is refused: it is never passed
over in silence. `NEUTRAL` has the values at which such a field asks for nothing. A harmless field
says something to servers of another kind, or that changes no answer. Pure.

Source: openai-python types/chat/completion_create_params.py; vllm entrypoints/openai/
chat_completion/protocol.py; sglang srt/entrypoints/openai/protocol.py; llama.cpp
tools/server/README.md.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from llava_pack.format.text import visible
from llava_pack.serve.api.parts import Wire
from llava_pack.serve.validation import wrong

_SHOWN = 60
_OFF = (False,)
_NONE: tuple[object, ...] = ()
_EMPTY: tuple[object, ...] = ([], {}, "")

HARMLESS: Mapping[str, str] = {
    "bootstrap_host": "how SGLang's servers divide their work",
    "bootstrap_port": "how SGLang's servers divide their work",
    "bootstrap_room": "how SGLang's servers divide their work",
    "cache_prompt": "prefixes are always reused, within one key",
    "data_parallel_rank": "how SGLang's servers divide their work",
    "disagg_prefill_dp_rank": "how SGLang's servers divide their work",
    "extra_key": "a label of the client's",
    "guided_decoding_backend": "there is one",
    "id_slot": "slots are given by the server",
    "include_reasoning": "the models here do not reason apart from their answer",
    "max_tool_calls": "a forced call is always one",
    "metadata": "a label of the client's",
    "ngram_corpus_id": "speed only",
    "parallel_tool_calls": "a forced call is always one",
    "prediction": "speed only",
    "priority": "who is next depends on the key",
    "prompt_cache_key": "prefixes are always reused, within one key",
    "prompt_cache_options": "prefixes are always reused, within one key",
    "prompt_cache_retention": "prefixes are always reused, within one key",
    "reasoning_effort": "the models here do not reason apart from their answer",
    "request_id": "the answer's own id is in its `id` and in `X-Request-Id`",
    "return_mm_kwargs": "of routes of vLLM's that only render",
    "rid": "the answer's own id is in its `id` and in `X-Request-Id`",
    "routed_dp_rank": "how SGLang's servers divide their work",
    "routed_experts_prompt_start": "the models here have no experts",
    "routed_experts_start_len": "the models here have no experts",
    "safety_identifier": "a label of the client's",
    "separate_reasoning": "the models here do not reason apart from their answer",
    "service_tier": "there is one",
    "session_id": "a label of the client's",
    "spaces_between_special_tokens": "special tokens have no text here",
    "store": "nothing is kept after an answer",
    "stream_interval": "every token is sent as it comes",
    "stream_reasoning": "the models here do not reason apart from their answer",
    "thinking_token_budget": "the models here do not reason apart from their answer",
    "timings_per_token": "speed only",
    "user": "a label of the client's",
}
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "access_programs": _EMPTY,
    "add_special_tokens": _OFF,
    "allowed_token_ids": _NONE,
    "audio": _NONE,
    "bad_words": _EMPTY,
    "background_options": _EMPTY,
    "best_of": (1,),
    "chat_template": _NONE,
    "chat_template_kwargs": ({}, {"enable_thinking": False}, {"thinking": False}),
    "context_management": _EMPTY,
    "custom_logit_processor": _EMPTY,
    "custom_params": _EMPTY,
    "documents": _EMPTY,
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "echo": _OFF,
    "ec_transfer_params": _EMPTY,
    "function_call": ("none", "auto"),
    "functions": _EMPTY,
    "guided_whitespace_pattern": _NONE,
    "image": _EMPTY,
    "images_config": _EMPTY,
    "include_stop_str_in_output": _OFF,
    "input_ids": _NONE,
    "kv_transfer_params": _EMPTY,
    "length_penalty": (1,),
    "logprob_token_ids": _EMPTY,
    "lora_path": _EMPTY,
    "max_dynamic_patch": _NONE,
    "media_io_kwargs": _EMPTY,
    "min_dynamic_patch": _NONE,
    "mirostat": (0,),
    "mm_processor_kwargs": _EMPTY,
    "modalities": (["text"], []),
    "moderation": _NONE,
    "no_stop_trim": _OFF,
    "prompt_logprobs": _NONE,
    "repetition_detection": _EMPTY,
    "return_cached_tokens_details": _OFF,
    "return_hidden_states": _OFF,
    "return_meta_info": _OFF,
    "return_prompt_text": _OFF,
    "return_prompt_token_ids": _OFF,
    "return_routed_experts": _OFF,
    "return_token_offsets": _OFF,
    "return_tokens_as_token_ids": _OFF,
    "session_params": _EMPTY,
    "skip_special_tokens": (True,),
    "stop_regex": _EMPTY,
    "structural_tag": _EMPTY,
    "task": _NONE,
    "truncate_prompt_tokens": _NONE,
    "truncation": ("disabled",),
    "truncation_side": _NONE,
    "typical_p": (1,),
    "use_audio_in_video": _OFF,
    "use_beam_search": _OFF,
    "verbosity": ("medium",),
    "vllm_xargs": _EMPTY,
    "watermarking": _OFF,
    "web_search_options": _NONE,
    "xtc_probability": (0,),
}


class StrictWire(Wire):
    """A body of which nothing is passed over in silence."""

    harmless: ClassVar[frozenset[str]] = frozenset(HARMLESS)
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = NEUTRAL

    @classmethod
    def known(cls) -> frozenset[str]:
        """Return the fields that are honoured, by the names that clients have for them."""
        return frozenset(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            if name in cls.known() or name in cls.harmless or value is None:
                continue
            if name not in cls.neutral:
                raise wrong("this server has no such field; leave it out", visible(name[:_SHOWN]))
            _check_neutral(name, value, cls.neutral[name])
        return values


def refuse_but(values: Any, neutral: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse fields of chat completions that another route has no use for.

    Args:
        values: the body, as it came.
        neutral: the fields, with the values at which they ask for nothing.

    Raises:
        PydanticCustomError: one has another value.
    """
    for name, allowed in neutral.items():
        if isinstance(values, dict) and (value := values.get(name)) is not None:
            _check_neutral(name, value, allowed)


def verdict(request: type[StrictWire], name: str) -> str:
    """Return what becomes of a field of a request: honoured, harmless or refused."""
    if name in request.known():
        return "honoured"
    return "harmless" if name in request.harmless else "refused"


def _check_neutral(name: str, value: object, neutral: tuple[object, ...]) -> None:
    if not any(_same(value, one) for one in neutral):
        raise wrong("it is not supported here; leave it out", name)


def _same(value: object, neutral: object) -> bool:
    """Return whether a value is a neutral one; true is not 1, though Python says so."""
    return value == neutral and isinstance(value, bool) is isinstance(neutral, bool)
