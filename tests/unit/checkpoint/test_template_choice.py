"""A checkpoint is asked as it was trained, or not at all."""

import json
import re
from dataclasses import replace

import pytest

from llava_pack.checkpoint.layout import survey
from llava_pack.checkpoint.special_tokens import SpecialTokens, read_special_tokens
from llava_pack.checkpoint.summary import summarise
from llava_pack.checkpoint.template_choice import _BY_NAME, by_name, choose_template, conv_mode_of
from llava_pack.checkpoint.templates import OWN, RAW, TEMPLATES, check_conv_mode
from llava_pack.checkpoint.tokenizer_json import tokenizer_json
from llava_pack.format.errors import CheckpointError, UsageError
from tests.conftest import ROOT
from tests.support.chat_templates import QWEN, VICUNA
from tests.support.checkpoints import TinyLlava, make_converted, make_llava
from tests.support.vocabularies import tiny_tokenizer_model, tokenizer_model

LLAMA = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "vocab_size": 32000}
LLAMA_3 = LLAMA | {"model_type": "llava_llama", "vocab_size": 128256}
CHATML_TEXTS = frozenset({"<|im_start|>", "<|im_end|>", "<|endoftext|>"})
CHATML = SpecialTokens(texts=CHATML_TEXTS)


@pytest.mark.parametrize(
    ("name", "conv_mode"),
    [
        ("llava-v1.5-7b", "llava_v1"),
        ("llava-v1-demo", "llava_v1"),
        ("llava-1.5-7b-hf", "llava_v1"),
        ("vicuna-13b", "llava_v1"),
        ("vicuna-13b-v0", "llava_v0"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("llava-med-v1.5-mistral-7b", "mistral_instruct"),
        ("llava-v1.6-34b", "chatml_direct"),
        ("LLaVA-Llama-2-13b-chat", "llava_llama_2"),
        ("LLaVA-7B-v0", "llava_v0"),
        ("llama3-llava-next-8b", "llava_llama_3"),
        ("Meta-Llama-3-8B-Instruct", "llava_llama_3"),
        ("llava-llama-3-8b-v1_1", "llama_3"),
        ("llava-phi-3-mini", "phi3"),
        ("llava-onevision-qwen2-7b-ov", "qwen_1_5"),
        ("bakllava-v1-hf", "llava_v1"),
        ("my-finetune", None),
        ("prices-v1", None),
        ("mine-v0.3", None),
    ],
)
def test_names_tell_a_template(name, conv_mode):
    assert by_name(name) == conv_mode


@pytest.mark.parametrize(
    ("config", "conv_mode"),
    [
        ({"model_type": "llava_mistral"}, "mistral_instruct"),
        ({"model_type": "llava_qwen"}, "qwen_1_5"),
        ({"architectures": ["LlavaQwenForCausalLM"]}, "qwen_1_5"),
        ({"model_type": "llava_mpt"}, "mpt"),
        ({"model_type": "llava_gemma"}, "gemma_instruct"),
        (LLAMA_3, "llava_llama_3"),
        ({"model_type": "llava", "text_config": {"model_type": "qwen2"}}, "qwen_1_5"),
        (LLAMA | {"_name_or_path": "/data/lmsys/vicuna-7b-v1.5"}, "llava_v1"),
        (LLAMA | {"_name_or_path": "liuhaotian/llava-v1.6-mistral-7b"}, "mistral_instruct"),
    ],
)
def test_the_config_tells_where_the_name_is_silent(config, conv_mode, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert choose_template(tmp_path, name="mine").conv_mode == conv_mode


def test_a_checkpoint_of_a_training_run_has_the_runs_name(tmp_path):
    folder = tmp_path / "llava-v1.5-ours" / "checkpoint-500"
    folder.mkdir(parents=True)
    assert choose_template(folder).conv_mode == "llava_v1"


def test_a_snapshot_in_the_hubs_cache_has_the_models_name(tmp_path):
    folder = tmp_path / "models--liuhaotian--llava-v1.5-7b" / "snapshots" / ("4" * 40)
    folder.mkdir(parents=True)
    assert choose_template(folder).conv_mode == "llava_v1"


def test_an_adapter_and_its_base_tell_it_too(tmp_path):
    adapter, base = tmp_path / "ours", tmp_path / "vicuna-7b-v1.5"
    adapter.mkdir()
    base.mkdir()
    assert choose_template(adapter, texts=base).conv_mode == "llava_v1"
    named = {"base_model_name_or_path": "liuhaotian/llava-v1.5-7b"}
    (adapter / "adapter_config.json").write_text(json.dumps(named))
    assert choose_template(adapter).conv_mode == "llava_v1"


def test_nothing_is_guessed():
    with pytest.raises(CheckpointError, match="conversation template is not known") as caught:
        conv_mode_of(["mine"], LLAMA)
    assert "--conv-mode" in caught.value.hint
    assert all(name in caught.value.message for name in TEMPLATES)
    with pytest.raises(
        CheckpointError, match="expected one of: chatml_direct, llava_v0, mpt, plain"
    ) as caught:
        conv_mode_of(["mine"], LLAMA, tokens=CHATML)
    assert "llava_v1" not in caught.value.message


def test_a_converted_checkpoint_is_asked_in_its_own_way():
    assert conv_mode_of(["llava-v1.5"], LLAMA, own=True, converted=True) == OWN
    assert conv_mode_of(["llava-v1.5"], LLAMA, own=True) == "llava_v1"
    assert conv_mode_of(["mine"], LLAMA, own=True) == OWN
    assert conv_mode_of(["mine"], LLAMA, own=True, converted=True, wanted="mpt") == "mpt"


@pytest.mark.parametrize(
    "conv_mode", sorted({name for name, one in TEMPLATES.items() if one.needs})
)
def test_a_template_whose_tokens_the_vocabulary_lacks_is_refused(conv_mode):
    needs = frozenset(TEMPLATES[conv_mode].needs)
    assert (
        conv_mode_of(["mine"], {}, tokens=SpecialTokens(texts=needs), wanted=conv_mode) == conv_mode
    )
    for token in needs:
        with pytest.raises(CheckpointError, match=f"lacks .*{conv_mode}") as caught:
            conv_mode_of(
                ["mine"], {}, tokens=SpecialTokens(texts=needs - {token}), wanted=conv_mode
            )
        assert token in caught.value.message


def test_what_the_vocabulary_lacks_is_not_chosen_by_name_and_the_reason_is_told():
    assert conv_mode_of(["llava-v1"], {"model_type": "llava_qwen"}, tokens=CHATML) == "qwen_1_5"
    with pytest.raises(CheckpointError, match="lacks </s> of the conversation template llava_v1"):
        conv_mode_of(["llava-v1"], LLAMA, tokens=CHATML)


@pytest.mark.parametrize("template", [QWEN, None])
def test_a_token_of_the_template_without_a_row_is_refused(tmp_path, template):
    """The same on a laptop and in the engine: both choose in this way."""
    added = [{"id": 9 + at, "content": token} for at, token in enumerate(sorted(CHATML_TEXTS))]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    for rows, refused in ((12, False), (11, True)):
        config = {"model_type": "llava_qwen", "vocab_size": rows}
        (tmp_path / "config.json").write_text(json.dumps(config))
        for wanted in (None, "qwen_1_5", *([OWN] if template else [])):
            if not refused:
                choose_template(tmp_path, name="mine", wanted=wanted)
                continue
            with pytest.raises(CheckpointError, match=r"no row for <\|im_start\|> of the conv"):
                choose_template(tmp_path, name="mine", wanted=wanted)


def test_names_of_templates_are_checked():
    for name in (*TEMPLATES, OWN, "raw"):
        check_conv_mode(name)
    with pytest.raises(UsageError, match="unknown conversation template 'vicuna_v9'"):
        check_conv_mode("vicuna_v9")
    with pytest.raises(UsageError, match="unknown conversation template"):
        conv_mode_of(["llava-v1.5"], {}, wanted="vicuna_v9")


def test_its_own_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="no chat template of its own"):
        choose_template(tmp_path, wanted=OWN)


def test_an_own_one_that_cannot_be_used_is_told_where_nothing_else_is(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('broken') }}")
    with pytest.raises(CheckpointError, match=r"not known.*its chat template: .*broken"):
        choose_template(tmp_path, name="mine", converted=True)
    assert choose_template(tmp_path, name="llava-v1.5", converted=True).conv_mode == "llava_v1"
    with pytest.raises(CheckpointError, match="cannot be used: broken"):
        choose_template(tmp_path, name="llava-v1.5", wanted=OWN)


