"""A bundle that carries its CPython: found by the real uv, or given by hand; installed from it."""

import json
import os
import subprocess
import sys
import tarfile

import pytest

from tests.conftest import ROOT
from tests.support.python_archive import MINOR, VERSION, PythonMirror, write_archive

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the recipe is for 3.11")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("python"))


@pytest.fixture
def build(command_line, demo_hub, tmp_path):
    def run(*options, **env):
        arguments = [
            "build",
            "demo",
            "--json",
            "--no-record",
            "--out",
            tmp_path / "bundle",
            *options,
        ]
        done = command_line(*arguments, env={"HF_ENDPOINT": demo_hub.url, **env})
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.engine
def test_uv_finds_it_and_an_installation_runs_on_it(archive, build, tmp_path):
    with PythonMirror(archive) as mirror:
        code, card = build(UV_PYTHON_DOWNLOADS_JSON_URL=mirror.list_url)
    assert code == 0, card
    bundle = tmp_path / "bundle"
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    assert manifest["python"]["kind"] == "standalone"
    assert manifest["python"]["version"] == VERSION
    assert (bundle / manifest["python"]["path"]).read_bytes() == archive.read_bytes()
    prefix = tmp_path / "prefix"
    command = ["sh", str(ROOT / "installers" / "install.sh"), "--bundle", str(bundle)]
    command += ["--expect", card["bundle_id"], "--prefix", str(prefix), "--json"]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, cwd="/",
        capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used = len({path.lstat().st_ino for path in prefix.rglob("*")})
    assert used <= manifest["floors"]["disk_inodes"] <= 1.1 * used
    python = prefix / "models" / "demo" / "current" / "venv" / "bin" / "python"
    code = "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2])"
    said = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    base, minor = said.stdout.split()
    assert minor == MINOR
    assert os.path.realpath(base).startswith(os.path.realpath(prefix))


def test_an_archive_given_by_hand_is_carried(archive, build):
    code, plan = build("--python-archive", archive, "--dry-run")
    assert code == 0, plan
    assert plan["python"] == {"version": VERSION, "carried": True}


NOWHERE = {"UV_PYTHON_DOWNLOADS_JSON_URL": "http://127.0.0.1:9/x.json", "UV_HTTP_RETRIES": "0"}


def test_an_archive_that_nothing_vouches_for_is_said(archive, command_line, demo_hub):
    with PythonMirror(archive) as mirror:
        env = {"HF_ENDPOINT": demo_hub.url, "UV_PYTHON_DOWNLOADS_JSON_URL": mirror.list_url}
        assert "has no digest" not in command_line("plan", "demo", env=env).stderr
        mirror.fault("/SHA256SUMS", statuses=[404] * 9)
        done = command_line("plan", "demo", env=env)
    assert done.returncode == 0, done.stderr
    assert f"! CPython {VERSION} has no digest" in done.stderr


def test_where_none_can_be_had_the_card_and_the_bundle_say_what_the_server_needs(build, tmp_path):
    code, card = build(**NOWHERE)
    assert (code, card["python"]) == (0, "3.11"), card
    text = (tmp_path / "bundle" / "START-HERE.txt").read_text()
    assert "No Python is inside: the server needs Python 3.11" in text
    assert "install.sh --python FILE" in text


@pytest.mark.parametrize("command", ["build", "plan", "lock"])
def test_where_one_is_required_its_absence_is_10(command, command_line, tmp_path):
    own = [] if command == "plan" else ["--out", tmp_path / "out"]
    done = command_line(command, "demo", "--require-python", "--json", *own, env=NOWHERE)
    error = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, error["subject"]) == (10, "--require-python")
    assert "--python-archive FILE" in error["hint"]
    assert "127.0.0.1:9" in done.stderr, done.stderr.splitlines()


def test_it_is_not_required_of_a_bundle_that_carries_none(build):
    assert build("--require-python", "--python", "target")[0] == 2


def test_where_one_is_required_and_given_it_is_carried(archive, build):
    code, plan = build("--python-archive", archive, "--require-python", "--dry-run")
    assert (code, plan["python"]["carried"]) == (0, True), plan


def test_another_digest_than_promised_is_4(archive, build):
    code, error = build("--python-archive", archive, "--python-sha256", "0" * 64)
    assert (code, error["subject"]) == (4, archive.name)


def test_another_layout_is_2(build, tmp_path):
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as file:
        file.addfile(tarfile.TarInfo("Python-3.11.9/configure"))
    for path in (other, tmp_path / "absent.tar.gz", ROOT / "README.md"):
        assert build("--python-archive", path)[0] == 2
