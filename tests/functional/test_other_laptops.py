"""What laptops differ in, as far as Linux can show it: code pages, line ends, an empty PATH."""

import filecmp
import os
import shutil
import subprocess
import sys

import pytest

from llava_pack.lock.indexes import Indexes
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.resolve import resolve
from tests.conftest import ROOT
from tests.support.bundle import BundleSimulator
from tests.support.wheels import write_wheel

HERE = parse_platform("x86_64-manylinux_2_28", "3.11")


@pytest.mark.parametrize("encoding", ["cp936", "cp1252", "ascii"])
def test_a_check_mark_ends_no_command_in_any_code_page(tmp_path, encoding):
    """Of a pipe on a Chinese Windows: code page 936 has no check mark."""
    BundleSimulator().write(tmp_path / "bundle")
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "llava_pack", "verify", str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert "+ " in done.stderr.decode(encoding)
    assert "every byte is as listed" in done.stderr.decode(encoding)


def test_uv_needs_no_python_on_the_path(tmp_path, monkeypatch):
    """It would look for one to resolve with; the one that runs this is there for sure."""
    folder = tmp_path / "packages"
    folder.mkdir()
    write_wheel(folder, "small_one", "2.0")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "VIRTUAL_ENV"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("PATH", "")
    (wheel,) = resolve(["small-one"], HERE, Indexes(find_links=(str(folder),), no_index=True))
    assert wheel.name == "small-one"


@pytest.fixture
def copy(tmp_path):
    """Copy what a clone has of the program."""
    hidden = shutil.ignore_patterns("__pycache__")
    for name in ("llava_pack", "installers", "bundles"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=hidden)
    return tmp_path


@pytest.mark.parametrize("name", ["install.sh", "probe.sh"])
def test_build_refuses_a_carriage_return_before_anything_is_fetched(copy, name):
    script = copy / "installers" / name
    script.write_bytes(script.read_bytes().replace(b"\n", b"\r\n"))
    environ = {**os.environ, "PYTHONPATH": str(copy), "UV_DEFAULT_INDEX": "http://127.0.0.1:9/"}
    command = [sys.executable, "-m", "llava_pack", "build", "demo", "--no-record"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environ, cwd=copy
    )
    assert done.returncode == 4, done.stderr
    assert f"{name}: has lines that end in CR LF, expected LF" in done.stderr
    assert "core.autocrlf=false" in done.stderr


def test_a_clone_on_windows_has_the_bytes_of_every_clone(tmp_path):
    """`core.autocrlf` is on wherever Git for Windows is installed as it proposes."""
    windows, linux = tmp_path / "windows", tmp_path / "linux"
    for folder, settings in (
        (windows, ["core.autocrlf=true", "core.eol=crlf"]),
        (linux, ["core.autocrlf=false"]),
    ):
        told = [part for one in settings for part in ("-c", one)]
        subprocess.run(
            ["git", *told, "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True
        )
    paths = [path.relative_to(linux) for path in linux.rglob("*") if path.is_file()]
    assert paths
    _, different, failed = filecmp.cmpfiles(linux, windows, paths, shallow=False)
    assert not different + failed


@pytest.mark.parametrize("command", ["plan", "lock", "build"])
@pytest.mark.parametrize("version", ["3.10", "2.7", "3", "3.11.9", "newest"])
def test_a_python_that_llava_pack_does_not_run_on_is_refused_immediately(
    command_line, command, version
):
    done = command_line(command, "demo", "--python", version)
    assert done.returncode == 2
    assert f"--python: expected a minor version from 3.11 on, or 'target', got {version!r}" in (
        done.stderr
    )


def test_so_is_one_of_a_recipe(command_line, tmp_path):
    text = (ROOT / "bundles" / "demo.toml").read_text()
    recipe = tmp_path / "old.toml"
    recipe.write_text(text.replace('python = "3.11"', 'python = "3.10"'))
    done = command_line("plan", recipe)
    assert done.returncode == 10
    assert "runtime.python: Value error, expected Python 3.11 or newer" in done.stderr
