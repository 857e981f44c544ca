"""Rows of a joined linear: each goes to one place, and putting them together gives it back."""

from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.internvl_names import row_pieces
from llava_pack.checkpoint.tensors import TensorEntry

_FEW = st.integers(1, 6)
_NAMES = {
    "internlm2": "language_model.model.layers.3.attention.wqkv.weight",
    "qwen2": "vision_model.encoder.layers.3.attn.qkv.bias",
}


@given(language=st.sampled_from(sorted(_NAMES)), groups=_FEW, shared=_FEW, width=_FEW)
def test_every_row_is_in_one_piece_and_in_order(language, groups, shared, width):
    rows = groups * (shared + 2) * width if language == "internlm2" else 3 * width
    entry = TensorEntry(_NAMES[language], "F16", (rows, 5))
    taken = []
    for piece in row_pieces(entry, language, groups * shared, groups):
        blocks = range(0, rows, piece.block)
        found = [at + row for at in blocks for row in range(piece.start, piece.stop)]
        assert piece.entry.shape == (len(found), 5)
        assert found == sorted(found)
        assert piece.entry.strides is None
        taken.append(found)
    queries, keys, values = taken
    assert sorted(queries + keys + values) == list(range(rows))
    assert len(keys) == len(values)
    ratio = shared if language == "internlm2" else 1
    assert len(queries) == ratio * len(keys)
    for number, row in enumerate(values):  # a group's value follows its key, and that its queries
        assert row == keys[number] + width
        assert keys[number - number % width] > queries[(number // width) * ratio * width]
