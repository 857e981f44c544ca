"""Which release of an engine a machine gets: a table, and what is said where none runs."""

import re
from dataclasses import replace

import pytest

from llava_pack.assemble.runtimes import with_runtime
from llava_pack.format.errors import PreflightError, UsageError
from llava_pack.format.target import Gpu
from llava_pack.format.target import version as numbers
from llava_pack.lock.choice import Asked, choose
from llava_pack.lock.profile import Interpreter, TargetProfile
from llava_pack.lock.torch_build import SERIES
from llava_pack.profiles.releases import RELEASES
from llava_pack.recipe import find_recipe, read_recipe

ENGINES = sorted(RELEASES)
NEW, OLD = "580.95.05", "535.104.05"


def recipe(engine):
    return with_runtime(read_recipe(find_recipe("llava-v1.5-7b")).value, engine)


def machine(glibc="2.35", driver=NEW, capability="8.0", arch="x86_64", **facts):
    gpu = Gpu(name="GPU", driver=driver, compute_capability=capability, memory_bytes=80 * 10**9)
    return TargetProfile(os="linux", arch=arch, glibc=glibc, gpus=(gpu,), **facts)


def chosen(engine, profile, **asked):
    return choose(recipe(engine), profile, Asked(**asked))


@pytest.mark.parametrize(
    ("engine", "facts", "got"),
    [
        ("vllm", {}, ("0.33.0", "13")),
        ("vllm", {"driver": None}, ("0.33.0", "13")),
        ("vllm", {"driver": OLD}, ("0.19.1", "12")),
        ("vllm", {"capability": "7.0"}, ("0.19.1", "12")),
        ("vllm", {"glibc": "2.28"}, ("0.11.2", "12")),
        ("vllm", {"glibc": "2.28", "driver": OLD, "capability": "7.0"}, ("0.11.2", "12")),
        ("vllm", {"arch": "aarch64"}, ("0.33.0", "13")),
        ("sglang", {}, ("0.5.23", "13")),
        ("sglang", {"arch": "aarch64"}, ("0.5.23", "13")),
        ("sglang", {"glibc": "2.31"}, ("0.5.10.post1", "12")),
        ("sglang", {"driver": OLD}, ("0.5.10.post1", "12")),
        ("lmdeploy", {}, ("0.18.0", "13")),
        ("lmdeploy", {"driver": OLD}, ("0.18.0", "12")),
        ("lmdeploy", {"glibc": "2.28", "capability": "7.0"}, ("0.18.0", "12")),
    ],
)
def test_a_machine_gets_the_newest_that_runs_there(engine, facts, got):
    choice = chosen(engine, machine(**facts))
    assert (choice.release.version, choice.release.cuda) == got
    assert choice.cuda == got[1]
    assert choice.series is None
    assert got[0] in choice.reasons[1]


def test_the_reasons_name_each_newer_one():
    choice = chosen("vllm", machine(glibc="2.28", driver=OLD))
    assert choice.reasons == (
        "wheels for x86_64, glibc 2.28, Python 3.11",
        "vLLM 0.11.2: CUDA 12, glibc 2.28 or newer",
        "vLLM 0.33.0 (CUDA 13) does not run there: glibc 2.28, needs 2.31; driver 535.104.05, needs 580.65",
        "vLLM 0.19.1 (CUDA 12) does not run there: glibc 2.28, needs 2.31",
    )


@pytest.mark.parametrize(
    ("engine", "facts", "hint"),
    [
        ("vllm", {"driver": "470.1"}, "install an NVIDIA driver of at least 525.60"),
        ("sglang", {"capability": "7.0"}, "--runtime vllm has a release that runs there"),
        ("vllm", {"arch": "aarch64", "driver": OLD}, "driver of at least 580.65"),
        ("lmdeploy", {"arch": "aarch64"}, "--runtime sglang has a release that runs there"),
        ("vllm", {"glibc": "2.17"}, "llava-pack's own engine"),
    ],
)
def test_where_none_runs_each_says_why_and_what_helps(engine, facts, hint):
    with pytest.raises(PreflightError) as caught:
        chosen(engine, machine(**facts))
    assert caught.value.exit_code == 3
    gpu = [one.version for one in RELEASES[engine] if one.cuda != "none"]
    named = [version for version in gpu if version in caught.value.message]
    assert named == gpu or (engine, facts["arch"]) == ("vllm", "aarch64")
    assert hint in caught.value.hint
    assert "--runtime transformers: llava-pack's own engine" in caught.value.hint


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, ("0.19.1", "12", "3.11")),  # as the recipe says, where no machine decides
        ({"cuda": "13"}, ("0.33.0", "13", "3.11")),
        ({"cuda": "12", "python": "3.12"}, ("0.19.1", "12", "3.12")),
        ({"platform": "x86_64-manylinux_2_28"}, ("0.11.2", "12", "3.11")),
        ({"cuda": "none"}, ("0.32.0+cpu", "none", "3.11")),
    ],
)
def test_options_are_honoured(asked, got):
    choice = chosen("vllm", None, **asked)
    assert (choice.release.version, choice.cuda, choice.platform.python) == got