def test_inspect_warns_of_what_loading_refuses(tmp_path):
    unknown = survey(make_llava(tmp_path / "mine"))[1]
    with pytest.raises(CheckpointError) as caught:
        choose_template(tmp_path / "mine")
    told = [one for one in unknown if one.message == caught.value.message]
    assert [one.level for one in told] == ["warn"]
    assert "conversation_template" not in summarise(tmp_path / "mine")


def test_a_converted_folders_own_template_is_evidence(tmp_path):
    folder = make_converted(tmp_path / "mine-hf")
    assert len(survey(folder)[1]) == 1
    (folder / "chat_template.jinja").write_text(VICUNA)
    assert survey(folder)[1] == []
    assert summarise(folder)["conversation_template"] == OWN
    found = choose_template(folder, converted=True)
    assert found.conv_mode == OWN
    assert found.chat_template
    assert found.chat_template.lists


def test_an_original_qwen_is_told_by_its_language_model(tmp_path):
    changes = {"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"]}
    spec = replace(TinyLlava(), changes=changes)
    folder = make_llava(tmp_path / "mine", spec)
    state = {"added_tokens": [{"id": 1, "content": token} for token in CHATML_TEXTS], "model": {}}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": QWEN}))
    assert choose_template(folder).conv_mode == "qwen_1_5"


