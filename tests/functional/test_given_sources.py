"""`--model` and `--tower`: a folder that is already here, or ModelScope, in place of the recipe's."""

import json
import shutil

import pytest

from tests.functional.conftest import DEMO
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower
from tests.support.demo import MODEL, TOWER
from tests.support.hub import RepoSpec
from tests.support.modelscope import LoopbackModelScope

COPIED = "somebody/llava-copied"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4' * 64}\nsize {{size}}\n"


@pytest.fixture(scope="module")
def spec():
    return TinyLlava(seed=14, tower=TinyTower(seed=14))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, spec):
    """Make the folders that a person downloaded, with what git and clients leave beside the files."""
    root = tmp_path_factory.mktemp("downloads")
    make_llava(root / "llava (1)", spec)
    make_tower(root / "clip", spec.tower)
    for folder in root.iterdir():
        (folder / ".git" / "hooks").mkdir(parents=True)
        (folder / ".git" / "hooks" / "evil.py").write_text("import os")
        (folder / ".cache").mkdir()
        (folder / ".cache" / "model.bin.incomplete").write_bytes(b"half")
    return root


@pytest.fixture(scope="module")
def site(downloads):
    repos = {
        MODEL: RepoSpec(folder=_without_own(downloads, "llava (1)")),
        TOWER: RepoSpec(folder=_without_own(downloads, "clip")),
    }
    repos[COPIED] = repos[MODEL]
    with LoopbackModelScope(repos, cdn=True) as site:
        yield site


def _without_own(root, name):
    target = root.parent / f"{root.name}-served" / name
    shutil.copytree(root / name, target, ignore=shutil.ignore_patterns(".*"))
    return target


