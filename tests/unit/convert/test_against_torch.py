"""What torch, transformers and sentencepiece make of the same files: the independent oracles."""

import collections
import random

import pytest

from llava_pack.checkpoint.pickle_file import open_pickle
from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.checkpoint.weight_file import open_weights
from llava_pack.convert.shards import to_safetensors
from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.convert.tower import slim_tower
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

pytestmark = pytest.mark.engine

ALPHABET = "the star circle picture . : ? \n\n\t  ▁<>/|[INST]{}\0\x1f éßñ你好世界，。🎉👩‍👩‍👧‍👦\u3000\u200b\ufeffـあア한"  # noqa: RUF001


def dtypes():
    import torch

    return {
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F32": torch.float32,
        "F64": torch.float64,
        "I64": torch.int64,
        "I32": torch.int32,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn,
    }


def state_dict():
    import torch

    torch.manual_seed(0)
    base = torch.randn(6, 8)
    made = collections.OrderedDict()
    for name, dtype in dtypes().items():
        made[name] = (base * 3).to(dtype)
    made["tied"] = made["F16"]
    made["transposed"] = base.t()
    made["permuted"] = torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2)
    made["slice"] = base[2:, 1::2]
    made["row"] = base[3]
    made["scalar"] = torch.tensor(7)
    made["empty"] = torch.zeros(0, 3)
    made["parameter"] = torch.nn.Parameter(base.half())
    made["one"] = torch.randn(1, 1, 4).transpose(0, 2)
    return made


def as_torch(file):
    import torch

    types = dtypes()
    held = {}
    for entry in file.entries:
        data = file.read(entry)
        flat = torch.frombuffer(data, dtype=types[entry.dtype]) if len(data) else torch.zeros(0)
        held[entry.name] = flat.to(types[entry.dtype]).reshape(entry.shape)
    return held


def test_pickles_that_torch_wrote(tmp_path):
    import torch

    made = state_dict()
    torch.save(made, tmp_path / "w.bin")
    with open_pickle(tmp_path / "w.bin", writable=True) as file:
        for entry in file.entries:
            file.verify(entry)
        held = as_torch(file)
    assert list(held) == list(made)
    for name, tensor in made.items():
        assert held[name].dtype == tensor.dtype
        assert torch.equal(held[name].float(), tensor.detach().float()), name


def test_a_module_that_torch_wrote(tmp_path):
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "w.bin")
    with open_pickle(tmp_path / "w.bin", writable=True) as file:
        held = as_torch(file)
    assert held.keys() == module.state_dict().keys()
    assert all(torch.equal(held[name], value) for name, value in module.state_dict().items())


def test_our_pickles_as_torch_reads_them(tmp_path):
    import torch

    folder = make_llava(tmp_path / "llava")
    for path in folder.glob("*.bin"):
        loaded = torch.load(path, weights_only=True)
        with open_weights(path, writable=True) as file:
            held = as_torch(file)
        assert held.keys() == loaded.keys()
        assert all(torch.equal(held[name], loaded[name]) for name in loaded)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_converted_shards_as_safetensors_reads_them(tmp_path, dtype):
    import torch
    from safetensors.torch import load_file

    folder = make_llava(tmp_path / "llava", TinyLlava(dtype=dtype, rotary_tables=True))
    (tmp_path / "out").mkdir()
    paths = to_safetensors(folder, tmp_path / "out", shard_bytes=60_000)
    loaded, published = {}, {}
    for path in paths[:-1]:
        loaded |= load_file(path)
    for path in folder.glob("*.bin"):
        published |= torch.load(path, weights_only=True)
    assert loaded.keys() == {name for name in published if not name.endswith("inv_freq")}
    assert all(torch.equal(loaded[name], published[name]) for name in loaded)


def test_safetensors_that_the_library_wrote(tmp_path):
    import torch
    from safetensors.torch import save_file

    made = {name: value.clone().contiguous() for name, value in state_dict().items()}
    save_file(made, tmp_path / "w.safetensors", metadata={"format": "pt"})
    with SafetensorsFile(tmp_path / "w.safetensors", writable=True) as file:
        held = as_torch(file)
    assert held.keys() == made.keys()
    assert all(torch.equal(held[n].float(), made[n].detach().float()) for n in made)


def test_the_slim_tower_sees_what_the_whole_one_sees(tmp_path):
    import torch
    from transformers import CLIPModel, CLIPVisionModel

    whole = make_tower(tmp_path / "clip", TinyTower())
    (tmp_path / "slim").mkdir()
    slim_tower(whole, tmp_path / "slim")
    picture = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    slim, info = CLIPVisionModel.from_pretrained(tmp_path / "slim", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        seen = slim(picture, output_hidden_states=True)
        expected = CLIPModel.from_pretrained(whole).vision_model(picture, output_hidden_states=True)
    for left, right in zip(seen.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(left, right)


def sentences(count):
    chance = random.Random(20261121)
    return ["".join(chance.choices(ALPHABET, k=chance.randint(0, 40))) for _ in range(count)]


def trained(chance_of_space=0.2):
    """Return a byte-pair model that sentencepiece itself trained, its merges interleaved."""
    import io

    import sentencepiece

    chance = random.Random(7)
    words = ["".join(chance.choices("abcde你好", k=chance.randint(1, 7))) for _ in range(60)]
    corpus = [
        "".join(
            w + (" " if chance.random() > chance_of_space else "  ")
            for w in chance.choices(words, k=12)
        )
        for _ in range(400)
    ]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, model_type="bpe", vocab_size=600,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


@pytest.fixture(scope="module", params=["made", "trained"])
def tokenizer_folder(request, tmp_path_factory):
    folder = make_llava(tmp_path_factory.mktemp("tokenizer") / "llava")
    if request.param == "trained":
        (folder / "tokenizer.model").write_bytes(trained())
    (folder / "tokenizer.json").write_bytes(made_tokenizer(folder))
    return folder


def test_the_ids_of_sentencepiece(tokenizer_folder):
    import sentencepiece
    from tokenizers import Tokenizer

    oracle = sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizer_folder / "tokenizer.model")
    )
    ours = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    for text in [*sentences(1500), "aaaaaaa", "abababab", "a b  c   d    e", "你好" * 20]:
        expected = oracle.encode(text)
        assert ours.encode(text, add_special_tokens=False).ids == expected, repr(text)


def test_the_same_ids_through_transformers(tokenizer_folder):
    import sentencepiece
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    oracle = sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizer_folder / "tokenizer.model")
    )
    loaded = [
        AutoTokenizer.from_pretrained(tokenizer_folder),
        PreTrainedTokenizerFast.from_pretrained(tokenizer_folder),
        PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_folder / "tokenizer.json")),
    ]
    for text in sentences(200):
        expected = [1, *oracle.encode(text)]
        assert [tokenizer(text).input_ids for tokenizer in loaded] == [expected] * 3, repr(text)
