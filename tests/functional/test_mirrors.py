"""`--mirror FILE`: bytes come from elsewhere; locks, digests and bundle ids do not change."""

import json

import pytest
from pip._internal.models.index import PyPI

from llava_pack.fetch.python import find_standalone
from llava_pack.lock.indexes import configured_indexes
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.resolve import find_wheels, resolve
from tests.functional.conftest import DEMO
from tests.support.demo import MODEL, TOWER
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.index import LoopbackIndex
from tests.support.lone_settings import forget_settings
from tests.support.loopback import Answer, Loopback
from tests.support.wheels import write_wheel

HERE = parse_platform("x86_64-manylinux_2_28", "3.11")


class PassedOn(Loopback):
    """A mirror of PyPI that has nothing of its own, and says where it is."""

    def respond(self, asked):
        return Answer(status=302, headers={"Location": PyPI.url.rstrip("/") + asked.path})


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Write a mirror's file; give the Hub and the index that stand behind it."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    repos = {
        MODEL: RepoSpec(folder=DEMO / "llava-v1-demo"),
        TOWER: RepoSpec(folder=DEMO / "clip-demo"),
    }
    with LoopbackHub(repos, tokens=["hf_verysecret"], cdn=True) as hub, PassedOn() as index:
        file = tmp_path / "ours.toml"
        file.write_text(f'hub = "{hub.url}"\nindex = "{index.url}/simple"\n')
        yield file, hub, index


def document(done):
    return json.loads(done.stdout.splitlines()[-1])


