"""The Jinja templates give what the engine's own renderer gives, conversation by conversation."""

import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.checkpoint.templates import TEMPLATES
from llava_pack.engine.inputs.templates import Special, render
from llava_pack.engine.port import Message, Picture

pytestmark = pytest.mark.engine  # Jinja comes with transformers
DOT = Picture(1, 1, b"\0\0\0")
CONVERSATIONS = {
    "question": (Message("user", ("what is this?",)),),
    "picture": (Message("user", (DOT, "what is this?")),),
    "picture last": (Message("user", ("what is this?", DOT)),),
    "two pictures": (Message("user", (DOT, "and", DOT, "differ?")),),
    "in a text": (Message("user", ("Is ", DOT, " red?")),),
    "after a text": (Message("user", ("Same:", DOT, DOT)),),
    "texts": (Message("user", (DOT, "a", "b", DOT, "c", "", DOT, "d.", DOT, ".")),),
    "turns": (
        Message("user", (DOT, "first")),
        Message("assistant", ("an answer",)),
        Message("user", ("second",)),
    ),
    "system": (Message("system", ("Be brief.",)), Message("user", (DOT, "hello\nthere"))),
    "empty system": (Message("system", ("",)), Message("user", ("x",))),
}


def jinja(text: str, messages: tuple[Message, ...]) -> str:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    turns = [
        {
            "role": one.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in one.parts
            ],
        }
        for one in messages
    ]
    return environment.from_string(text).render(messages=turns, add_generation_prompt=True)


def expected(messages: tuple[Message, ...], conv_mode: str, picture: str) -> str:
    items = render(messages, conv_mode)
    texts = (picture if isinstance(i, Picture) else i.token if isinstance(i, Special) else i for i in items)  # fmt: skip
    return "".join(texts)


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("conv_mode", TEMPLATES)
@pytest.mark.parametrize("legacy", [True, False])
def test_same_prompt(conv_mode, name, legacy):
    messages = CONVERSATIONS[name]
    want = expected(messages, conv_mode, "<image>" if legacy else "<image> ")
    text = chat_template(conv_mode, legacy=legacy, named=("<|im_start|>",))
    assert jinja(text, messages) == want


@pytest.mark.parametrize(("legacy", "lead"), [(True, ""), (False, " ")])
def test_a_space_before_a_word_without_a_part_of_its_own(legacy, lead):
    messages = CONVERSATIONS["question"]
    want = lead + expected(messages, "chatml_direct", "")
    assert jinja(chat_template("chatml_direct", legacy=legacy), messages) == want


@pytest.mark.parametrize(
    ("legacy", "picture"),
    [(True, "<im_start><image><im_end>"), (False, "<im_start><image> <im_end>")],
)
def test_pictures_between_words(legacy, picture):
    messages = CONVERSATIONS["two pictures"]
    text = chat_template("llava_v1", legacy=legacy, picture_ends=True)
    assert jinja(text, messages) == expected(messages, "llava_v1", picture)


def test_content_may_be_a_plain_text():
    text = chat_template("llava_v1", legacy=True)
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    given = [{"role": "user", "content": "hello"}]
    said = environment.from_string(text).render(messages=given, add_generation_prompt=True)
    assert said == expected((Message("user", ("hello",)),), "llava_v1", "<image>")
