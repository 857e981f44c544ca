"""Known questions as they are asked: greedy, with the odds, and not for long."""

import base64
import binascii
import unicodedata
from collections.abc import Sequence
from typing import Literal

from llava_pack.engine.measures import UNTOLD, Odds, Trace
from llava_pack.engine.port import Delta, EngineInfo, Message, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import IntegrityError
from llava_pack.format.known_answers import KnownAnswer, Reference

MAX_TOKENS = 64
TOP = 5
"""Likeliest tokens that are kept of each step."""
_MICRO = 1_000_000

Recorded = Literal["build", "install", "recipe", "now"]


def question(known: KnownAnswer) -> Request:
    """Return a known question as a request.

    Raises:
        IntegrityError: the manifest's text for the picture is not base64.
        UsageError: the picture is none.
    """
    from llava_pack.engine.inputs.picture_decoder import decode_picture

    parts = (decode_picture(picture_bytes(known)),) if known.picture_png else ()
    return Request(
        request_id=known.name,
        messages=(Message("user", (*parts, known.prompt)),),
        sampling=Sampling(max_tokens=MAX_TOKENS, logprobs=TOP),
    )


def missing_words(known: KnownAnswer, text: str) -> tuple[str, ...]:
    """Return the words that an answer should have and has not, whatever the case.

    Words with `|` between them are spellings of one.

    >>> two = KnownAnswer(name="n", picture_png="", prompt="?", contains=("two|2", "stars"))
    >>> missing_words(two, "2 Stars"), missing_words(two, "One star")
    ((), ('two|2', 'stars'))
    """
    said = _folded(text)
    return tuple(
        word for word in known.contains if not any(_folded(one) in said for one in word.split("|"))
    )


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def picture_bytes(known: KnownAnswer) -> bytes:
    """Return the picture's file.

    Raises:
        IntegrityError: the manifest's text for it is not base64.
    """
    try:
        return base64.b64decode(known.picture_png, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("its picture is not base64", subject=known.name) from error


def answer_of(
    info: EngineInfo, request: Request, deltas: Sequence[Delta], trace: Trace
) -> Reference:
    """Return an answer as it is recorded and compared.

    Args:
        info: of the engine that answered.
        request: the question.
        deltas: what came of it, with the odds.
        trace: of the question.
    """
    odds = [one for delta in deltas for one in delta.odds]
    return Reference(
        answer=request.request_id,
        precision=info.precision,
        made_on=info.made_on,
        recorded="now",
        text="".join(delta.text for delta in deltas),
        prompt=trace.prompt,
        words=trace.words,
        pixels=trace.pixels,
        tower=tuple(f"{value:.6g}" for value in trace.tower),
        projector=tuple(f"{value:.6g}" for value in trace.projector),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        likeliest=tuple(_ids(step) for step in odds),
        micronats=tuple(
            tuple(round(max(0.0, -one.logprob) * _MICRO) for one in step.likeliest) for step in odds
        ),
    )


def _ids(step: Odds) -> tuple[int, ...]:
    """Return the ids of the likeliest tokens; none where an engine does not tell all of them."""
    ids = tuple(one.token_id for one in step.likeliest)
    return ids if UNTOLD not in ids else ()