def test_a_lock_and_a_bundle_do_not_depend_on_it(
    mirror, demo_hub, demo_recipe, command_line, tmp_path, monkeypatch
):
    file, hub, index = mirror
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    lock = ["lock", demo_recipe, "--python", "target"]
    plain, mirrored = tmp_path / "plain.json", tmp_path / "mirrored.json"
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", demo_hub.url)
        assert command_line(*lock, "--out", plain).returncode == 0
    done = command_line(*lock, "--out", mirrored, "--mirror", file)
    assert done.returncode == 0, done.stderr
    assert mirrored.read_bytes() == plain.read_bytes()
    assert f"the Hub: {hub.url}" in done.stderr
    assert f"package index: {index.url}/simple" in done.stderr
    assert f"--mirror {file}" in done.stderr.splitlines()[-1]
    assert hub.requests(f"/{MODEL}/revision/main")
    assert index.asked, "the mirror of the index took part"
    assert not [one for one in hub.asked if "authorization" in one.headers], "no token to a mirror"

    ids = []
    for out, more in (("one", ["--mirror", file]), ("two", [])):
        if not more:
            monkeypatch.setenv("HF_ENDPOINT", demo_hub.url)
        arguments = ["build", demo_recipe, "--locked", plain, "--no-record", "--json", *more]
        done = command_line(*arguments, "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
        ids.append(document(done)["bundle_id"])
    assert ids[0] == ids[1]
    assert hub.url not in (tmp_path / "one" / "MANIFEST.json").read_text()


def test_what_the_person_has_set_goes_first(mirror, demo_hub, demo_recipe, command_line):
    file, hub, _ = mirror
    done = command_line(
        "plan", demo_recipe, "--python", "target", "--mirror", file,
        env={"HF_ENDPOINT": demo_hub.url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the Hub: your own stays (HF_ENDPOINT)" in done.stderr
    assert hub.asked == []


def test_a_token_of_a_login_is_said_not_to_be_sent(mirror, demo_recipe, llava_pack, tmp_path):
    file, hub, _ = mirror
    kept = tmp_path / "token"
    kept.write_text("hf_verysecret")
    done = llava_pack(
        "plan", demo_recipe, "--python", "target", "--mirror", file,
        env={"HF_TOKEN_PATH": str(kept), "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the Hub token is not sent to it" in done.stderr
    assert not [one for one in hub.asked if "authorization" in one.headers]


def test_a_gated_model_says_why_a_mirror_refuses_it(mirror, demo_recipe, command_line):
    file, hub, _ = mirror
    hub.repos[MODEL] = RepoSpec(
        folder=DEMO / "llava-v1-demo", gated=True, readers=frozenset({"hf_verysecret"})
    )
    plan = ["plan", demo_recipe, "--python", "target", "--json", "--mirror", file]
    done = command_line(*plan, env={"HF_TOKEN": "hf_verysecret"})
    assert (done.returncode, document(done)["subject"]) == (12, f"{MODEL}@main")
    assert "HF_ENDPOINT" in document(done)["hint"]
    assert "--model ms:OWNER/NAME" in document(done)["hint"]


def test_a_mirror_that_sends_weights_from_a_host_that_is_gone_names_it(
    mirror, demo_recipe, command_line, tmp_path
):
    file, hub, _ = mirror
    for name in (".bin", "tokenizer.model"):
        hub.fault(name, headers={"Location": "http://cas-bridge.invalid/x?signature=secret"})
    done = command_line(
        "build", demo_recipe, "--python", "target", "--json", "--mirror", file,
        "--out", tmp_path / "bundle", env={"LLAVA_PACK_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    error = document(done)
    assert done.returncode == 9, error
    assert f"{hub.url} redirects to http://cas-bridge.invalid:80" in error["message"]
    assert "HTTPS_PROXY" in error["hint"]
    assert "secret" not in done.stdout + done.stderr


def test_there_is_no_such_mirror(command_line):
    assert command_line("plan", "demo", "--mirror", "atlantis").returncode == 2


@pytest.fixture
def indexes(tmp_path, monkeypatch):
    """Serve a package index, and a mirror of torch's builds below it."""
    forget_settings(monkeypatch, tmp_path)
    usual, own = tmp_path / "usual", tmp_path / "own"
    usual.mkdir()
    own.mkdir()
    write_wheel(usual, "torch", "2.12", "nvidia-cuda-runtime")
    write_wheel(usual, "small_one", "2.0")
    write_wheel(own, "torch", "2.9+cpu", "small-one")
    write_wheel(own, "small_one", "9.0")
    with LoopbackIndex([usual]) as index, LoopbackIndex([own], below="/whl/cpu") as torch:
        yield index, torch


def test_torchs_own_builds_come_from_the_mirror_and_nothing_else_does(indexes):
    index, torch = indexes
    settings = configured_indexes(mirror=index.simple_url, torch=f"{torch.url}/whl")
    wheels = resolve(["torch>=2.6", "small-one"], HERE, settings, torch_backend="cpu")
    assert [f"{one.name} {one.version}" for one in wheels] == ["small-one 2.0", "torch 2.9+cpu"]
    assert not torch.requests("/small-one/")
    found = find_wheels(["torch==2.9+cpu"], HERE, settings, torch_backend="cpu")
    assert [one.filename for one in found.values()] == ["torch-2.9+cpu-py3-none-any.whl"]


def test_the_mirror_of_the_index_leaves_an_extra_one_alone(indexes, monkeypatch, tmp_path):
    index, _ = indexes
    extra = tmp_path / "extra"
    extra.mkdir()
    write_wheel(extra, "private", "1.0", "small-one")
    with LoopbackIndex([extra]) as own:
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", own.simple_url)
        wheels = resolve(["private"], HERE, configured_indexes(mirror=index.simple_url))
    assert [one.name for one in wheels] == ["private", "small-one"]


def test_cpython_comes_from_the_mirror(monkeypatch):
    for name in ("UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_DOWNLOADS_JSON_URL"):
        monkeypatch.delenv(name, raising=False)

    class Archives(Loopback):
        def respond(self, asked):
            return Answer(status=404)

    with Archives() as archives:
        found = find_standalone("3.11", "x86_64-unknown-linux-gnu", mirror=f"{archives.url}/pbs")
        assert found.file is not None
        assert found.file.url.startswith(f"{archives.url}/pbs/")
        assert archives.requests("/SHA256SUMS")
