"""Whatever shape a conversation has, every template writes all of it, in its order, and as text."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.chat_template_trial import tried
from llava_pack.checkpoint.templates import RAW, TEMPLATES, template
from llava_pack.engine.inputs.templates import Item, Special, render, render_own
from llava_pack.engine.inputs.turns import conversation
from llava_pack.engine.port import ROLES, Message, Picture
from llava_pack.format.errors import UsageError
from tests.support.chat_templates import PUBLISHED

DOT = Picture(1, 1, b"abc")
NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "</s>"}
OWN = {name: tried(text, NAMES) for name, text in PUBLISHED.items()}
SPECIALS = frozenset({"<|im_start|>", "<|im_end|>", "<|eot_id|>", "</s>", "<image>"})
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""As Gemma's and Mistral's: no system message, and two roles in turn."""
SHAPES = [roles for length in (1, 2, 3, 4) for roles in product(ROLES, repeat=length)]


def prompt(messages: tuple[Message, ...], name: str, new_turn: bool | None = None) -> str:  # noqa: FBT001
    if name in TEMPLATES or name == RAW:
        return flat(render(messages, name, new_turn=new_turn))
    own = tried(STRICT, NAMES) if name == "strict" else OWN[name]
    return flat(render_own(messages, own, SPECIALS, new_turn=new_turn))


def flat(items: tuple[Item, ...]) -> str:
    return "".join(
        "<image>" if isinstance(i, Picture) else i.token if isinstance(i, Special) else i
        for i in items
    )


@pytest.mark.parametrize("name", [*TEMPLATES, *OWN, "strict"])
def test_every_shape_is_written_whole_and_in_order(name):
    for roles in SHAPES:
        messages = tuple(Message(role, (f"word{i}",)) for i, role in enumerate(roles))
        written = prompt(messages, name)
        places = [written.find(f"word{i}") for i in range(len(roles))]
        assert -1 not in places, (roles, written)
        assert places == sorted(places), (roles, written)


@pytest.mark.parametrize("name", [*TEMPLATES, RAW, "strict"])
def test_a_continued_answer_is_the_prompt_with_that_text_begun(name):
    asked = (Message("user", (DOT, "What is it?")),)
    begun = (*asked, Message("assistant", ("It is a d",)))
    opened, continued, closed = (
        prompt(asked, name), prompt(begun, name), prompt(begun, name, new_turn=False)
    )  # fmt: skip
    assert continued.endswith("It is a d")
    assert continued.removesuffix("It is a d").rstrip(" ") == opened.rstrip(" ")
    assert closed.startswith(continued)
    assert len(closed) > len(continued) or name == RAW
    assert prompt(begun, name, new_turn=True).startswith(closed)


@pytest.mark.parametrize("name", [*TEMPLATES, *OWN])
@pytest.mark.parametrize("parts", [(), ("",), (" \n",)])
def test_an_answer_that_is_still_empty_is_asked_for(name, parts):
    asked = (Message("user", ("What is it?",)),)
    assert prompt((*asked, Message("assistant", parts)), name) == prompt(asked, name)


@pytest.mark.parametrize("name", ["llava_v1", "mistral_instruct"])
def test_an_answer_is_taken_back_as_it_was_given(name):
    """A model of these templates begins its answers with the space behind the colon."""
    turns = (Message("user", ("a",)), Message("assistant", (" b",)))
    given = (Message("user", ("a",)), Message("assistant", ("b",)))
    for more in ((), (Message("user", ("c",)),)):
        assert prompt((*turns, *more), name) == prompt((*given, *more), name)


def test_later_system_messages_have_turns_where_a_template_has_them():
    messages = (
        Message("system", ("A",)), Message("system", ("B",)), Message("user", ("q",)),
        Message("system", ("C",)), Message("user", ("r",)),
    )  # fmt: skip
    assert prompt(messages, "qwen_2").startswith(
        "<|im_start|>system\nA\nB<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
        "<|im_start|>system\nC<|im_end|>\n<|im_start|>user\nr<|im_end|>\n"
    )
    assert prompt(messages, "llava_v1") == "A\nB USER: q\nC\nr ASSISTANT:"
    assert prompt(messages, "gemma_instruct").startswith("<start_of_turn>user\nA\nB\n\nq\nC\nr<")
    assert prompt(messages, "strict") == "<user>A\nB\nq\nC\nr</s><assistant>"


def test_who_speaks_first_may_be_the_assistant():
    messages = (Message("assistant", ("Hi!",)), Message("user", ("q",)))
    assert prompt(messages, "llava_v1").endswith("questions. ASSISTANT: Hi!</s>USER: q ASSISTANT:")
    assert prompt(messages, "mistral_instruct") == "[INST]  [/INST] Hi! </s>[INST] q [/INST]"
    assert prompt(messages, "strict") == "<user></s><assistant>Hi!</s><user>q</s><assistant>"


def test_a_system_message_alone_is_asked():
    assert prompt((Message("system", ("Tell a joke.",)),), "llava_v1") == "Tell a joke. ASSISTANT:"
    assert "Tell a joke." in prompt((Message("system", ("Tell a joke.",)),), "gemma_instruct")


@given(
    roles=st.lists(st.sampled_from(ROLES), min_size=1, max_size=6),
    text=st.text(st.sampled_from("<|im_end>/s{%}image \n")) | st.sampled_from(sorted(SPECIALS)),
    name=st.sampled_from([*TEMPLATES, *OWN]),
)
def test_what_anybody_writes_stays_text(roles, text, name):
    """In every role: an answer that is continued, and what a tool said, are text too."""
    plain = tuple(Message(role, ("x",)) for role in roles)
    typed = tuple(Message(role, (f"x{text}x",)) for role in roles)

    def tokens(messages):
        items = (
            render(messages, name)
            if name in TEMPLATES
            else render_own(messages, OWN[name], SPECIALS)
        )
        return [one for one in items if isinstance(one, (Special, Picture))]

    assert tokens(typed) == tokens(plain)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_picture_stands_in_a_persons_turn_only(role):
    with pytest.raises(UsageError, match=f"got one from {role}"):
        conversation((Message(role, (DOT,)), Message("user", ("x",))))


def test_the_templates_that_say_where_a_turn_ends_are_all_looked_at():
    assert {template(name).style for name in (*TEMPLATES, RAW)} == {
        "single", "two", "turns", "llama_2", "plain", "raw",
    }  # fmt: skip
