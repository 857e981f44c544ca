"""Rendered prompts are LLaVA's own, and people's text never becomes a token."""

import pytest

from llava_pack.checkpoint.templates import RAW, TEMPLATES
from llava_pack.engine.inputs.templates import Item, Special, render
from llava_pack.engine.port import Message, Picture
from llava_pack.format.errors import UsageError

DOT = Picture(1, 1, b"abc")
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the human's questions."
)
SAMPLE = (
    Message("user", ("What is it?", DOT)),
    Message("assistant", ("A dot.",)),
    Message("user", ("Sure?",)),
)


def flat(items: tuple[Item, ...]) -> str:
    """Return the prompt as LLaVA's own code would hold it, in one string."""
    return "".join(
        "<image>" if isinstance(i, Picture) else i.token if isinstance(i, Special) else i
        for i in items
    )


# Written down from the output of get_prompt() of LLaVA's and LLaVA-NeXT's own code for the same
# turns; that of llava_llama_3 from Llama 3's chat template, which LLaVA-NeXT uses, and llama_3 and
# phi3 put together as XTuner does.
UPSTREAM = {
    "llava_v1": f"{HUMAN} USER: <image>\nWhat is it? ASSISTANT: A dot.</s>USER: Sure? ASSISTANT:",
    "mistral_instruct": "[INST] <image>\nWhat is it? [/INST] A dot. </s>[INST] Sure? [/INST]",
    "chatml_direct": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\n"
        "What is it?<|im_end|><|im_start|>assistant\nA dot.<|im_end|><|im_start|>user\n"
        "Sure?<|im_end|><|im_start|>assistant\n"
    ),
    "llava_v0": (
        f"{HUMAN}###Human: <image>\nWhat is it?###Assistant: A dot.###Human: Sure?###Assistant:"
    ),
}
_QWEN = (
    "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n"
    "<|im_start|>assistant\nA dot.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_LLAMA_3 = (
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA dot.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
UPSTREAM |= {
    "qwen_1_5": _QWEN.replace("SYSTEM", "You are a helpful assistant."),
    "qwen_2": _QWEN.replace("SYSTEM", "You are a helpful assistant."),
    "qwen_2_5": _QWEN.replace(
        "SYSTEM", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    ),
    "llava_llama_3": (
        f"<|start_header_id|>system<|end_header_id|>\n\n{_VISION}<|eot_id|>{_LLAMA_3}"
    ),
    "llama_3": _LLAMA_3,
    "gemma_instruct": (
        "<start_of_turn>user\n<image>\nWhat is it?<end_of_turn>\n<start_of_turn>model\nA dot."
        "<end_of_turn>\n<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n"
    ),
    "phi3": (
        "<|user|>\n<image>\nWhat is it?<|end|>\n<|assistant|>\nA dot.<|end|>\n"
        "<|user|>\nSure?<|end|>\n<|assistant|>\n"
    ),
}


@pytest.mark.parametrize("conv_mode", UPSTREAM)
def test_prompts_are_those_of_llava(conv_mode):
    assert flat(render(SAMPLE, conv_mode)) == UPSTREAM[conv_mode]


def test_llama_2_wraps_the_system_text_and_begins_later_turns():
    prompt = flat(render(SAMPLE, "llava_llama_2"))
    assert prompt.startswith("[INST] <<SYS>>\nYou are a helpful language and vision assistant.")
    assert prompt.endswith("natural language.\n<</SYS>>\n\n<image>\nWhat is it? [/INST] A dot. </s><s>[INST] Sure? [/INST]")  # fmt: skip


def test_template_tokens_are_special_and_typed_ones_are_text():
    items = render(
        (
            Message("user", ("</s> <image> <|im_end|>",)),
            Message("assistant", ("<s>",)),
            Message("user", ("go on",)),
        ),
        "llava_v1",
    )
    assert [item for item in items if not isinstance(item, str)] == [Special("</s>")]
    assert "</s> <image> <|im_end|>" in str(items[0])


@pytest.mark.parametrize("parts", [("a", DOT), (DOT, "a")])
def test_one_picture_comes_first_in_its_message(parts):
    assert render((Message("user", parts),), "plain") == (DOT, "\na\n")


def test_pictures_in_a_text_keep_their_places():
    items = render((Message("user", ("Is ", DOT, " red?")),), "plain")
    assert items == ("Is ", DOT, " red?\n")
    items = render((Message("user", ("Is ", DOT, " older than ", DOT, "?")),), "plain")
    assert items == ("Is ", DOT, " older than ", DOT, "?\n")
    items = render((Message("user", (DOT, DOT, "a", "b")),), "plain")
    assert items == (DOT, "\n", DOT, "\na\nb\n")


def test_a_system_message_replaces_the_templates_own():
    items = render((Message("system", ("Be brief.",)), Message("user", ("Hi",))), "llava_v1")
    assert items == ("Be brief. USER: Hi ASSISTANT:",)


def test_a_system_message_without_a_turn_of_its_own_stands_before_the_question():
    items = render((Message("system", ("Be brief.",)), Message("user", ("Hi",))), "gemma_instruct")
    assert flat(items).startswith("<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>")


def test_of_two_tokens_that_begin_alike_the_longer_one_is_meant():
    raw = (Message("user", ("a</s><|end|>b",)),)
    assert render(raw, RAW) == ("a", Special("</s>"), Special("<|end|>"), "b")


def test_neighbours_of_one_role_count_as_one():
    items = render((Message("user", ("a",)), Message("user", ("b",))), "llava_v1")
    assert flat(items).endswith("USER: a\nb ASSISTANT:")


@pytest.mark.parametrize("conv_mode", TEMPLATES)
def test_every_template_renders_every_turn(conv_mode):
    prompt = flat(render(SAMPLE, conv_mode))
    places = [prompt.index(word) for word in ("<image>", "What is it?", "A dot.", "Sure?")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((), "no message"),
        (
            (Message("user", ("x",)), Message("assistant", (DOT,)), Message("user", ("y",))),
            "picture",
        ),
        ((Message("tool", ("x",)),), "unknown role"),  # type: ignore[arg-type]
    ],
)
def test_odd_conversations_are_refused(messages, message):
    with pytest.raises(UsageError, match=message):
        render(messages, "llava_v1")


def test_an_unknown_template_is_refused_with_the_names():
    with pytest.raises(UsageError, match="vicuna_v1"):
        render(SAMPLE, "vicuna_v9")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_raw_prompt_is_what_its_sender_rendered(name: str) -> None:
    """LLaVA's own clients send prompts as text: they become the conversation's own items."""
    rendered = render(SAMPLE, name)
    before, after = flat(rendered).split("<image>")
    parts = (*([before] if before else []), DOT, after)
    assert render((Message("user", parts),), RAW) == rendered
