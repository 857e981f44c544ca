"""Every other kind of checkpoint, whole and broken."""

import json
import tracemalloc

import pytest

from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.checkpoint.pair import survey_pair
from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.checkpoint.weight_file import open_weights
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    make_converted,
    make_language,
    make_llava,
    make_lora,
    make_projector,
    make_tower,
    save_tensors,
)
from tests.support.pickles import Stored
from tests.support.vocabularies import tiny_tokenizer_model

MAKERS = {
    Kind.CONVERTED: make_converted,
    Kind.LANGUAGE: make_language,
    Kind.LORA: make_lora,
    Kind.ORIGINAL: make_llava,
    Kind.PROJECTOR: make_projector,
    Kind.TOWER: make_tower,
}
NAMES = {Kind.LORA: "llava-v1.5-tiny-lora", Kind.CONVERTED: "llava-1.5-tiny-hf"}


def made(tmp_path, kind, spec=None):
    return MAKERS[kind](tmp_path / NAMES.get(kind, "llava-v1.5-tiny"), spec)


def edit(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def tensors_of(path):
    with open_weights(path) as file:
        return {e.name: Stored(e.dtype, e.shape, bytes(file.read(e))) for e in file.entries}


def change(path, edited):
    """Rewrite a weight file after `edited` has changed its tensors in place."""
    tensors = tensors_of(path)
    edited(tensors)
    save_tensors(path, tensors)


def fails(folder):
    return [str(d) for d in survey(folder)[1] if d.level == "fail"]


@pytest.mark.parametrize("kind", list(MAKERS))
def test_whole(tmp_path, kind):
    layout, defects = survey(made(tmp_path, kind), expect=kind)
    left = {Kind.LORA: "trainer_state.json", Kind.PROJECTOR: "training_args.bin"}.get(kind)
    assert [str(one) for one in defects] == (
        [f"{left}: left by training, not used"] if left else []
    )
    assert layout.kind is kind


@pytest.mark.parametrize("mistral", [False, True])
@pytest.mark.parametrize("tiles", [False, True])
def test_conversions(tmp_path, mistral, tiles):
    spec = TinyLlava(mistral=mistral, tiles=tiles, shards=3, groups=2)
    layout, defects = survey(make_converted(tmp_path / "llava-v1.5-x-hf", spec))
    assert defects == []
    assert layout.language == ("mistral" if mistral else "llama")
    assert layout.tiles == tiles
    assert len(layout.weight_files) == 3


def test_a_conversion_of_a_tied_model(tmp_path):
    assert fails(make_converted(tmp_path / "x-hf", tied=True)) == []


def test_a_prequantized_weight_is_held_against_as_many_elements(tmp_path):
    folder = make_converted(tmp_path / "x-hf", TinyLlava(shards=1))
    four_bits = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit(folder / "config.json", quantization_config=four_bits)
    name = "language_model.model.layers.0.mlp.up_proj.weight"

    def packed(count):
        codes = Stored("U8", (count, 1), bytes(count))
        return lambda t: t.update({name: codes, f"{name}.absmax": Stored("F32", (1,), bytes(4))})

    change(folder / "model.safetensors", packed(48 * 32 // 2))
    assert fails(folder) == []
    change(folder / "model.safetensors", packed(7))
    assert fails(folder) == [f"{name}: has shape (7, 1), config.json asks for (48, 32)"]


def test_a_conversion_without_its_tower_and_with_wrong_shapes(tmp_path):
    folder = make_converted(tmp_path / "x-hf", TinyLlava(shards=1))

    def edited(tensors):
        for name in [name for name in tensors if name.startswith("vision_tower.")]:
            del tensors[name]
        tensors["language_model.model.norm.weight"] = Stored("F16", (3,), bytes(6))

    change(folder / "model.safetensors", edited)
    assert fails(folder) == [
        "language_model.model.norm.weight: has shape (3,), config.json asks for (32,)",
        "weights: lack the vision tower",
    ]


def test_sizes_that_a_conversion_leaves_out_are_those_of_transformers(tmp_path):
    folder = make_converted(tmp_path / "x-hf", TinyLlava(shards=1))
    edit(folder / "config.json", text_config={"model_type": "llama"}, vision_config={})
    found = "\n".join(fails(folder))
    assert "config.json asks for (32000, 4096)" in found
    assert "model.layers.31" in found or "and" in found


def test_a_tower_with_missing_and_wrong_tensors(tmp_path):
    folder = make_tower(tmp_path / "clip")

    def edited(tensors):
        del tensors["vision_model.post_layernorm.bias"]
        tensors["vision_model.pre_layrnorm.bias"] = Stored("F32", (3,), bytes(12))

    change(folder / "pytorch_model.bin", edited)
    assert fails(folder) == [
        "weights: lack vision_model.post_layernorm.bias",
        "vision_model.pre_layrnorm.bias: has shape (3,), config.json asks for (16,)",
    ]
    (folder / "preprocessor_config.json").unlink()
    text = "preprocessor_config.json: is missing, and so is processor_config.json"
    assert text in fails(folder)


@pytest.mark.parametrize("kind", [Kind.ORIGINAL, Kind.CONVERTED, Kind.LANGUAGE])
def test_no_tokenizer(tmp_path, kind):
    folder = made(tmp_path, kind)
    (folder / "tokenizer.model").unlink()
    assert fails(folder) == [
        "tokenizer.json: is missing, and so are tokenizer.model and vocab.json"
    ]
    (folder / "tokenizer.json").write_bytes(tokenizer_json(tiny_tokenizer_model(320), {}))
    assert fails(folder) == []


@pytest.mark.parametrize("kind", [Kind.ORIGINAL, Kind.LANGUAGE])
def test_a_tokenizer_that_is_damaged_or_of_another_model(tmp_path, kind):
    folder = made(tmp_path, kind)
    make_llava(tmp_path / "other", TinyLlava(vocabulary=384))
    (folder / "tokenizer.model").write_bytes((tmp_path / "other/tokenizer.model").read_bytes())
    assert fails(folder) == ["tokenizer.model: has 384 pieces, vocab_size of config.json is 320"]
    (folder / "tokenizer.model").write_bytes(b"{}")
    assert "tokenizer.model: not a sentencepiece model" in fails(folder)[0]


def test_a_padded_vocabulary_is_fine(tmp_path):
    folder = make_llava(tmp_path / "llava-v1.5-tiny", TinyLlava(vocabulary=384))
    make_llava(tmp_path / "other")
    (folder / "tokenizer.model").write_bytes((tmp_path / "other/tokenizer.model").read_bytes())
    assert survey(folder)[1] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "non_lora_trainables.bin",
            "non_lora_trainables.safetensors: is missing, and so is non_lora_trainables.bin",
        ),
        (
            "adapter_model.bin",
            "adapter_model.safetensors: is missing, and so is adapter_model.bin",
        ),
        ("adapter_config.json", "adapter_config.json: is missing"),
        ("config.json", "config.json: is missing"),
    ],
)
def test_an_adapter_that_lacks_a_file(tmp_path, name, text):
    folder = made(tmp_path, Kind.LORA)
    (folder / name).unlink()
    assert text in fails(folder)


