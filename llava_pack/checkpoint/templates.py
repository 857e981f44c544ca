"""LLaVA's conversation templates as data.

Source: haotian-liu/LLaVA llava/conversation.py (the literals and the styles of LLaVA 1.0 to 1.6);
LLaVA-VL/LLaVA-NeXT llava/conversation.py (`qwen_1_5`, `qwen_2`, `qwen_2_5`, `llava_llama_3`,
`gemma_instruct`); meta-llama/llama3 llama/tokenizer.py ChatFormat (the tokens of Llama 3);
InternLM/xtuner xtuner/utils/templates.py (`llama3_chat` as `llama_3`, `phi3_chat` as `phi3`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from llava_pack.format.errors import UsageError

Style = Literal["single", "two", "turns", "llama_2", "plain", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One conversation template.

    `sep` follows the system text and a person's turn, `sep2` the model's turn. `stops` end an
    answer; those in `specials` are single tokens, the others are text. `head` begins the system
    text where it is a turn of its own; without one it stands before the first question.
    """

    style: Style
    system: str = ""
    head: str = ""
    user: str = ""
    assistant: str = ""
    sep: str = ""
    sep2: str = ""
    specials: tuple[str, ...] = ("<s>", "</s>")
    stops: tuple[str, ...] = ("</s>",)

    @property
    def needs(self) -> tuple[str, ...]:
        """The special tokens that stand in every prompt or answer."""
        words = (self.head, self.user, self.assistant, self.sep, self.sep2)
        return tuple(token for token in self.specials if any(token in word for word in words))


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
_HELPFUL = "You are a helpful assistant."
_CHATML = Template(
    style="turns",
    system="Answer the questions.",
    head="<|im_start|>system\n",
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    sep="<|im_end|>",
    sep2="<|im_end|>",
    specials=("<|im_start|>", "<|im_end|>"),
    stops=("<|im_end|>",),
)
_QWEN = replace(_CHATML, system=_HELPFUL, sep="<|im_end|>\n", sep2="<|im_end|>\n")
_LLAMA_3 = Template(
    style="turns",
    head="<|start_header_id|>system<|end_header_id|>\n\n",
    user="<|start_header_id|>user<|end_header_id|>\n\n",
    assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
    sep="<|eot_id|>",
    sep2="<|eot_id|>",
    specials=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    stops=("<|eot_id|>",),
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
        "qwen_1_5": _QWEN,
        "qwen_2": _QWEN,
        "qwen_2_5": replace(_QWEN, system=f"You are Qwen, created by Alibaba Cloud. {_HELPFUL}"),
        "llava_llama_3": replace(_LLAMA_3, system=_VISION),
        "llama_3": _LLAMA_3,
        "gemma_instruct": Template(
            style="turns",
            user="<start_of_turn>user\n",
            assistant="<start_of_turn>model\n",
            sep="<end_of_turn>\n",
            sep2="<end_of_turn>\n",
            specials=("<start_of_turn>", "<end_of_turn>"),
            stops=("<end_of_turn>",),
        ),
        "phi3": Template(
            style="turns",
            head="<|system|>\n",
            user="<|user|>\n",
            assistant="<|assistant|>\n",
            sep="<|end|>\n",
            sep2="<|end|>\n",
            specials=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
            stops=("<|end|>",),
        ),
        "plain": Template(style="plain", sep="\n", sep2="\n"),
    }
)
RAW = "raw"
"""No template: a prompt that its sender has rendered already, special tokens in it included."""
OWN = "chat_template"
"""The chat template that the checkpoint carries: see `llava_pack.checkpoint.chat_template`."""
_RAW = Template(
    style="raw",
    specials=tuple(sorted({token for one in TEMPLATES.values() for token in one.specials})),
    stops=(),
)


def template_names() -> str:
    """Return what `--conv-mode` can be, for a message."""
    return ", ".join(sorted({*TEMPLATES, OWN}))


def check_conv_mode(conv_mode: str) -> None:
    """Check the name of a template; which chat template a checkpoint has is seen later.

    Raises:
        UsageError: there is none of that name; the message lists them.
    """
    if conv_mode != OWN:
        template(conv_mode)


def template(conv_mode: str) -> Template:
    """Return a template by its name.

    Raises:
        UsageError: there is none of that name; the message lists them.
    """
    if conv_mode == RAW:
        return _RAW
    if conv_mode not in TEMPLATES:
        raise UsageError(
            f"unknown conversation template {conv_mode!r}, expected one of: {template_names()}"
        )
    return TEMPLATES[conv_mode]
