"""Answers that are held to a grammar: which tokens may come next, for one vocabulary.

llguidance compiles the grammars and follows them. Compiling is bounded: by the grammar's length, by
the library's own limits on its parts, and by time; following is, by the time of all masks of an
answer. Compiling goes on in a thread of its own, whose stack is large: the library follows a chain
of rules by calling itself.

Source: llguidance docs/syntax.md, docs/json_schema.md.
"""

import functools
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from llava_pack.engine.inputs.tokenizers import Tokenizer
from llava_pack.engine.sampling import JSON_GAP, Grammar, GrammarError

_KEPT = 64
_COMPILE_S = 5.0
_FOLLOW_S, _TOKEN_S = 1.0, 0.001
"""Of the processor, to follow an answer: so much in all, and more for each token."""
_STACK_BYTES = 256 << 20
"""Of addresses; of memory, what is used."""
_MAX_LEXER_STATES = 10_000
"""A kilobyte or two each."""

_QUIET = "<non-verbose/>"
"""What the library writes where it leaves its own state out."""

_DEAD_END = "NoExtensionBias"
P = ParamSpec("P")
T = TypeVar("T")
Allowed = npt.NDArray[np.bool_]


class GrammarMatcher:
    """One answer that is held to a grammar.

    Args:
        matcher: at the beginning, and nobody else's.
        twins: for the first token, where its space is the template's.
        ends: ids that end an answer.
        end: the one that the library takes for it.
    """

    def __init__(self, matcher: Any, twins: "_Twins | None", ends: Sequence[int], end: int) -> None:
        self._matcher = matcher
        self._twins = twins
        self._ends = list(ends)
        self._own_end = end
        self._may_take_s = _FOLLOW_S

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Allowed:
        """Return which ids may come next; what ends an answer only where it may end.

        Raises:
            GrammarError: the library gave it up.
        """
        with self._timed():
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        allowed: Allowed = np.unpackbits(bits, bitorder="little").view(np.bool_)
        if self._twins is not None:
            allowed = self._twins.at_the_beginning(allowed)
        allowed[self._own_end] = False
        allowed[self._ends] = self._matcher.is_accepting()
        return allowed

    def take(self, token_id: int) -> None:
        """Go on after a token that was allowed.

        Raises:
            GrammarError: it was not.
        """
        twins, self._twins = self._twins, None
        if token_id in self._ends:
            return
        with self._timed():
            taken = self._matcher.consume_token(twins.twin(token_id) if twins else token_id)
        if not taken:
            raise _refused(self._matcher.get_error())

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time that following takes; nobody else has a turn meanwhile.

        Raises:
            GrammarError: it is more than an answer may take.
        """
        began_s = time.thread_time()
        yield
        self._may_take_s += _TOKEN_S - (time.thread_time() - began_s)
        if self._may_take_s < 0:
            hint = "make it less ambiguous"
            raise GrammarError("this grammar takes too long to follow", hint=hint)


class _Twins:
    """Tokens with a space before their text, and those without it.

    Where one comes first in an answer, its space belongs to the template: what counts is the rest.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        first = {piece: token_id for token_id, piece in reversed(list(enumerate(pieces))) if piece}
        spaced = {i: first.get(piece[1:]) for i, piece in enumerate(pieces) if piece[:1] == b" "}
        self._twin = {i: twin for i, twin in spaced.items() if twin is not None}
        self._spaced = list(spaced)
        self._with, self._without = list(self._twin), list(self._twin.values())

    def twin(self, token_id: int) -> int:
        return self._twin.get(token_id, token_id)

    def at_the_beginning(self, allowed: Allowed) -> Allowed:
        first = allowed.copy()
        first[self._spaced] = False
        first[self._with] = allowed[self._without]
        return first