def test_what_an_adapter_says(tmp_path):
    layout = read_layout(made(tmp_path, Kind.LORA))
    assert layout.base_model == "lmsys/vicuna-tiny"
    assert layout.weight_files == ("adapter_model.bin", "non_lora_trainables.bin")


A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB")


WRONG_RANK = "adapter_model: does not fit rank 4 and the sizes of config.json at model.layers"
HALF = "adapter_model: model.layers.0.self_attn.q_proj.weight has only one of lora_A and lora_B"


@pytest.mark.parametrize(
    ("edited", "text"),
    [
        (lambda t: t.pop(B), HALF),
        (lambda t: t.update({A: Stored("F16", (5, 32), bytes(320))}), WRONG_RANK),
        (lambda t: t.update({B: Stored("F16", (32, 5), bytes(320))}), WRONG_RANK),
        (lambda t: t.update({A.replace("layers.0", "layers.9"): t.pop(A)}), HALF),
    ],
)
def test_an_adapter_that_does_not_fit(tmp_path, edited, text):
    folder = made(tmp_path, Kind.LORA)
    change(folder / "adapter_model.bin", edited)
    assert text in fails(folder)[0]


def test_an_adapter_of_another_rank_or_none(tmp_path):
    folder = made(tmp_path, Kind.LORA)
    edit(folder / "adapter_config.json", r=8)
    assert "does not fit rank 8" in fails(folder)[0]
    edit(folder / "adapter_config.json", r="8")
    assert "r is '8'" in fails(folder)[0]
    edit(folder / "adapter_config.json", r=4)
    save_tensors(folder / "adapter_model.bin", {})
    assert fails(folder) == ["adapter_model: holds no lora_A and lora_B tensors"]


def test_adapters_as_newer_peft_names_them(tmp_path):
    folder = made(tmp_path, Kind.LORA)
    tensors = tensors_of(folder / "adapter_model.bin")
    renamed = {n.replace(".weight", ".default.weight"): t for n, t in tensors.items()}
    save_tensors(folder / "adapter_model.bin", renamed)
    assert fails(folder) == []


@pytest.mark.parametrize(
    ("kind", "file"),
    [(Kind.PROJECTOR, "mm_projector.bin"), (Kind.LORA, "non_lora_trainables.bin")],
)
@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
def test_projectors_of_another_shape(tmp_path, kind, file, projector):
    folder = made(tmp_path, kind, TinyLlava(projector=projector))
    assert fails(folder) == []
    edit(folder / "config.json", mm_hidden_size=20)
    (found,) = fails(folder)
    assert "has shape (32, 16), config.json asks for (32, 20)" in found
    change(folder / file, lambda t: t.pop(next(iter(t))))
    assert "lack model.mm_projector" in fails(folder)[0]


