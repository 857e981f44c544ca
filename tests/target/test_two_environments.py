"""A bundle with an engine's environment, on the server: both venvs, moved, damaged, refused."""

import json
import os
import shutil
import subprocess

import pytest

from llava_pack.format.progress import Silent
from llava_pack.installation.installed import installed
from llava_pack.installation.integrity import changed_files
from llava_pack.target import relocation
from tests.support.python_archive import write_archive
from tests.support.wheels import write_environments


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("python"))


@pytest.fixture
def wheels(tmp_path):
    return write_environments(tmp_path / "made")


def generation(host, number=1):
    return host.prefix / f"models/tiny/generations/{number}"


def packages(root, venv):
    return next((root / venv).glob("lib/python3.*/site-packages"))


def test_both_are_there_and_share_what_both_have(host, medium, wheels):
    done = host.install_sh(medium(**wheels))
    assert done.returncode == 0, done.stderr
    own, engine = (packages(generation(host), name) for name in ("venv", "engine"))
    assert not (own / "vllm.py").exists()
    assert not (engine / "llava_pack").exists()
    shared = [(place / "shared.py").stat() for place in (own, engine)]
    assert shared[0].st_ino == shared[1].st_ino
    assert (engine / "vllm.py").is_file()
    assert not (generation(host) / "engine/.lock").exists()
    assert not (generation(host) / ".build").exists()


def test_a_bundle_without_an_engine_has_one(host, medium):
    host.install_sh(medium())
    assert not (generation(host) / "engine").exists()


@pytest.mark.parametrize("lost", ["engine", "engine/bin/python"])
def test_an_environment_that_is_gone_is_made_again(host, medium, wheels, lost):
    tiny = medium(**wheels)
    host.install_sh(tiny)
    path = generation(host) / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = host.install_sh(tiny, "--json")
    assert json.loads(done.stdout)["unchanged"] is False
    assert host.current() == 2
    assert (packages(generation(host, 2), "engine") / "vllm.py").is_file()


def test_a_moved_prefix_takes_both_along(host, medium, wheels, archive):
    host.install_sh(medium(archive=archive, **wheels))
    host.prefix = host.prefix.rename(host.prefix.with_name("elsewhere"))
    relocation.settle(host.prefix, Silent())
    home = os.path.realpath(generation(host) / "python/bin")
    for name in ("venv", "engine"):
        python = generation(host) / name / "bin/python"
        assert f"home = {home}\n" in (generation(host) / name / "pyvenv.cfg").read_text()
        assert not python.readlink().is_absolute()
        code = "import shared, sys; print(sys.prefix)"
        said = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, check=True
        )
        assert said.stdout.strip() == str(python.parent.parent)


def test_a_lock_of_the_engine_that_lacks_a_wheel_leaves_nothing(host, medium, wheels):
    broken = medium(uv_first='case "$*" in *engine*sync*|*sync*engine*) exit 3;; esac', **wheels)
    done = host.install_sh(broken)
    assert done.returncode == 14
    assert "installing the wheels" in done.stderr
    assert not generation(host).exists()
    assert host.current() is None


def test_a_compiler_that_is_missing_is_3(host, medium, wheels):
    done = host.install_sh(medium(floors={"tools": ("g++", "no-such-nvcc")}, **wheels))
    assert done.returncode == 3
    assert "missing: no-such-nvcc" in done.stderr
    assert "CUDA toolkit" in done.stderr


def test_an_upgrade_to_two_environments_is_reverted_and_given_back(host, medium, wheels, cli):
    host.install_sh(medium("one"))
    assert host.install_sh(medium("two", release=1_700_000_001, **wheels)).returncode == 0
    assert installed(host.prefix).engine_python == generation(host, 2) / "engine/bin/python"
    assert cli("revert", "--prefix", host.prefix).code == 0
    assert (host.current(), installed(host.prefix).engine_python) == (1, None)
    assert cli("revert", "--prefix", host.prefix, "--generation", 2).code == 0
    assert changed_files(installed(host.prefix), Silent()) == ()
    assert cli("gc", "--prefix", host.prefix, "--keep", 1).code == 0
    assert [path.name for path in generation(host).parent.iterdir()] == ["2"]
    assert (packages(generation(host, 2), "engine") / "vllm.py").is_file()
    assert changed_files(installed(host.prefix), Silent()) == ()
    assert cli("uninstall", "--recipe", "tiny", "--prefix", host.prefix).code == 0
    assert not list(host.prefix.rglob("vllm*"))
