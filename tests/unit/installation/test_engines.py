"""An installed model that an engine of others serves: what of a command line it has, and what not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.cli.both.bundle_lines import bundle_lines
from llava_pack.format.errors import InstallError, PackError, UsageError
from llava_pack.format.manifest import Manifest
from llava_pack.format.progress import Silent
from llava_pack.installation.engines import engine_plan, installed_version, special_tokens
from llava_pack.installation.installed import Installation
from llava_pack.installation.plans import plan_of
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.supervision.commands import engine_command
from llava_pack.serve.supervision.control import _plan, plan_fields
from llava_pack.serve.supervision.plans import EnginePlan, LoadOptions, installed_plan
from llava_pack.target import receipt
from tests.support import engine_program
from tests.support.bundle import BundleSimulator


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with vLLM, as far as its metadata go."""
    return engine_program.environment(tmp_path_factory.mktemp("vllm"), "vllm")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = engine_program.model(tmp_path / "llava")
    added = [{"content": "</s>", "special": True}, {"content": "x", "special": False}]
    added.append({"content": "<image>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return folder


def manifest(*, precision: str = "fp16", driver: str | None = "525.60", gpus: int = 1) -> Manifest:
    """Return the manifest of a bundle that vLLM serves."""
    bundle = BundleSimulator()
    whole = bundle.manifest(bundle.payload())
    serving = replace(whole.serving, engine="vllm", precision=precision, gpus=gpus)
    return replace(whole, serving=serving, floors=replace(whole.floors, driver=driver))


def planned(python: Path, model: Path, whole: Manifest, **asked: Any) -> EnginePlan:
    """Return the plan of that bundle for a command line."""
    options = LoadOptions(**asked)
    plan = installed_plan(
        whole, options, model_dir=model, vision_tower=None, python=Path("/gateway/python")
    )
    profile = RUNTIMES["vllm"].profile
    assert profile is not None
    return engine_plan(plan, options, whole, profile, python=python, tokenizer_dir=None)


def test_it_is_served_as_its_bundle_says(python: Path, model: Path) -> None:
    whole = manifest(gpus=2)
    plan = planned(python, model, whole)
    assert (plan.engine, plan.version, plan.python) == ("vllm", "0.33.0", python)
    assert plan.architecture == "LlavaForConditionalGeneration"
    assert plan.tokens == ("</s>", "<image>")
    assert (plan.precision, plan.device, plan.gpus) == ("fp16", "cuda", 2)
    assert (plan.slots, plan.context_tokens) == (whole.serving.slots, whole.serving.context_tokens)
    assert (plan.conv_mode, plan.vision_tower) == (None, None)
    assert plan.known_answers == whole.known_answers


@pytest.mark.parametrize(
    "asked",
    [
        {"slots": 3},
        {"context_tokens": 99},
        {"precision": "bf16"},
        {"gpus": 4},
        {"picture_mode": "llava"},
        {"device": "cuda"},
    ],
)
def test_what_it_has_reaches_it(python: Path, model: Path, asked: dict[str, Any]) -> None:
    plan = planned(python, model, manifest(), **asked)
    [(name, value)] = asked.items()
    assert getattr(plan, name) == value
    command = engine_command(plan, Path("/run/engine-0.sock"))
    assert command.launch is not None
    assert command.address.info is not None
    holder = command.address.info if name == "picture_mode" else command.launch
    assert getattr(holder, name) == value


REFUSED: dict[str, dict[str, Any]] = {
    "--conv-mode": {"conv_mode": "llava_v0"},
    "--precision": {"precision": "int8"},
    "--device": {"device": "cpu"},
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_it_has_not_is_refused(python: Path, model: Path, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(python, model, manifest(), **REFUSED[option])
    assert caught.value.subject == option
    assert caught.value.hint.startswith("leave it out")


def test_one_for_a_cpu_runs_on_no_gpu(python: Path, model: Path) -> None:
    whole = manifest(driver=None)
    assert planned(python, model, whole).device == "cpu"
    assert planned(python, model, whole, device="auto", precision="auto").precision == "fp16"
    with pytest.raises(UsageError, match="expected cpu"):
        planned(python, model, whole, device="cuda")


def test_what_was_quantized_ahead_stays_so(python: Path, model: Path) -> None:
    with pytest.raises(UsageError, match=r"expected nf4 .* got fp16"):
        planned(python, model, manifest(precision="nf4"), precision="fp16")
    with pytest.raises(UsageError, match="got nf4"):
        planned(python, model, manifest(), precision="nf4")


def test_a_plan_crosses_to_a_server_that_runs(python: Path, model: Path) -> None:
    plan = planned(python, model, manifest())
    assert _plan(json.loads(json.dumps(plan_fields(plan)))) == plan


def test_a_plan_of_our_own_engine_says_nothing_that_earlier_servers_do_not_know() -> None:
    fields = plan_fields(EnginePlan(name="m", model_dir=Path("/m"), python=Path("/p")))
    assert not {"engine", "version", "architecture", "tokens", "tokenizer_dir"} & fields.keys()
    assert "pictures" not in fields


def test_an_engine_that_is_not_there_is_told_of(tmp_path: Path, python: Path) -> None:
    with pytest.raises(InstallError, match="expected sglang there, got none"):
        installed_version(python, "sglang")
    (tmp_path / "tokenizer.json").write_text("{")
    broken: list[tuple[type[PackError], Path]] = [
        (InstallError, tmp_path),
        (InstallError, tmp_path / "none"),
    ]
    for kind, folder in broken:
        with pytest.raises(kind, match="cannot be read"):
            special_tokens(folder)


def test_inspect_names_the_version_that_a_bundle_holds(tmp_path: Path) -> None:
    held = replace(manifest(), lock={"engine": "0.33.0"})
    assert "vLLM 0.33.0; Python" in "\n".join(bundle_lines(tmp_path, "0" * 64, held))
    ours = replace(held, serving=replace(held.serving, engine="transformers"))
    assert "0.33.0" not in "\n".join(bundle_lines(tmp_path, "0" * 64, ours))


def test_a_bundle_without_the_engines_environment_is_not_served_by_another(tmp_path: Path) -> None:
    receipt.seal(tmp_path)
    item = Installation(
        prefix=tmp_path,
        recipe="tiny",
        number=1,
        root=tmp_path,
        model_dir=tmp_path,
        vision_tower_dir=None,
        venv_python=Path("/gateway/python"),
        manifest=manifest(),
        bundle_id="0" * 64,
        smoke={},
    )
    with pytest.raises(InstallError, match=r"expected lock/pylock.engine.toml"):
        plan_of(item, LoadOptions(), Silent())
