"""Known answers recorded while a model is packed: kept beside the lock, and the same bytes again."""

import json

import pytest

from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower
from tests.support.demo import MODEL, TOWER
from tests.support.hub import LoopbackHub, RepoSpec

pytestmark = pytest.mark.engine


def test_the_bundle_carries_what_the_model_answered_in_each_precision(demo_bundle):
    manifest = json.loads((demo_bundle.path / "MANIFEST.json").read_bytes())
    found = {(one["answer"], one["precision"]): one for one in manifest["references"]}
    names = {one["name"] for one in manifest["known_answers"]}
    assert found.keys() == {(name, kind) for name in names for kind in ("nf4", "fp32", "int8")}
    for one in found.values():
        assert one["recorded"] == "build"
        assert len(one["token_ids"]) == len(one["likeliest"]) == len(one["micronats"]) > 3
        assert {len(step) for step in one["likeliest"]} == {5}
        assert all(step == sorted(step) for step in one["micronats"])
        assert one["token_ids"] == [step[0] for step in one["likeliest"]]  # greedy


def test_recorded_once_beside_the_lock(demo_hub, llava_pack, demo_recipe, tmp_path):
    lock = tmp_path / "demo.lock.json"
    environ = {"HF_ENDPOINT": demo_hub.url}
    done = llava_pack("lock", demo_recipe, "--python", "target", "--out", lock, env=environ)
    assert done.returncode == 0, done.stderr
    ids = []
    for number in (1, 2):
        arguments = ["build", demo_recipe, "--locked", lock, "--record", "--json"]
        done = llava_pack(*arguments, "--out", tmp_path / f"bundle-{number}", env=environ)
        assert done.returncode == 0, done.stderr
        assert ("record known answers" in done.stderr) == (number == 1)
        ids.append(json.loads(done.stdout.splitlines()[-1])["bundle_id"])
    assert ids[0] == ids[1]
    kept = json.loads((tmp_path / "demo.lock.json.answers.json").read_text())
    manifest = json.loads((tmp_path / "bundle-2" / "MANIFEST.json").read_bytes())
    assert kept["references"] == manifest["references"]


def test_a_model_that_does_not_know_its_answers_is_13(llava_pack, demo_recipe, tmp_path):
    spec = TinyLlava(tower=TinyTower())
    make_llava(tmp_path / "model", spec)
    make_tower(tmp_path / "tower", spec.tower)
    repos = {MODEL: RepoSpec(folder=tmp_path / "model"), TOWER: RepoSpec(folder=tmp_path / "tower")}
    with LoopbackHub(repos) as hub:
        arguments = ["build", demo_recipe, "--python", "target", "--record", "--json"]
        done = llava_pack(*arguments, "--out", tmp_path / "bundle", env={"HF_ENDPOINT": hub.url})
    assert done.returncode == 13
    told = json.loads(done.stdout.splitlines()[-1])
    assert "to 'red-circle' in" in told["message"] or "could not be recorded" in told["message"]
    assert not (tmp_path / "bundle").exists()
