"""`llava-pack support-bundle` where nothing works, and where something is there to be told."""

import json
import os
import platform
import subprocess
import sys
import tarfile

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def ruin(tmp_path_factory):
    """A prefix whose only installation is broken in every way, with a log that tells too much."""
    prefix = tmp_path_factory.mktemp("prefix")
    generation = prefix / "models" / "tiny" / "generations" / "1"
    generation.mkdir(parents=True)
    (generation / "receipt.json").write_text("{broken")
    (generation / "MANIFEST.json").write_text("{broken")
    (prefix / "journal.json").write_text('{"step": "venv"}')
    (prefix / "logs").mkdir()
    (prefix / "logs" / "serve.log").write_text(
        f"{platform.node()} 203.0.113.9 Bearer s3cr3t\nRuntimeError: CUDA out of memory\n"
    )
    return prefix


@pytest.fixture(scope="module")
def written(ruin, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "support.tar.gz"
    done = run("--prefix", str(ruin), "--json", "-o", str(path), LLAVA_PACK_PREFIX=str(ruin))
    assert done.returncode == 0, done.stderr
    with tarfile.open(path) as archive:
        files = {
            member.name.removeprefix("llava-pack-support/"): archive.extractfile(member)
            .read()
            .decode()
            for member in archive
        }
    return path, json.loads(done.stdout), files


def run(*options, **environ):
    return subprocess.run(
        [sys.executable, "-m", "llava_pack", "support-bundle", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )


def test_it_tells_what_there_is_where_everything_is_broken(written):
    path, told, files = written
    assert path.stat().st_mode & 0o777 == 0o600
    assert told["size_bytes"] == path.stat().st_size < 5_000_000
    assert (
        json.loads(files["health.json"].partition("\n")[2].rpartition("[")[0])["kind"] == "health"
    )
    assert json.loads(files["probe.json"].partition("\n")[2].rpartition("[")[0])["arch"]
    assert files["journal.json"] == '{"step": "venv"}'
    assert "could not be collected" in files["manifests/tiny-1.json"]
    assert told["known"] == ["out-of-gpu-memory"]


def test_nothing_private_is_in_it(written):
    _, told, files = written
    whole = "\n".join(files.values())
    assert "203.0.113.9" not in whole
    assert "s3cr3t" not in whole
    assert f'"host": "{platform.node()}"' not in whole
    assert files["logs/serve.log"].startswith("<host 1> <address 1> Bearer <secret 1>\n")
    assert {"host", "address", "secret"} <= set(told["redacted"])


def test_a_file_that_exists_is_never_touched(ruin, tmp_path):
    taken = tmp_path / "taken.tar.gz"
    taken.write_text("mine")
    done = run("--prefix", str(ruin), "-o", str(taken))
    assert done.returncode == 2
    assert taken.read_text() == "mine"
