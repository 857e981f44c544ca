"""`llava-pack inspect` of a checkpoint's folder, as a person runs it."""

import json
import subprocess
import sys

import pytest

from tests.support.checkpoints import make_llava, make_tower


@pytest.fixture
def folder(tmp_path):
    make_tower(tmp_path / "clip-tiny")
    return make_llava(tmp_path / "llava-v1.5-tiny")


def inspect(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "llava_pack", "inspect", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_whole_one(folder):
    done = inspect(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is: LLaVA as its authors publish it" in done.stdout
    assert "projector: mlp2x_gelu" in done.stdout


def test_a_broken_one_tells_every_defect_and_ends_with_13(folder):
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    (folder / "modeling.pyc").write_text("")
    done = inspect(folder)
    assert done.returncode == 13
    assert "✗ pytorch_model-00002-of-00002.bin: the shard is missing" in done.stdout
    assert "✗ modeling.pyc: Python code in a checkpoint is refused" in done.stdout


def test_for_programs(folder):
    (folder / "modeling.pyc").write_text("")
    done = inspect(folder, "--json")
    assert done.returncode == 13
    document = json.loads(done.stdout)
    assert (document["kind"], document["layout"]) == ("checkpoint", "original")
    assert [defect["subject"] for defect in document["defects"]] == ["modeling.pyc"]


def test_names_from_outside_are_shown_as_text(folder):
    (folder / "\x1b[31mred.py").write_text("")
    done = inspect(folder)
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred.py" in done.stdout


def test_what_is_a_bundles_is_refused(folder):
    done = inspect(folder, "--all")
    assert done.returncode == 2
    assert "--all: has no meaning for a checkpoint, only for a bundle" in done.stderr