def test_a_projector_saved_by_itself_from_transformers(tmp_path):
    folder = made(tmp_path, Kind.PROJECTOR)
    tensors = tensors_of(folder / "mm_projector.bin")
    for old, new in (("model.mm_projector.0", "linear_1"), ("model.mm_projector.2", "linear_2")):
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_tensors(folder / "mm_projector.bin", tensors)
    assert fails(folder) == []


@pytest.mark.parametrize("kind", list(MAKERS))
def test_code_is_refused_in_every_kind(tmp_path, kind):
    folder = made(tmp_path, kind)
    edit(folder / "config.json", auto_map={"AutoConfig": "x.y"})
    (folder / "modeling_x.so").write_text("")
    found = fails(folder)
    assert found[0].startswith("modeling_x.so: compiled code")
    assert "auto_map names code that would run" in found[1]


@pytest.mark.parametrize("value", ["x" * 1000, ["x"], {"AutoModel": "x.y", "AutoConfig": 1}, 7])
def test_any_auto_map_is_refused_and_told_in_few_words(tmp_path, value):
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    edit(folder / "config.json", auto_map=value)
    (found,) = fails(folder)
    assert "auto_map names code that would run" in found
    assert len(found) < 200


def test_values_that_are_no_values_are_told_in_few_words(tmp_path):
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    edit(folder / "config.json", hidden_size=["x" * 10_000] * 100, mm_projector_type={"a": 1})
    found = fails(folder)
    assert "config.json: hidden_size is a list of 100" in found[0]
    assert max(map(len, found)) < 200


def test_a_config_of_gigabytes_is_not_read(tmp_path):
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    with (folder / "config.json").open("ab") as file:
        file.truncate(8 << 30)
    tracemalloc.start()
    found = fails(folder)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("config.json: has 8589934592 bytes, expected at most" in text for text in found)
    assert peak_bytes < 160 << 20


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_truncated_weight_file_is_told_once(tmp_path, kind):
    folder = made(tmp_path, kind)
    file = folder / survey(folder)[0].weight_files[-1]
    file.write_bytes(file.read_bytes()[:-30])
    (found,) = fails(folder)
    assert found.startswith(file.name)


def test_a_tensor_in_two_shards(tmp_path):
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    change(
        folder / "pytorch_model-00002-of-00002.bin",
        lambda t: t.update(tensors_of(folder / "pytorch_model-00001-of-00002.bin")),
    )
    assert any(
        "holds model.embed_tokens.weight" in text and "00001-of-00002.bin holds too" in text
        for text in fails(folder)
    )


class TestPair:
    """A checkpoint and the tower that goes with it."""

    def pair(self, tmp_path, spec, tower, named="clip-tiny"):
        layout, _ = survey(make_llava(tmp_path / "llava-v1.5-tiny", spec))
        make_tower(tmp_path / named, tower)
        return survey_pair(layout)

    def test_that_fit(self, tmp_path):
        tower, defects = self.pair(tmp_path, TinyLlava(), TinyTower())
        assert tower.kind is Kind.TOWER
        assert defects == []

    def test_of_another_width(self, tmp_path):
        _, defects = self.pair(tmp_path, TinyLlava(), TinyTower(width=24))
        assert [str(d) for d in defects] == [
            "config.json: mm_hidden_size is 16, the tower is 24 wide"
        ]

    def test_of_another_picture_size(self, tmp_path):
        spec = TinyLlava(tower_id="openai/clip-vit-tiny-patch14-336")
        _, defects = self.pair(tmp_path, spec, TinyTower(), "clip-vit-tiny-patch14-336")
        assert "for pictures of 336 pixels, the tower takes 28" in str(defects[0])

    @pytest.mark.parametrize("points", [None, [], [[28]], [[28, 30]], "(1x1)", [[0, 28]]])
    def test_of_another_tile_size(self, tmp_path, points):
        spec = TinyLlava(tiles=True, changes={"image_grid_pinpoints": points})
        _, (defect,) = self.pair(tmp_path, spec, TinyTower())
        assert "expected pairs of multiples of 28" in defect.message

    def test_with_tiles_that_fit(self, tmp_path):
        assert self.pair(tmp_path, TinyLlava(tiles=True), TinyTower())[1] == []

    def test_that_is_not_here(self, tmp_path):
        layout, _ = survey(make_llava(tmp_path / "llava-v1.5-tiny"))
        tower, (defect,) = survey_pair(layout)
        assert (tower, defect.level) == (None, "warn")
        tower, (defect,) = survey_pair(layout, tmp_path / "none")
        assert (tower, defect.level) == (None, "fail")

    def test_where_the_tower_is_something_else(self, tmp_path):
        layout, _ = survey(make_llava(tmp_path / "llava-v1.5-tiny"))
        make_language(tmp_path / "llama")
        _, defects = survey_pair(layout, tmp_path / "llama")
        assert "this is a language model without vision" in str(defects[0])
