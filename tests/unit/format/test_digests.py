import hashlib
import io

from llava_pack.format.digests import READ_BYTES, copy_hashing, sha256_stream
from llava_pack.format.text import visible

DATA = bytes(range(256)) * 9000


def test_a_copy_is_hashed_as_it_is_made():
    copy, seen = io.BytesIO(), []
    size, digest = copy_hashing(io.BytesIO(DATA), copy, seen.append)
    assert copy.getvalue() == DATA
    assert (size, digest) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert sum(seen) == len(DATA)
    assert max(seen) <= READ_BYTES


def test_a_stream_is_hashed_from_where_it_stands():
    stream = io.BytesIO(DATA)
    stream.seek(10)
    assert sha256_stream(stream) == hashlib.sha256(DATA[10:]).hexdigest()


def test_text_from_outside_cannot_move_the_cursor_or_turn_the_line():
    assert (
        visible("a\x1b]0;x\x07\u202eb\x9bc\ud800\u2028") == r"a\x1b]0;x\x07\u202eb\x9bc\ud800\u2028"
    )
    assert visible("[bold]x[/bold] é 漢") == "[bold]x[/bold] é 漢"