@pytest.fixture
def run(command_line, demo_recipe, tmp_path, site, monkeypatch):
    """Run a command on the demo's recipe, whose Hub is not there."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")

    def run(command, *options, recipe=demo_recipe):
        own = (
            ["--out", tmp_path / "bundle", "--no-record", "--replace"] if command == "build" else []
        )
        done = command_line(command, recipe, "--python", "target", "--json", *own, *options)
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run


@pytest.fixture
def relocked(command_line, demo_recipe, tmp_path):
    """Build from a lock, with options that say where folders are."""

    def run(lock, *options, recipe=demo_recipe):
        own = ["--locked", lock, "--out", tmp_path / "bundle", "--no-record", "--replace", "--json"]
        done = command_line("build", recipe, *own, *options)
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.usefixtures("spec")
def test_the_same_files_in_any_folder_give_the_same_bundle(run, relocked, downloads, tmp_path):
    model, tower = downloads / "llava (1)", downloads / "clip"
    code, card, said = run("build", "--model", model, "--tower", tower)
    assert code == 0, card
    assert "the recipe has no digests" in said
    manifest = (tmp_path / "bundle" / "MANIFEST.json").read_text()
    bill = (tmp_path / "bundle" / "sbom" / "bundle.cdx.json").read_text()
    for text in (manifest, bill):
        assert str(downloads) not in text
        assert "llava (1)" not in text
        assert MODEL not in text, "nobody knows that it is from there"
        assert "dir:llava-v1-demo" in text
    assert json.loads(manifest)["lock"]["vision_tower"] == "dir:clip-demo"
    assert not list((tmp_path / "bundle").rglob("*evil*"))

    elsewhere = tmp_path / "D" / "other-name"
    shutil.copytree(model, elsewhere)
    lock = tmp_path / "demo.lock.json"
    code, _, said = run("lock", "--model", model, "--tower", tower, "--out", lock)
    assert code == 0, said
    [line] = [line for line in said.splitlines() if line.startswith("next: ")]
    assert f"--model '{model}' --tower {tower}" in line
    assert str(downloads) not in lock.read_text()
    code, again = relocked(lock, "--model", elsewhere, "--tower", f"dir:{tower}")
    assert (code, again.get("bundle_id")) == (0, card["bundle_id"]), again


def test_a_lock_of_folders_asks_for_them_again(run, relocked, downloads, tmp_path):
    lock = tmp_path / "demo.lock.json"
    sources = ["--model", downloads / "llava (1)", "--tower", f"ms:{TOWER}"]
    assert run("lock", *sources, "--out", lock)[0] == 0
    code, error = relocked(lock)
    assert (code, error["subject"]) == (10, "lock")
    assert "--model DIR" in error["hint"]
    code, error = relocked(lock, "--model", downloads / "llava (1)", "--tower", downloads / "clip")
    assert (code, error["subject"]) == (2, "--tower")
    assert "the lock decides it: ms:" in error["message"]


def test_a_bundle_from_modelscope_twice_from_one_lock(run, relocked, site, tmp_path):
    lock = tmp_path / "demo.lock.json"
    code, plan, _ = run("plan", "--model", f"ms:{MODEL}", "--tower", f"ms:{TOWER}@master")
    assert code == 0, plan
    assert {f"ms:{MODEL}@{site.commit(MODEL)}", f"ms:{TOWER}@{site.commit(TOWER)}"} == {
        *plan["weights"]
    }
    code, _, said = run("lock", "--model", f"ms:{MODEL}", "--tower", f"ms:{TOWER}", "--out", lock)
    assert code == 0, said
    assert json.loads(lock.read_text())["sources"]["model"] == f"ms:{MODEL}@{site.commit(MODEL)}"
    assert "--model" not in said.splitlines()[-1], "a lock brings a repository back by itself"
    ids = set()
    for _ in range(2):
        code, card = relocked(lock)
        assert code == 0, card
        ids.add(card["bundle_id"])
        shutil.rmtree(tmp_path / "bundle.sources", ignore_errors=True)
        kept = json.loads((tmp_path / "bundle" / "MANIFEST.json").read_text())
    assert len(ids) == 1
    origins = [one for entry in kept["files"] for one in _origins(entry["origin"])]
    assert {one["kind"] for one in origins if "commit" in one} == {"modelscope"}
    assert site.url not in json.dumps(kept)


def _origins(origin):
    return [origin, *(one for part in origin.get("inputs", []) for one in _origins(part))]


def test_a_recipe_that_says_so_itself(run, demo_recipe, tmp_path, site):
    recipe = demo_recipe.with_name("of-modelscope.toml")
    recipe.write_text(demo_recipe.read_text().replace("hf:", "ms:").replace("@main", ""))
    code, plan, said = run("plan", recipe=recipe)
    assert code == 0, plan
    assert "in place of" not in said
    assert f"ms:{MODEL}@{site.commit(MODEL)}" in plan["weights"]


def test_a_lock_of_another_repository_of_the_same_hub(run, relocked, demo_recipe, tmp_path, site):
    recipe = demo_recipe.with_name("of-modelscope.toml")
    recipe.write_text(demo_recipe.read_text().replace("hf:", "ms:").replace("@main", ""))
    lock = tmp_path / "demo.lock.json"
    code, _, said = run("lock", "--model", f"ms:{COPIED}", "--out", lock, recipe=recipe)
    assert code == 0, said
    code, card = relocked(lock, recipe=recipe)
    assert code == 0, card
    kept = json.loads((tmp_path / "bundle" / "MANIFEST.json").read_text())["lock"]
    assert kept["model"] == f"ms:{COPIED}@{site.commit(COPIED)}"
    assert kept["vision_tower"] == f"ms:{TOWER}@{site.commit(TOWER)}"

    pins = json.loads(lock.read_text())
    pins["sources"]["model"] = f"ms:{COPIED}"
    lock.write_text(json.dumps(pins))
    code, error = relocked(lock, recipe=recipe)
    assert (code, error["subject"]) == (10, "lock")
    assert f"expected a commit of {COPIED}" in error["message"]


def test_pointers_of_git_are_named(run, downloads, tmp_path):
    folder = tmp_path / "cloned"
    shutil.copytree(downloads / "llava (1)", folder)
    weights = min(folder.glob("*.bin"))
    weights.write_text(POINTER.format(size=weights.stat().st_size))
    (folder / "tf_model.h5").write_text(POINTER.format(size=9))
    for command in ("plan", "build"):
        code, error, _ = run(command, "--model", folder, "--tower", downloads / "clip")
        assert (code, error["subject"]) == (13, "llava-v1-demo")
        assert error["message"].endswith(f"in place of the files: {weights.name}")
        assert "git lfs pull" in error["hint"]


def test_a_download_that_is_not_complete_is_named(run, downloads, tmp_path):
    folder = tmp_path / "partial"
    shutil.copytree(downloads / "llava (1)", folder)
    gone = max(folder.glob("*.bin"))
    gone.rename(gone.with_name(f"{gone.name}.crdownload"))
    code, error, _ = run("plan", "--model", folder, "--tower", downloads / "clip")
    assert code == 13
    assert gone.name in error["message"]


def test_what_the_recipe_expects_is_compared(run, tmp_path):
    """The demo's own recipe has a digest for every file."""
    model, tower = (tmp_path / name for name in ("m", "t"))
    shutil.copytree(DEMO / "llava-v1-demo", model)
    shutil.copytree(DEMO / "clip-demo", tower)
    code, plan, said = run("plan", "--model", model, "--tower", tower, recipe="demo")
    assert code == 0, plan
    assert "compared by the digests of 8 of 8 files" in said
    text = (model / "special_tokens_map.json").read_text()
    (model / "special_tokens_map.json").write_text(text.replace("<unk>", "<ukn>", 1))
    code, error, _ = run("build", "--model", model, "--tower", tower, recipe="demo")
    assert (code, error["subject"]) == (4, "dir:llava-v1-demo: special_tokens_map.json")
    (model / "generation_config.json").unlink()
    code, error, _ = run("plan", "--model", model, "--tower", tower, recipe="demo")
    assert (code, "generation_config.json" in error["message"]) == (13, True)
    assert "download is not complete" in error["hint"]


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        (["--model", "no/such/folder"], "--model"),
        (["--tower", "pakced"], "--tower"),
        (["--tower", "packed", "--tower", "stock"], "--tower"),
        (["--tower", "ms:a/b", "--tower", "hf:a/b"], "--tower"),
        (["--base", "ms:a/b"], "--base"),
    ],
)
def test_what_is_no_source_is_2(run, options, subject):
    code, error, _ = run("plan", *options)
    assert (code, error["subject"]) == (2, subject)


def test_the_cache_of_modelscope_is_a_folder_too(run, downloads, tmp_path, site):
    cached = tmp_path / "models" / "somebody--llava-v1-demo"
    shutil.copytree(site.repos[MODEL].folder, cached / "snapshots" / "master")
    (cached / "snapshots" / "v1.0").mkdir()
    code, plan, _ = run("plan", "--model", cached, "--tower", downloads / "clip")
    assert code == 0, plan
    assert "dir:" in next(iter(plan["weights"]))
