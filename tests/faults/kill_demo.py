"""The demo bundle, real wheels and all: killed (-9) in every long step of an upgrade, then resumed.

Minutes long, so not part of `make test`: `make test-faults` runs it.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.support.site import Site, complete

STEPS = {"place": 1, "venv": 5, "model": 7, "smoke": 9, "switch": 13}
"""The point after which the step begins, as tests/support/killed.py counts."""


def build(folder, name, release):
    out = folder / "media" / name
    command = [sys.executable, "-m", "llava_pack", "build", "demo", "--out", str(out), "--json"]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(release)}
    done = subprocess.run(
        [*command, "--python", "target"], capture_output=True, text=True, check=True, env=environ
    )
    return json.loads(done.stdout.splitlines()[-1])["bundle_id"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Give a prefix with the demo installed, and a newer bundle of it."""
    site = Site(tmp_path_factory.mktemp("demo"), recipe="demo")
    for name, release in (("old", 1_700_000_000), ("new", 1_800_000_000)):
        site.ids[name] = build(site.folder, name, release)
    site.install("old")
    return site


@pytest.mark.timeout(1200)
def test_an_upgrade_that_is_killed_again_and_again_is_completed(site):
    for step, point in STEPS.items():
        done = site.killed(f"step:{point}", *site.installing("new"), timeout_s=600)
        assert done.returncode == -9, f"{step}: {done.stderr}"
        journal = json.loads((site.prefix / "journal.json").read_text())
        assert journal["step"] == step
        complete(site.prefix)
        assert site.current() == 1
        assert site.says("--version").startswith("llava-pack ")
    outcome = site.install("new")
    assert (outcome.generation, outcome.unchanged) == (2, False)
    complete(site.prefix)
    assert site.install("new").unchanged
