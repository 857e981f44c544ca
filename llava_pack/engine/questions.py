"""Known questions as they are asked: greedy, with the odds, and not for long."""

import base64
import binascii

from llava_pack.engine.port import Message, Request, Sampling
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import KnownAnswer

MAX_TOKENS = 64
TOP = 5
"""Likeliest tokens that are kept of each step."""


def question(known: KnownAnswer) -> Request:
    """Return a known question as a request.

    Raises:
        IntegrityError: the manifest's text for the picture is not base64.
        UsageError: the picture is none.
    """
    from llava_pack.engine.pictures import decode_picture

    parts = (decode_picture(picture_bytes(known)),) if known.picture_png else ()
    return Request(
        request_id=known.name,
        messages=(Message("user", (*parts, known.prompt)),),
        sampling=Sampling(max_tokens=MAX_TOKENS, logprobs=TOP),
    )


def picture_bytes(known: KnownAnswer) -> bytes:
    """Return the picture's file.

    Raises:
        IntegrityError: the manifest's text for it is not base64.
    """
    try:
        return base64.b64decode(known.picture_png, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("its picture is not base64", subject=known.name) from error
