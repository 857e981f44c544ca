import hashlib
import json

import pytest

from llava_pack.format import canonical
from llava_pack.format.errors import IntegrityError

MIB = 1024 * 1024


def test_the_encoding_is_fixed():
    value = {"z": [1, 2.5, None, True], "a": {"é": "ü\n"}}
    data = canonical.dumps(value)
    assert data == '{"a":{"é":"ü\\n"},"z":[1,2.5,null,true]}\n'.encode()
    assert hashlib.sha256(data).hexdigest() == (
        hashlib.sha256(canonical.dumps(json.loads(data))).hexdigest()
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a":1,"a":2}', "duplicate key"),
        (b"NaN", "not finite"),
        (b"[Infinity]", "not finite"),
        (b"[1e999]", "not finite"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b"1" * 5000, "not JSON"),
        (b" " * (MIB + 1), "too large"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(data, said):
    with pytest.raises(IntegrityError, match=said):
        canonical.loads(data, max_bytes=MIB)


def test_nan_has_no_encoding():
    with pytest.raises(ValueError, match="JSON"):
        canonical.dumps([float("nan")])
