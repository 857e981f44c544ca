import pytest

from llava_pack.checkpoint.findings import kind_defects
from llava_pack.checkpoint.kind import Kind, backbone, classify, has_tiles
from llava_pack.checkpoint.routing import routing_defects

V15 = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_vision_tower": "a/b"}
SHARDS = ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]


@pytest.mark.parametrize(
    ("names", "config", "tensors", "expected"),
    [
        (SHARDS, V15, [], Kind.ORIGINAL),
        ([*SHARDS, "mm_projector.bin"], V15, [], Kind.ORIGINAL),
        (SHARDS, {"architectures": ["LlavaMistralForCausalLM"]}, [], Kind.ORIGINAL),
        (SHARDS, {"mm_vision_tower": "a/b", "model_type": "llama"}, [], Kind.ORIGINAL),
        (["config.json"], V15, [], Kind.ORIGINAL),
        (["config.json", "mm_projector.bin"], V15, [], Kind.PROJECTOR),
        (["config.json", "mm_projector.bin", "training_args.bin"], V15, [], Kind.PROJECTOR),
        (["x.bin"], V15, ["model.mm_projector.weight"], Kind.PROJECTOR),
        (["x.bin"], V15, ["model.mm_projector.weight", "model.layers.0.x"], Kind.ORIGINAL),
        (SHARDS, V15, ["model.mm_projector.weight", "model.norm.weight"], Kind.ORIGINAL),
        (["adapter_config.json", "adapter_model.bin"], V15, [], Kind.LORA),
        (["non_lora_trainables.bin"], {}, [], Kind.LORA),
        (SHARDS, {"model_type": "llava", "text_config": {}}, [], Kind.CONVERTED),
        (SHARDS, {"architectures": ["LlavaNextForConditionalGeneration"]}, [], Kind.CONVERTED),
        (SHARDS, {"model_type": "clip"}, [], Kind.TOWER),
        (SHARDS, {"model_type": "clip_vision_model"}, [], Kind.TOWER),
        (SHARDS, {"model_type": "llama"}, [], Kind.LANGUAGE),
        (SHARDS, {"model_type": "bert"}, [], Kind.UNKNOWN),
        ([], {}, [], Kind.UNKNOWN),
        ([], {}, ["model.mm_projector.0.weight"], Kind.ORIGINAL),
        ([], {}, ["multi_modal_projector.linear_1.weight"], Kind.CONVERTED),
        ([], {}, ["model.multi_modal_projector.linear_1.weight"], Kind.CONVERTED),
        ([], {}, ["vision_model.x", "text_model.x"], Kind.TOWER),
        ([], {}, ["model.layers.0.x"], Kind.LANGUAGE),
    ],
)
def test_classify(names, config, tensors, expected):
    assert classify(names, config, tensors) is expected
    assert expected.description


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (V15, "llama"),
        ({"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava"}, "mistral"),
        ({"architectures": ["LlavaQwenForCausalLM"]}, "qwen2"),
        ({"model_type": "llava_mistral"}, "mistral"),
        ({"model_type": "llava_llama"}, "llama"),
        ({"model_type": "llava"}, "llama"),
        ({"model_type": "llama"}, "llama"),
        ({"architectures": ["LlavaForConditionalGeneration"], "text_config": {}}, "llama"),
        ({"text_config": {"model_type": "mistral"}}, "mistral"),
        ({"architectures": None}, "llama"),
    ],
)
def test_backbone(config, expected):
    assert backbone(config) == expected


def test_tiles():
    assert has_tiles({"image_aspect_ratio": "anyres_max_9"})
    assert has_tiles({"model_type": "llava_next"})
    assert not has_tiles({"image_aspect_ratio": None})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llava-1.5-7b-hf", "liuhaotian/llava-v1.5-7b instead"),
        ("llava-v1.6-mistral-7b-hf", "liuhaotian/llava-v1.6-mistral-7b instead"),
        ("my-llava", "for example liuhaotian/llava-v1.5-7b"),
    ],
)
def test_the_converted_one_says_which_to_take(name, hint):
    (defect,) = kind_defects(name, Kind.CONVERTED, Kind.ORIGINAL)
    assert hint in defect.hint


def test_other_mismatches():
    assert kind_defects("x", Kind.ORIGINAL, Kind.ORIGINAL) == []
    assert kind_defects("x", Kind.ORIGINAL, None) == []
    assert "format = 'original'" in kind_defects("x", Kind.ORIGINAL, Kind.CONVERTED)[0].hint
    assert "expected LLaVA" in kind_defects("x", Kind.LANGUAGE, Kind.ORIGINAL)[0].message


@pytest.mark.parametrize(
    ("name", "kind", "config", "texts"),
    [
        ("llava-v1.5-7b", Kind.ORIGINAL, V15, []),
        ("llava-v1.6-34b", Kind.ORIGINAL, V15, []),
        ("01", Kind.ORIGINAL, V15, ["lacks 'llava'"]),
        ("LLaVA-V1", Kind.ORIGINAL, V15, []),
        ("llava-lora-v1", Kind.ORIGINAL, V15, ["has 'lora'"]),
        ("llava-v1", Kind.LORA, V15, ["lacks 'lora'"]),
        ("llava-v1-lora", Kind.LORA, V15, []),
        ("llava-prompting-v1", Kind.ORIGINAL, V15, ["has 'mpt'"]),
        ("llava-mistral", Kind.ORIGINAL, V15, ["has 'mistral'"]),
        ("llava-v1.6", Kind.ORIGINAL, {"model_type": "llava_mistral"}, ["lacks 'mistral'"]),
        ("llava-mine", Kind.ORIGINAL, V15, ["conversation template"]),
        ("x", Kind.TOWER, {}, []),
        ("llava-1.5-7b-hf", Kind.CONVERTED, {}, []),
    ],
)
def test_folder_names_that_are_misread(name, kind, config, texts):
    defects = routing_defects(name, kind, config)
    assert len(defects) == len(texts)
    assert all(text in d.message for text, d in zip(texts, defects, strict=True))
    assert all(d.level == "warn" for d in defects)
