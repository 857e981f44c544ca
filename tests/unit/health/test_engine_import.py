"""What an installation tries of an engine of the field: its import, behind a fence."""

import subprocess
import sys

import pytest

from llava_pack.format.errors import InstallError, NetworkError
from llava_pack.health.engine_import import try_engine
from llava_pack.runtimes import RUNTIMES
from tests.support.bundle import BundleSimulator
from tests.support.wheels import write_environments

PROFILE = RUNTIMES["vllm"].profile


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    bundle = BundleSimulator(**write_environments(tmp_path_factory.mktemp("made")))
    return bundle.manifest(bundle.payload())


@pytest.fixture
def tried(manifest, tmp_path):
    """Return what is said of an engine that is this module."""

    def of(module):
        venv = tmp_path / "engine"
        command = [sys.executable, "-m", "venv", "--without-pip", venv]
        subprocess.run(command, check=True)
        packages = next(venv.glob("lib/python3.*/site-packages"))
        (packages / f"{PROFILE.package}.py").write_text(module)
        return try_engine(manifest, tmp_path, PROFILE, "fp16", "auto")

    return of


def test_one_that_can_be_imported_is_right(tried):
    report = tried("VERSION = '1.0'\n")
    assert (report["ok"], report["precision"], report["device"]) == (True, "fp16", "auto")
    assert "answers" not in report, "nobody asked"


def test_one_that_cannot_is_14_with_what_it_said(tried):
    with pytest.raises(InstallError, match="libcudart") as caught:
        tried("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    assert caught.value.exit_code == 14
    assert caught.value.subject == PROFILE.package


def test_one_that_reaches_out_is_9(tried):
    with pytest.raises(NetworkError, match=r"stats\.example"):
        tried("import socket\nsocket.getaddrinfo('stats.example', 443)\n")


def test_an_environment_without_a_python_is_14(manifest, tmp_path):
    with pytest.raises(InstallError, match="cannot be imported"):
        try_engine(manifest, tmp_path, PROFILE, "fp16", "auto")