@pytest.mark.parametrize(
    ("engine", "asked"),
    [
        ("vllm", {"python": "3.13"}),
        ("vllm", {"cuda": "13", "platform": "x86_64-manylinux_2_28"}),
        ("lmdeploy", {"cuda": "none"}),
        ("lmdeploy", {"platform": "aarch64-manylinux_2_35"}),
    ],
)
def test_or_refused(engine, asked):
    with pytest.raises(PreflightError, match="runs there"):
        chosen(engine, None, **asked)


@pytest.mark.parametrize(
    ("engine", "asked", "there", "not_there"),
    [
        ("vllm", {"python": "3.13"}, "--python 3.11 or 3.12", "--runtime sglang"),
        ("lmdeploy", {"cuda": "none"}, "for CPUs", "--runtime vllm"),  # whose build is for trials
    ],
)
def test_the_way_out_is_one(engine, asked, there, not_there):
    with pytest.raises(PreflightError) as caught:
        chosen(engine, None, **asked)
    assert there in caught.value.hint
    assert not_there not in caught.value.hint


def test_another_torch_than_it_is_built_for_is_2():
    with pytest.raises(UsageError, match="built for the torch on PyPI"):
        chosen("vllm", None, torch_backend="cu126")
    assert chosen("vllm", None, torch_backend="pypi").torch_backend == "pypi"
    assert chosen("vllm", None, cuda="none", torch_backend="cpu").torch_backend == "cpu"


def test_the_machines_own_python_decides_where_it_is_used():
    there = (Interpreter(version="3.13.1", path="/a"), Interpreter(version="3.12.4", path="/b"))
    choice = chosen("vllm", machine(pythons=there), python="target")
    assert (choice.platform.python, choice.own_python) == ("3.12", False)
    only = machine(pythons=there[:1])
    with pytest.raises(PreflightError, match=r"Python 3\.13, needs 3\.11 or 3\.12"):
        chosen("vllm", only, python="target")


def test_a_recipe_for_another_python_gets_one_that_the_engine_has():
    wanted = recipe("vllm")
    part = wanted.runtime.model_copy(update={"python": "3.14"})
    choice = choose(wanted.model_copy(update={"runtime": part}), None, Asked())
    assert choice.platform.python == "3.11"


@pytest.mark.parametrize("engine", ENGINES)
def test_each_release_can_be_chosen_and_is_pinned_in_version_and_time(engine):
    for release in RELEASES[engine]:
        assert release.requirements == (f"{engine}=={release.version}",)
        if release.cuda == "none":
            assert release.capability == ""
            continue
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT00:00:00Z", release.resolved)
        arch, glibc = release.arches[0], f"2.{release.glibc_minor}"
        there = machine(glibc=glibc, capability=release.capability, arch=arch)
        choice = choose(recipe(engine), there, Asked(cuda=release.cuda))
        assert choice.release == release


@pytest.mark.parametrize("engine", ENGINES)
def test_none_asks_less_of_a_gpu_than_its_torch(engine):
    least = {
        major: min(
            numbers(one.capability)
            for one in SERIES
            if one.major == major and one.glibc_minor == 28 and not one.newest
        )
        for major in ("12", "13")
    }
    for release in RELEASES[engine]:
        if release.cuda != "none":
            assert numbers(release.capability) >= least[release.cuda]


def test_a_newer_driver_never_gets_an_older_release():
    for engine in ENGINES:
        order = [one.version for one in RELEASES[engine]]
        places = []
        for driver in ("525.60", OLD, "580.65", "600.1"):
            profile = machine(driver=driver)
            release = choose(recipe(engine), replace(profile), Asked()).release
            places.append(order.index(release.version))
        assert places == sorted(places, reverse=True)
