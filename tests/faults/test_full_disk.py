"""A disk that is full at every write of an upgrade: exit 7, and the old generation stays."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.namespace
STEP_BYTES = 24 * 1024


def unshared(*flags):
    return subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(unshared("-rm") != 0, reason="no mount namespaces here")
def test_wherever_the_disk_fills_up_the_old_generation_stays(site):
    floors = {"disk_bytes": 1}
    old = site.write("old", floors=floors)
    new = site.write("new", floors=floors, weights=os.urandom(100_000), release=1_800_000_000)
    driver = ROOT / "tests/support/full_disk.py"
    arguments = [site.folder, old, site.ids["old"], new, site.ids["new"], STEP_BYTES]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-I", "-B", driver, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *failed, last = json.loads(done.stdout)
    assert {(code, number) for code, number, _ in failed} == {(7, 1)}
    assert len(failed) > 10
    assert {step for _, _, step in failed} >= {"place", "venv"}
    assert last[:2] == [0, 2]