class Grammars:
    """Compiles grammars for one vocabulary, and keeps the latest; safe from any thread.

    Args:
        tokenizer: of the model.
        ends: ids that end an answer, of which there is one at least.
    """

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._end = next(iter(ends), 0)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Grammar, Future[Any]] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    def compile(self, grammar: Grammar) -> None:
        """Compile a grammar, unless it is here already.

        Raises:
            GrammarError: it is wrong, has parts that are not supported, or takes too long.
        """
        self._matcher(grammar)

    def hold(self, grammar: Grammar, ends: Sequence[int], *, opened: bool = True) -> GrammarMatcher:
        """Return what holds one answer to a grammar.

        Args:
            grammar: for the whole answer.
            ends: ids that end it.
            opened: see `Prompt`.

        Raises:
            GrammarError: as `compile`.
        """
        matcher, twins = self._matcher(grammar), self._vocabulary.result()[1]
        return GrammarMatcher(matcher.deep_copy(), twins if opened else None, ends, self._end)

    def _matcher(self, grammar: Grammar) -> Any:
        with self._lock:  # two who come first read it once
            vocabulary = self._vocabulary
        vocabulary.result()  # a large one takes a while
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
            else:
                self._kept[grammar] = self._begin(self._compiled, grammar)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            kept = self._kept[grammar]
        try:
            return kept.result(_COMPILE_S)
        except TimeoutError as error:
            raise GrammarError(
                f"this grammar takes more than {_COMPILE_S:g} s to compile",
                hint="make it smaller",
            ) from error
        except GrammarError:
            with self._lock:  # what is wrong takes the place of nothing that is right
                self._kept.pop(grammar, None)
            raise

    @functools.cached_property
    def _vocabulary(self) -> "Future[tuple[Any, _Twins]]":
        return self._begin(self._read_vocabulary)

    def _begin(self, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> "Future[T]":
        usual = threading.stack_size(_STACK_BYTES)
        try:
            return self._worker.submit(work, *given, **named)
        finally:
            threading.stack_size(usual)

    def _compiled(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        tokenizer, _ = self._vocabulary.result()
        limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(tokenizer, _source(grammar), log_level=0, limits=limits)
        first = matcher.deep_copy()
        if not matcher.is_error():
            first.compute_bitmask()
        if first.is_error():
            raise _refused(first.get_error())
        return matcher

    def _read_vocabulary(self) -> tuple[Any, _Twins]:
        from llguidance import LLTokenizer, TokenizerWrapper

        pieces = [self._tokenizer.token_bytes(i) for i in range(self._tokenizer.size)]
        words = _Words(self._tokenizer, pieces, self._end)
        return LLTokenizer(TokenizerWrapper(words), eos_token=self._end), _Twins(pieces)


class _Words:
    """A vocabulary as llguidance reads it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[bytes], end: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or b"<%d>" % i for i, piece in enumerate(pieces)]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("expected text")  # so the library knows what is taken here
        return self._tokenizer.encode_inside(text)


def _source(grammar: Grammar) -> str:
    """Return a grammar in the library's own form.

    Raises:
        GrammarError: it cannot be read.
    """
    from llguidance import LLMatcher, grammar_from

    try:
        if grammar.kind == "json_schema":
            between: Any = {"whitespace_pattern": JSON_GAP}
            return LLMatcher.grammar_from_json_schema(grammar.text, overrides=between)
        if grammar.kind == "regex":
            # Others' expressions are for the whole answer too, and say so.
            text = grammar.text.removeprefix("^")
            ends = text.endswith("$") and not text.endswith("\\$")
            return LLMatcher.grammar_from_regex(text[:-1] if ends else text)
        if grammar.kind == "choice" and not _are_texts(json.loads(grammar.text)):
            raise GrammarError("expected a list of texts to choose from, with one at least")
        return grammar_from(grammar.kind, grammar.text)
    except (ValueError, RecursionError) as error:
        raise _refused(str(error)) from error


def _are_texts(choices: Any) -> bool:
    texts = isinstance(choices, list) and all(isinstance(text, str) and text for text in choices)
    return texts and bool(choices)


def _refused(why: str) -> GrammarError:
    if why.startswith(_DEAD_END):
        return GrammarError("no answer can ever be what this grammar asks for")
    lines = [line.strip() for line in why.replace(_QUIET, "").splitlines() if line.strip()]
    return GrammarError(f"this grammar cannot be used: {' '.join(lines)[:300]}")
