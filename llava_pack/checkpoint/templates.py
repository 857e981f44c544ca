"""LLaVA's conversation templates as data.

Source: haotian-liu/LLaVA llava/conversation.py (the literals and the five styles).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from llava_pack.format.errors import UsageError

Style = Literal["single", "two", "chatml", "llama_2", "plain", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One conversation template.

    `sep` follows the system text and a person's turn, `sep2` the model's turn. `stops` end an
    answer; those in `specials` are single tokens, the others are text.
    """

    style: Style
    system: str = ""
    user: str = ""
    assistant: str = ""
    sep: str = ""
    sep2: str = ""
    specials: tuple[str, ...] = ("<s>", "</s>")
    stops: tuple[str, ...] = ("</s>",)


_POLITE = "gives helpful, detailed, and polite answers to the"
_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    f"The assistant {_POLITE} human's questions."
)
_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    f"The assistant {_POLITE} user's questions."
)
_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_MPT = (
    "A conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)
_V1 = Template(style="two", system=_HUMAN, user="USER", assistant="ASSISTANT", sep=" ", sep2="</s>")
_CHATML = Template(
    style="chatml",
    system="Answer the questions.",
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    sep="<|im_end|>",
    sep2="<|im_end|>",
    specials=("<|im_start|>", "<|im_end|>"),
    stops=("<|im_end|>",),
)
TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        "llava_v1": _V1,
        "vicuna_v1": replace(_V1, system=_USER),
        "mistral_instruct": Template(style="llama_2", sep2="</s>"),
        "llava_llama_2": Template(style="llama_2", system=_VISION, sep="<s>", sep2="</s>"),
        "chatml_direct": _CHATML,
        "mpt": replace(_CHATML, system=_MPT),
        "llava_v0": Template(
            style="single",
            system=_HUMAN,
            user="Human",
            assistant="Assistant",
            sep="###",
            sep2="###",
            stops=("###", "</s>"),
        ),
        "plain": Template(style="plain", sep="\n", sep2="\n"),
    }
)
RAW = "raw"
"""No template: a prompt that its sender has rendered already, special tokens in it included."""
_RAW = Template(style="raw", specials=("<s>", "</s>", "<|im_start|>", "<|im_end|>"), stops=())


def template(conv_mode: str) -> Template:
    """Return a template by its name.

    Raises:
        UsageError: there is none of that name; the message lists them.
    """
    if conv_mode == RAW:
        return _RAW
    if conv_mode not in TEMPLATES:
        names = ", ".join(sorted(TEMPLATES))
        raise UsageError(f"unknown conversation template {conv_mode!r}, expected one of: {names}")
    return TEMPLATES[conv_mode]
