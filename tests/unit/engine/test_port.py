"""Values of the port check themselves."""

import pytest

from llava_pack.engine.port import ContextLengthError, Failed, Message, Picture
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError, PackError, UsageError


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 2**63},
        {"max_tokens": 0},
        {"stop": ("",)},
        {"stop": ("x" * 257,)},
        {"stop": ("x",) * 17},
        {"logprobs": -1},
        {"logprobs": 21},
    ],
)
def test_numbers_out_of_range_are_refused(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        Sampling(**fields)


def test_the_edges_are_taken():
    Sampling(temperature=0, top_p=1, seed=0, max_tokens=1, stop=("x" * 256,) * 16, logprobs=20)


def test_a_picture_has_as_many_bytes_as_it_says():
    with pytest.raises(UsageError, match="needs 12 bytes"):
        Picture(2, 2, bytes(11))
    with pytest.raises(UsageError):
        Picture(0, 2, b"")


def test_a_digest_knows_size_and_pixels():
    digests = {
        p.digest
        for p in (Picture(2, 1, bytes(6)), Picture(1, 2, bytes(6)), Picture(2, 1, b"123456"))
    }
    assert len(digests) == 3


def test_a_message_tells_its_texts_and_pictures_apart():
    dot = Picture(1, 1, b"abc")
    message = Message("user", (dot, "a", dot, "b"))
    assert (message.text, message.pictures) == ("a\nb", (dot, dot))


def test_a_failure_keeps_its_class():
    error = Failed.of("r", CheckpointError("broken", subject="model", hint="fetch it")).error()
    assert isinstance(error, CheckpointError)
    assert (str(error), error.hint) == ("model: broken", "fetch it")


def test_a_prompt_too_long_is_told_apart():
    error = Failed.of("r", ContextLengthError("too long")).error()
    assert type(error) is ContextLengthError
    assert isinstance(error, UsageError)


def test_an_unknown_kind_is_a_bug():
    assert type(Failed("r", "no-such-kind", "what").error()) is PackError