def test_special_tokens_are_read_from_every_kind_of_tokenizer(tmp_path):
    assert read_special_tokens(tmp_path) is None
    folder = make_llava(tmp_path / "llava")
    found = read_special_tokens(folder)
    assert found is not None
    assert {"<s>", "</s>", "<unk>"} <= found.texts
    (folder / "added_tokens.json").write_text('{"<im_patch>": 320}')
    decoder = {
        "321": {"content": "<|end|>", "rstrip": True},
        "322": {"content": "<x>", "lstrip": True},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    found = read_special_tokens(folder)
    assert found is not None
    assert {"<im_patch>", "<|end|>", "</s>"} <= found.texts
    assert (found.behind, found.before) == ({"<|end|>"}, {"<x>"})


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "added_tokens.json"])
def test_a_damaged_file_is_told_once(tmp_path, name):
    folder = make_converted(tmp_path / "llava-v1.5-hf")
    (folder / name).write_text("{")
    assert [one.subject for one in survey(folder)[1]] == [name]


def test_a_tokenizer_model_of_another_kind_is_passed_over_for_tokenizer_json(tmp_path):
    """The hint of its refusal says to put that file beside it."""
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    (folder / "tokenizer.model").write_bytes(tokenizer_model([("a", 0.0, 1)], model_type=1))
    (before,) = survey(folder)[1]
    assert "tokenizer.json beside it" in before.hint
    (folder / "tokenizer.json").write_bytes(tokenizer_json(tiny_tokenizer_model(320), {}))
    assert survey(folder)[1] == []


def test_the_page_about_templates_has_all_of_them_and_the_order_of_names():
    page = (ROOT / "docs/reference/templates.md").read_text()
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert [name for name in (*TEMPLATES, OWN, RAW) if f"`{name}`" not in rows] == []
    order = page.partition("the first of ")[2].partition("decides")[0]
    told = list(dict.fromkeys(re.findall(r"`([^`]+)`", order)))
    assert sorted(told, key=[part for part, _ in _BY_NAME].index) == told
    assert {conv_mode for part, conv_mode in _BY_NAME if part in told} == {
        one for _, one in _BY_NAME
    }
