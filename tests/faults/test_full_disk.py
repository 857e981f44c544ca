"""A disk that is full: at every write of an upgrade, and where something is to be removed."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.wheels import write_environments

pytestmark = pytest.mark.namespace
STEP_BYTES = 24 * 1024


def unshared(*flags):
    return subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(unshared("-rm") != 0, reason="no mount namespaces here")
def test_on_a_full_disk_the_old_generation_stays_and_what_frees_space_works(site):
    floors = {"disk_bytes": 1}
    old = site.write("old", floors=floors)
    both = write_environments(site.folder.with_name("made"))
    changed = {"weights": os.urandom(100_000), "release": 1_800_000_000}
    new = site.write("new", floors=floors, **changed, **both)
    driver = ROOT / "tests/support/full_disk.py"
    arguments = [site.folder, old, site.ids["old"], new, site.ids["new"], STEP_BYTES]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-I", "-B", driver, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    *failed, last = said["installed"]
    assert {(code, number) for code, number, _ in failed} == {(7, 1)}
    assert len(failed) > 10
    assert {step for _, _, step in failed} >= {"place", "venv"}
    assert last[:2] == [0, 2]
    back, none_removed, old_removed, all_removed = said["removed"]
    assert (back, none_removed) == ([7, 1, 2], [0, 1, 2])
    assert old_removed == [0, 2]
    assert (all_removed, said["left"]) == ([0], ["filler"])
