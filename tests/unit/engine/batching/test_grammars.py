"""Answers that are held to a grammar, whatever tokens are drawn: over vocabularies of each kind."""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.engine.batching.grammars import Grammars
from llava_pack.engine.inputs.tokenizers import Tokenizer, read_tokenizer
from llava_pack.engine.sampling import ANY_OBJECT, Grammar, GrammarError
from llava_pack.serve.api.schemas import closed
from tests.support.byte_level import write_llama_3, write_qwen
from tests.support.checkpoints import TOKENIZER_CONFIG
from tests.support.schemas import check_schema
from tests.support.vocabularies import tiny_tokenizer_model
from tests.unit.serve.api.test_held import BASE_AND_BRANCHES

END = 2
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "dark green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
        "size": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["colour", "count", "names"],
    "additionalProperties": False,
}
MODEL = tiny_tokenizer_model(320)


def sentencepiece(folder: Path) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(MODEL)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return read_tokenizer(folder)


def fast(folder: Path) -> Tokenizer:
    (folder / "tokenizer.json").write_bytes(tokenizer_json(MODEL, TOKENIZER_CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return read_tokenizer(folder)


KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "sentencepiece": sentencepiece,
    "fast": fast,
    "qwen": lambda folder: read_tokenizer(write_qwen(folder)),
    "llama 3": lambda folder: read_tokenizer(write_llama_3(folder)),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return KINDS[request.param](tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def grammars(tokenizer) -> Grammars:
    return Grammars(tokenizer, (END,))


def drawn(grammars: Grammars, tokenizer: Tokenizer, grammar: Grammar, seed: int) -> str:
    """Return an answer of which each token was drawn from those that are allowed."""
    held, chance = grammars.hold(grammar, (END,)), random.Random(seed)
    said = b""
    for place in range(4000):
        token_id = int(chance.choice(list(np.flatnonzero(held.allowed()))))
        held.take(token_id)
        if token_id == END:
            break
        piece = tokenizer.token_bytes(token_id)
        said += piece if place else piece.removeprefix(b" ")  # as the scheduler does
        if held.ended:
            break
    else:
        raise AssertionError(f"no end: {said[:200]!r}")
    return said.decode()


@given(seed=st.integers(0, 2**32))
def test_whatever_is_drawn_fits_the_schema(grammars, tokenizer, seed):
    answer = drawn(grammars, tokenizer, Grammar("json_schema", json.dumps(SCHEMA)), seed)
    check_schema(json.loads(answer), SCHEMA)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_drawn_fits_the_other_kinds(grammars, tokenizer, seed):
    def answer(kind: str, text: str) -> str:
        return drawn(grammars, tokenizer, Grammar(kind, text), seed)  # type: ignore[arg-type]

    assert answer("choice", '["yes", "no", "größe", " a b"]') in {"yes", "no", "größe", " a b"}
    assert re.fullmatch(r"[A-Z][a-z]{2,5}", answer("regex", r"^[A-Z][a-z]{2,5}$"))
    assert re.fullmatch(r"5\$", answer("regex", r"5\$"))
    assert re.fullmatch(r"ab{1,9}", answer("grammar", 'root ::= "a" b\nb ::= "b"{1,9}'))
    assert re.fullmatch(r"a [0-9]{3}", answer("grammar", 'start: "a " N\nN: /[0-9]{3}/'))


def test_branches_beside_properties_can_be_answered(grammars, tokenizer):
    schema = closed(BASE_AND_BRANCHES)
    answer = drawn(grammars, tokenizer, Grammar("json_schema", json.dumps(schema)), 0)
    check_schema(json.loads(answer), BASE_AND_BRANCHES)


def test_an_answer_begins_with_or_without_the_template_s_space(grammars, tokenizer):
    allowed = grammars.hold(Grammar("choice", '["star"]'), (END,)).allowed()
    first = {tokenizer.token_bytes(int(i)) for i in np.flatnonzero(allowed)}
    assert all(b"star".startswith(piece.removeprefix(b" ")) and piece != b" " for piece in first)


def test_an_end_comes_where_the_grammar_may_end_and_nowhere_else(grammars, tokenizer):
    held = grammars.hold(Grammar("regex", "a+"), (END,))
    assert not held.allowed()[END]
    (letter,) = tokenizer.encode_inside("a")
    held.take(letter)
    assert held.allowed()[END]
    assert not held.ended
    assert not grammars.hold(Grammar("regex", "a+"), ()).allowed()[END]


def test_an_end_that_is_no_end_of_this_answer_is_none_of_the_grammar(grammars, tokenizer):
    held = grammars.hold(Grammar("regex", "a+"), (), opened=False)
    (letter,) = tokenizer.encode_inside("a")
    for _ in range(3):
        held.take(letter)
        assert not held.allowed()[END]


def test_a_grammar_that_takes_ever_longer_is_given_up(tmp_path):
    """Each token costs more than the one before it, and everybody waits."""
    tokenizer = sentencepiece(tmp_path)
    grammars = Grammars(tokenizer, (END,))
    text = 'start: s\ns: s s | "a" s | s "a" | "a" | ""'
    held = grammars.hold(Grammar("grammar", text), (END,))
    (letter,) = tokenizer.encode_inside("a")

    def follow() -> None:
        for _ in range(5000):
            held.allowed()
            held.take(letter)

    began_s = time.thread_time()
    with pytest.raises(GrammarError, match="too long to follow"):
        follow()
    assert time.thread_time() - began_s < 30


def test_one_answer_does_not_move_another(grammars, tokenizer):
    first, second = (grammars.hold(Grammar("choice", '["ab"]'), (END,)) for _ in range(2))
    before = second.allowed().copy()
    first.take(int(np.flatnonzero(first.allowed())[0]))
    assert (second.allowed() == before).all()


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (("json_schema", '{"type": "colour"}'), "colour"),
        (("json_schema", "{never"), "line 1"),
        (("json_schema", '{"not": {}}'), '"not"'),
        (("json_schema", '{"$ref": "http://x/y"}'), "http://x/y"),
        (("json_schema", '{"$ref": "#"}'), "no answer can ever be"),
        (("json_schema", '{"enum": []}'), "Unsatisfiable"),
        (("json_schema", "[]"), "object"),
        (("regex", "("), "unclosed"),
        (("regex", "(?=a)b"), "look-around"),
        (("choice", "[]"), "with one at least"),
        (("choice", '["a", 1]'), "with one at least"),
        (("choice", "yes"), "line 1"),
        (("grammar", "root ::= ("), "GBNF"),
        (("grammar", "root ::= " + "(" * 20_000), "recursion"),
        (("grammar", "start: never"), "never"),
    ],
)
def test_what_cannot_be_compiled_says_why(grammars, grammar, says):
    for _ in range(2):  # and so does the one that is kept
        with pytest.raises(GrammarError, match=re.escape(says)) as caught:
            grammars.compile(Grammar(*grammar))
        assert "<non-verbose/>" not in str(caught.value)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", json.dumps({"properties": {f"k{i}": {} for i in range(1500)}})),
        Grammar("json_schema", json.dumps({"allOf": [{"anyOf": [{"properties": {f"{n}{i}": {}}}
            for n in "ab"]} for i in range(14)]})),
        Grammar("json_schema", '{"type": "array", "minItems": 2000000, "items": {"minLength": 9}}'),
        Grammar("regex", "(.*a.{30}){10}"),
        Grammar("regex", "(a{1000}){1000}"),
        Grammar("grammar", "start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1}' for i in range(3500))
            + '\nr3500: "b"'),
    ],
    ids=["wide", "product", "long", "states", "powers", "deep"],
)  # fmt: skip
def test_a_bomb_is_refused_or_followed_in_time(grammars, grammar):
    def follow() -> None:
        try:
            held = grammars.hold(grammar, (END,))
            for _ in range(50):
                held.take(int(np.flatnonzero(held.allowed())[0]))
        except GrammarError:
            pass

    trying = threading.Thread(target=follow, daemon=True)
    trying.start()
    trying.join(20)
    assert not trying.is_alive()


def test_as_many_are_kept_as_may_be(tokenizer):
    grammars = Grammars(tokenizer, (END,))
    for number in range(100):
        grammars.compile(Grammar("regex", f"a{{{number + 1}}}"))
    assert len(grammars._kept) < 100
    with pytest.raises(GrammarError):
        grammars.compile(Grammar("regex", "("))
    assert Grammar("regex", "(") not in grammars._kept
    assert json.loads(drawn(grammars, tokenizer, Grammar("json_schema", '{"const": 1}'), 0)) == 1


def test_a_grammar_has_a_kind_and_a_length():
    assert ANY_OBJECT.kind == "json_schema"
    with pytest.raises(GrammarError, match="expected one of json_schema, regex"):
        Grammar("xml", "<a/>")  # type: ignore[arg-type]
    for text in ("", "x" * 65_537):
        with pytest.raises(GrammarError, match="expected 1 to 65536"):
            Grammar("regex", text)
