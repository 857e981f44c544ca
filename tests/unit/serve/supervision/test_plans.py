"""From options and manifests to engine processes."""

import sys
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.engine.loading.options import Options, add_arguments, given_options
from llava_pack.engine.picture_mode import PICTURE_MODES, PictureMode
from llava_pack.serve.supervision import control
from llava_pack.serve.supervision.commands import engine_command, engine_environment
from llava_pack.serve.supervision.control import plan_fields
from llava_pack.serve.supervision.plans import LoadOptions, folder_plan, installed_plan
from tests.support.bundle import BundleSimulator


def test_a_bare_folder_is_served_as_it_was_quantized() -> None:
    plan = folder_plan(Path("/m/llava-v1.5-7b"), LoadOptions())
    assert (plan.name, plan.precision, plan.device) == ("llava-v1.5-7b", "auto", "auto")
    assert plan.python == Path(sys.executable)


def test_an_installed_model_is_served_as_its_bundle_says() -> None:
    bundle = BundleSimulator()
    manifest = bundle.manifest(bundle.payload())
    folders = {"model_dir": Path("/p/m"), "vision_tower": Path("/p/t"), "python": Path("/p/python")}
    plan = installed_plan(manifest, LoadOptions(), **folders)
    assert (plan.precision, plan.slots, plan.context_tokens) == ("nf4", 2, 256)
    assert plan.conv_mode == manifest.model.conv_mode
    asked = LoadOptions(precision="fp32", slots=1, context_tokens=64, conv_mode="llava_v0")
    plan = installed_plan(manifest, asked, **folders)
    assert (plan.precision, plan.slots, plan.context_tokens) == ("fp32", 1, 64)
    assert plan.conv_mode == "llava_v0"


def test_a_model_is_on_as_many_gpus_as_planned_unless_something_else_is_asked_for() -> None:
    bundle = BundleSimulator()
    manifest = bundle.manifest(bundle.payload())
    manifest = replace(manifest, serving=replace(manifest.serving, gpus=2))
    folders = {"model_dir": Path("/p/m"), "vision_tower": Path("/p/t"), "python": Path("/p/python")}
    argv = engine_command(installed_plan(manifest, LoadOptions(), **folders), Path("/run/s")).argv
    assert argv[argv.index("--gpus") + 1] == "2"
    asked = installed_plan(manifest, LoadOptions(precision="fp16"), **folders)
    assert "--gpus" not in engine_command(asked, Path("/run/s")).argv


def test_the_command_runs_isolated_and_says_everything() -> None:
    plan = folder_plan(
        Path("/m/x"),
        LoadOptions(vision_tower=Path("/m/t"), model_base=Path("/m/b"), context_tokens=99),
    )
    command = engine_command(plan, Path("/run/s"))
    assert command.argv[1:4] == ("-I", "-X", "faulthandler")
    assert command.argv[4:6] == ("-m", "llava_pack.engine.worker")
    given = dict(zip(command.argv[4::2], command.argv[5::2], strict=True))
    assert given["--model-dir"] == "/m/x"
    assert given["--vision-tower"] == "/m/t"
    assert given["--model-base"] == "/m/b"
    assert given["--context-tokens"] == "99"
    assert given["--socket"] == "/run/s"
    assert "--conv-mode" not in given


def test_a_fence_is_the_engines_own_choice_unless_something_else_is_asked_for() -> None:
    plan = folder_plan(Path("/m/x"), LoadOptions())
    assert "--fence" not in engine_command(plan, Path("/s")).argv, "earlier engines know none"
    argv = engine_command(plan, Path("/s"), fence="required", pycache="/c").argv
    assert argv[-2:] == ("--fence", "required")
    assert argv[4:7] == ("-X", "pycache_prefix=/c", "-m")


@pytest.mark.parametrize("mode", PICTURE_MODES)
def test_how_pictures_become_rgb_reaches_the_engine(mode: PictureMode) -> None:
    """By the command line of `serve`, by the control socket of `start`, and as its own option."""
    plan = folder_plan(Path("/m/x"), LoadOptions(picture_mode=mode))
    assert control._plan(plan_fields(plan)) == plan
    parser = ArgumentParser()
    add_arguments(parser, device="cpu")
    given, _others = parser.parse_known_args(engine_command(plan, Path("/s")).argv)
    assert Options(**given_options(given)).picture_mode == mode
    default = folder_plan(Path("/m/x"), LoadOptions())
    assert "--picture-mode" not in engine_command(default, Path("/s")).argv


def test_an_engine_has_no_proxies_and_no_tokens() -> None:
    given = {"http_proxy": "p", "ALL_PROXY": "p", "HF_TOKEN": "t", "HF_ENDPOINT": "e", "HOME": "/h"}
    given["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://collector.example"
    secret = (
        "AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID GH_TOKEN PGPASSWORD OPENAI_API_KEY SSH_AUTH_SOCK"
    )
    given |= dict.fromkeys(secret.split(), "s")
    made = engine_environment(given)
    assert set(made) == {"HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}


def test_a_plan_crosses_the_control_socket_as_servers_of_earlier_versions_take_it() -> None:
    """They take exactly these fields, and know no others."""
    asked = LoadOptions(model_base=Path("/m/b"), context_tokens=99, conv_mode="llava_v0")
    fields = plan_fields(folder_plan(Path("/m/x"), asked))
    assert fields == {
        "name": "x",
        "model_dir": "/m/x",
        "vision_tower": None,
        "model_base": "/m/b",
        "precision": "auto",
        "device": "auto",
        "slots": 8,
        "context_tokens": 99,
        "conv_mode": "llava_v0",
        "python": sys.executable,
        "gpus": None,
        "known_answers": [],
    }
