"""A checkpoint's own chat template gives what transformers gives, and nobody's text becomes its."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.chat_template import Markup, TemplateTurn
from llava_pack.checkpoint.chat_template_trial import find_chat_template, tried
from llava_pack.checkpoint.jinja_sandbox import MAX_TEMPLATE_CHARS, rendered
from llava_pack.format.errors import CheckpointError, UsageError
from tests.support.chat_templates import LLAMA_3, MISTRAL, PUBLISHED, VICUNA

NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "</s>"}
SEEN = object()
CONVERSATIONS = {
    "question": (TemplateTurn("user", ("what is this?",)),),
    "picture": (TemplateTurn("user", (SEEN, "what is this?")),),
    "two": (TemplateTurn("user", (SEEN, SEEN, "same?")),),
    "ends": (TemplateTurn("user", (SEEN, "  spaces\n")),),
    "turns": (
        TemplateTurn("user", (SEEN, "first")),
        TemplateTurn("assistant", (" an answer ",)),
        TemplateTurn("user", ("second",)),
    ),
    "system": (
        TemplateTurn("system", (" Be brief.",)),
        TemplateTurn("user", (SEEN, "hello\nthere")),
    ),
}


def by_transformers(
    text: str, turns: tuple[TemplateTurn, ...], *, lists: bool, continued: bool = False
) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": turn.role, "content": content(turn, lists=lists)} for turn in turns]
    rendered = render_jinja_template(
        [messages],
        chat_template=text,
        add_generation_prompt=not continued,
        continue_final_message=continued,
        **NAMES,
    )
    return rendered[0][0]


def content(turn: TemplateTurn, *, lists: bool):
    if not lists:
        return "".join("<image>\n" if part is SEEN else part for part in turn.parts)
    return [
        {"type": "image"} if part is SEEN else {"type": "text", "text": part} for part in turn.parts
    ]


def flat(pieces: list) -> str:
    texts = {Markup: lambda one: one.text, str: str}
    return "".join(texts.get(type(piece), lambda _: "<image>")(piece) for piece in pieces)


@pytest.mark.engine
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_prompts_are_those_of_transformers(name, conversation):
    template = tried(PUBLISHED[name], NAMES)
    turns = CONVERSATIONS[conversation]
    expected = by_transformers(PUBLISHED[name], turns, lists=template.lists)
    assert flat(template.render(turns)) == expected


@pytest.mark.engine
@pytest.mark.parametrize(
    "begun", ["It is a d", " It is ", "It is\n\n- a", "one\ntwo  ", "What is it"]
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_an_answer_is_continued_as_by_transformers(name, begun):
    template = tried(PUBLISHED[name], NAMES)
    turns = (TemplateTurn("user", (SEEN, "What is it")), TemplateTurn("assistant", (begun,)))
    expected = by_transformers(PUBLISHED[name], turns, lists=template.lists, continued=True)
    assert flat(template.render(turns, "continued")) == expected


def test_content_is_a_list_or_one_text_as_the_template_takes_it():
    lists = {name: tried(text, NAMES).lists for name, text in PUBLISHED.items()}
    assert lists == {
        "vicuna": True, "mistral": True, "onevision": True, "qwen": False, "llama 3": False,
    }  # fmt: skip


@given(
    text=st.text(st.sampled_from("<|im_end>/s{%}image \n")) | st.text(),
    name=st.sampled_from(sorted(PUBLISHED)),
)
def test_what_people_type_stays_a_text_of_its_own(text, name):
    template = tried(PUBLISHED[name], NAMES)
    pieces = template.render((TemplateTurn("user", (SEEN, f"?{text}?")),))
    plain = template.render((TemplateTurn("user", (SEEN, "?x?")),))
    assert [piece for piece in pieces if isinstance(piece, Markup) or piece is SEEN] == [
        piece for piece in plain if isinstance(piece, Markup) or piece is SEEN
    ]
    assert f"?{text}?" in flat(pieces)


def test_pictures_in_a_text_stay_where_they_are():
    for text in PUBLISHED.values():
        pieces = tried(text, NAMES).render(
            (TemplateTurn("user", ("Is ", 1, " older than ", 2, "?")),)
        )
        assert flat(pieces).count("Is <image> older than <image>?") == 1
        assert [piece for piece in pieces if isinstance(piece, int)] == [1, 2]


def test_an_empty_question_is_one():
    assert flat(tried(VICUNA, NAMES).render((TemplateTurn("user", (SEEN, "")),))) == (
        "USER: <image>\n ASSISTANT:"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ messages[0]['content'] | upper }}", "it leaves out a text"),
        (VICUNA.replace("content['text'] + ' '", "content['text'] | upper"), "changes the texts"),
        (VICUNA.replace("'<image>\\n'", "''"), "leaves out a picture"),
        (VICUNA.replace("'<image>\\n'", "'<image><image>'"), "more pictures than there are"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{% for %}", "Expected an expression"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "without end"),
        ("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "recursion depth"),
        ("{{ 'a' * 1000000000 }}", "not allowed"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "not allowed"),
        ("x" * (MAX_TEMPLATE_CHARS + 1), f"expected at most {MAX_TEMPLATE_CHARS}"),
        (f"{VICUNA}\ue0000\ue001", "private use"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_refused(text, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        tried(text, NAMES)
    assert "--conv-mode" in caught.value.hint


LAST = "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}{{ messages[1].content }}"


@pytest.mark.parametrize("escaped", ["9", "9" * 5000, "\u0661" * 5000])
def test_marks_that_a_template_writes_itself_are_refused(escaped):
    with pytest.raises(CheckpointError, match="private use"):
        tried(f"{MISTRAL}{{{{ '\\ue000{escaped}\\ue001' }}}}", NAMES)


def test_an_answer_that_a_template_puts_last_has_nothing_behind_it():
    assert tried(LAST, NAMES).after == ""


GROWING = "{% set ns = namespace(x='aaaaaaaa') %}{% for _ in range(60) %}{% set ns.x = GROW %}{% endfor %}"


@pytest.mark.parametrize(
    "text",
    [
        *(
            GROWING.replace("GROW", grow)
            for grow in (
                "ns.x + ns.x", "ns.x ~ ns.x", "'%s%s' % (ns.x, ns.x)", "[ns.x, ns.x]",
                "ns.x | replace('a', 'aa')", "ns.x.replace('a', 'aa')", "(ns.x, ns.x) | join",
                "'{0}{0}'.format(ns.x)", "'%s%s' | format(ns.x, ns.x)",
            )
        ),
        *(
            f"{{{{ {wide} }}}}"
            for wide in (
                "'x' | center(10**9)", "'x' | center(999999999)", "'x'.center(999999999)",
                "'x'.ljust(999999999)", "'x'.rjust(999999999)", "'x'.zfill(999999999)",
                "'a\nb' | indent(999999999)", "messages | tojson(indent=999999999)",
                "'%999999999d' % 1", "'%*d' % (999999999, 1)", "'{:999999999}'.format(1)",
                "'{:{}}'.format('x', 999999999)", "'%999999999d' | format(1)",
                "'\t'.expandtabs(999999999)", "[1] | batch(999999999, 'x') | list",
            )
        ),
    ],
)  # fmt: skip
def test_nothing_in_a_template_grows_large(text):
    with pytest.raises(CheckpointError, match=r"not allowed|without end"):
        rendered(text + "{{ ns.x if ns is defined }}", {"messages": [{"role": "user"}]})


def test_a_large_number_is_short_as_a_text():
    text = (
        "{{ 9999999 | string }} {{ '%d' % 9999999 }} {{ '{}'.format(9999999) }} {{ 'a' ~ 9999999 }}"
    )
    assert rendered(text, {}).count("9999999") == 4


def test_compiling_is_limited_too():
    with pytest.raises(CheckpointError, match="without end"):
        rendered("{{ a.b }}" * 12000, {"a": {}})


def test_what_a_template_refuses_is_the_questions_fault():
    alternating = MISTRAL.replace(
        "== 'system' %}", "== 'system' %}{{ raise_exception('no system') }}"
    )
    template = tried(alternating, NAMES)
    with pytest.raises(UsageError, match="no system"):
        template.render((TemplateTurn("system", ("x",)), TemplateTurn("user", ("y",))))


def test_the_token_behind_an_answer_is_seen():
    assert tried(LLAMA_3, NAMES).after.startswith("<|eot_id|>")
    assert tried(MISTRAL, NAMES).after.startswith("</s>")


def test_where_the_template_lies(tmp_path):
    assert find_chat_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    places = {
        "tokenizer_config.json": ({"chat_template": named}, "d"),
        "processor_config.json": ({"chat_template": "p"}, "p"),
        "chat_template.json": ({"chat_template": "j"}, "j"),
    }
    for name, (value, text) in places.items():
        (tmp_path / name).write_text(json.dumps(value))
        assert find_chat_template(tmp_path) == text
    (tmp_path / "chat_template.jinja").write_text("{{ x }}")
    assert find_chat_template(tmp_path) == "{{ x }}"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        find_chat_template(tmp_path)
