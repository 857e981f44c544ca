"""Bundles of an engine of the field: two locks, each wheel once, and both environments installed."""

import json
import subprocess
import tomllib

import pytest

from llava_pack.format.sums import ENGINE_LOCK, LOCK
from tests.conftest import ROOT
from tests.support.index import LoopbackIndex
from tests.support.namespaces import unshared
from tests.support.tiny_wheels import write_tiny_engine, write_tiny_gpu_engine, write_tiny_wheels
from tests.support.wheels import write_wheel

CPU = ("--runtime", "vllm", "--cuda", "none", "--python", "target")


@pytest.fixture
def wheels(tmp_path):
    return write_tiny_engine(write_tiny_wheels(tmp_path / "wheels"))


@pytest.fixture
def run(command_line, wheels, tmp_path):
    own = {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    own |= {"LLAVA_PACK_CACHE": str(tmp_path / "cache"), "SOURCE_DATE_EPOCH": "1790000000"}

    def command(name, *options, code=0, **env):
        done = command_line(name, *options, "--json", env={**own, **env}, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return command


@pytest.fixture
def build(run):
    def made(*options, runtime=CPU, **more):
        return run("build", "demo", *runtime, "--no-record", "--replace", *options, **more)

    return made


def locked(bundle, lock):
    packages = tomllib.loads((bundle / lock).read_text())["packages"]
    return {one["name"]: one["wheels"][0] for one in packages}


def manifest_of(bundle):
    return json.loads((bundle / "MANIFEST.json").read_text())


def test_each_environment_has_a_lock_and_each_wheel_is_there_once(build, tmp_path):
    build()
    bundle = tmp_path / "demo-bundle"
    own, engine = locked(bundle, LOCK), locked(bundle, ENGINE_LOCK)
    assert {"llava-pack", "fastapi", "httpx"} <= own.keys()
    assert not own.keys() & {"torch", "transformers", "bitsandbytes", "vllm"}
    assert engine.keys() == {"vllm", "torch", "httpx", "pillow"}
    assert engine["httpx"] == own["httpx"]
    assert engine["pillow"]["path"] != own["pillow"]["path"]
    named = {one["path"].removeprefix("../wheels/") for one in (*own.values(), *engine.values())}
    assert named == {path.name for path in (bundle / "wheels").iterdir()}
    manifest = manifest_of(bundle)
    assert manifest["format"] == 3
    assert manifest["model"]["format"] == "hf"
    assert (manifest["lock"]["engine"], manifest["lock"]["torch"]) == ("0.32.0+cpu", "2.9.0+cpu")
    assert manifest["serving"]["engine"] == "vllm"
    assert manifest["serving"]["precision"] == "fp32"
    parts = json.loads((bundle / "sbom/bundle.cdx.json").read_text())["components"]
    bill = [(part["name"], part["version"]) for part in parts if "pypi" in part.get("purl", "")]
    assert {("pillow", "13.0.0"), ("vllm", "0.32.0+cpu")} <= {*bill}
    assert len(bill) == len({*bill})
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=bundle, check=True)


def test_a_lock_holds_both_and_gives_the_same_bundle(build, run, tmp_path):
    whole = build()
    told = run("lock", "demo", *CPU, "--out", tmp_path / "lock.json")
    lock = json.loads((tmp_path / "lock.json").read_text())
    files = {one["filename"] for one in (*lock["packages"], *lock["engine"])}
    assert told["packages"] == len(files) > len(lock["packages"])
    assert {one["name"] for one in lock["engine"]} == {"vllm", "torch", "httpx", "pillow"}
    again = build("--locked", tmp_path / "lock.json", runtime=())
    assert again["bundle_id"] == whole["bundle_id"]


def test_a_lock_fetches_what_the_cache_lost_of_either_environment(build, run, tmp_path, wheels):
    whole = build()
    run("lock", "demo", *CPU, "--out", tmp_path / "lock.json")
    with LoopbackIndex([wheels]) as index:
        found = {"UV_DEFAULT_INDEX": index.simple_url, "UV_OFFLINE": "0", "PIP_NO_INDEX": "0"}
        found |= {"PIP_FIND_LINKS": "", "LLAVA_PACK_CACHE": str(tmp_path / "empty")}
        again = build("--locked", tmp_path / "lock.json", runtime=(), **found)
    assert again["bundle_id"] == whole["bundle_id"]


def test_a_server_can_fetch_the_wheels_of_both(build, tmp_path):
    lean = build("--without-wheels")
    manifest = manifest_of(tmp_path / "demo-bundle")
    left = {entry["path"] for entry in manifest["files"] if entry["origin"]["kind"] == "index"}
    assert len(left) == lean["left_out"]
    assert "wheels/vllm-0.32.0+cpu-py3-none-any.whl" in left
    assert manifest["format"] == 3


def test_the_plan_names_the_release_and_both_environments(run):
    plan = run("plan", "demo", *CPU)
    assert "vLLM 0.32.0+cpu: the CPU, glibc 2.28 or newer" in plan["reasons"]
    found = {(one["name"], one["version"]) for one in plan["wheels"]}
    assert {("vllm", "0.32.0+cpu"), ("pillow", "13.0.0"), ("fastapi", "0.115")} <= found


def test_the_recipes_ranges_narrow_the_engines(run, wheels, tmp_path):
    write_wheel(wheels, "pillow", "14.0.0")
    text = (ROOT / "bundles/demo.toml").read_text().replace("dir:", f"dir:{ROOT}/bundles/")
    text = text.replace('cuda = "none"', 'cuda = "none"\nengine = "vllm"')
    text = text.replace('picture = "', f'picture = "{ROOT}/bundles/')
    for requirement, got in (("pillow<14", "13.0.0"), ("pillow>=14", "14.0.0")):
        narrow = text.replace("[serving]", f'requirements = ["{requirement}"]\n[serving]')
        (tmp_path / "narrow.toml").write_text(narrow)
        plan = run("plan", tmp_path / "narrow.toml", "--python", "target")
        versions = [one["version"] for one in plan["wheels"] if one["name"] == "pillow"]
        assert len(versions) == 2
        assert got in versions


def test_what_an_engine_does_not_load_is_refused(build):
    error = build("--quantize", "int8", code=2)
    assert error["subject"] == "--quantize int8"
    assert "but nf4" in error["message"]
    assert build("--format", "original", code=2)["subject"] == "--format original"


def test_an_index_without_times_of_upload_gives_what_it_has_and_that_is_said(
    command_line, wheels, tmp_path
):
    write_tiny_gpu_engine(wheels)
    with LoopbackIndex([wheels]) as index:
        own = {"UV_DEFAULT_INDEX": index.simple_url, "PIP_FIND_LINKS": "", "PIP_NO_INDEX": "0"}
        own |= {"LLAVA_PACK_CACHE": str(tmp_path / "cache")}
        arguments = ("demo", "--runtime", "sglang", "--cuda", "12", "--python", "target")
        done = command_line("lock", *arguments, "--out", tmp_path / "lock.json", env=own)
    assert done.returncode == 0, done.stderr
    assert "tells no time of upload" in done.stderr
    assert "2026-04-22" in done.stderr


def test_the_original_layout_has_its_tokenizer_beside_it(run, wheels, tmp_path):
    write_tiny_gpu_engine(wheels)
    arguments = ("--runtime", "sglang", "--cuda", "12", "--python", "target", "--no-record")
    card = run("build", "demo", *arguments)
    bundle = tmp_path / "demo-bundle"
    manifest = manifest_of(bundle)
    assert manifest["model"] == {
        "name": "llava-v1-demo",
        "path": "model/llava-v1-demo",
        "format": "original",
        "vision_tower": "model/clip-demo",
        "conv_mode": "llava_v1",
        "tokenizer": "model/llava-v1-demo-tokenizer",
    }
    there = {path.name for path in (bundle / "model/llava-v1-demo-tokenizer").iterdir()}
    assert {"config.json", "processor_config.json", "tokenizer.json"} <= there
    assert not [name for name in there if "safetensors" in name]
    assert manifest["serving"]["precision"] == "fp16"
    assert manifest["floors"]["tools"] == ["g++", "nvcc"]
    assert manifest["floors"]["driver"] == "525.60"
    assert {"g++", "nvcc"} <= {*card["needs"]}
    whole = run("build", "demo", *arguments, "--format", "hf", "--replace")
    assert whole["bundle_id"] != card["bundle_id"]
    assert [path.name for path in (bundle / "model").iterdir()] == ["llava-v1-demo"]


def test_on_a_cpu_nothing_is_compiled_by_the_systems_programs(run, wheels):
    write_wheel(wheels, "sglang", "0.5.23+cpu", "torch", "httpx")
    plan = run("plan", "demo", *CPU, "--runtime", "sglang")
    assert plan["floors"]["tools"] == []
    assert plan["serving"]["precision"] == "fp16"
    assert plan["floors"]["driver"] is None


@pytest.mark.engine
def test_both_are_installed_without_a_network_and_share_their_files(command_line, tmp_path):
    """The gateway's wheels are the real ones; the engine's are few and small."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "torch", "99.0+cpu")
    write_tiny_engine(folder)
    (folder / "pillow-13.0.0-py3-none-any.whl").unlink()
    write_wheel(folder, "vllm", "0.32.0+cpu", "torch", "httpx")
    bundle, prefix = tmp_path / "bundle", tmp_path / "prefix"
    found = subprocess.run(
        ["pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False
    )
    links = {"PIP_FIND_LINKS": f"{folder} {found.stdout.strip()}"}
    built = command_line("build", "demo", *CPU, "--no-record", "--json", "--out", bundle, env=links)
    assert built.returncode == 0, built.stderr
    identity = json.loads(built.stdout.splitlines()[-1])["bundle_id"]
    command = ["sh", str(bundle / "install.sh"), "--bundle", str(bundle), "--expect", identity]
    alone = ["unshare", "-rn"] if unshared("-rn") else []
    command = [*alone, *command, "--prefix", str(prefix)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    root = prefix / "models/demo/generations/1"
    places = [next(root.glob(f"{name}/lib/python3.*/site-packages")) for name in ("venv", "engine")]
    own, engine = ({path.name for path in place.iterdir()} for place in places)
    assert not own & {"torch.py", "vllm.py"}
    assert {"torch.py", "vllm.py", "httpx"} <= engine
    shared = [(place / "httpx/_client.py").stat() for place in places]
    assert shared[0].st_ino == shared[1].st_ino
    receipt = json.loads((root / "receipt.json").read_text())
    assert receipt["smoke"]["ok"] is True
    used = len({path.lstat().st_ino for path in prefix.rglob("*")})
    assert used <= manifest_of(bundle)["floors"]["disk_inodes"] <= 1.25 * used
