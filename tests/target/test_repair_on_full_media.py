"""`llava-pack repair` on a stick that is nearly full: one copy is enough, or it is said first."""

import os
import subprocess
import sys

import pytest

from llava_pack.crossing.parity import par2_program, protect
from llava_pack.format.progress import Silent
from llava_pack.format.sums import parse_sums
from tests.support.bundle import change
from tests.support.namespaces import unshared

WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
CONFIG = "model/tiny-llava/config.json"
WEIGHTS_BYTES = 30_000_000
SPACE = "-m" if os.geteuid() == 0 else "-rm"

pytestmark = [
    pytest.mark.namespace,
    pytest.mark.skipif(not unshared(SPACE), reason="no mount namespaces here"),
]


@pytest.fixture
def stick(medium, tmp_path):
    """Repair a copy of a bundle on a disk that has so many bytes free."""
    weights = os.urandom(WEIGHTS_BYTES)
    made = medium(weights=weights, extra={"runtime/par2": par2_program().read_bytes()})
    protect(made.root, parse_sums((made.root / "SHA256SUMS").read_bytes()), 5, Silent())
    mount = tmp_path / "stick"
    mount.mkdir()
    used = int(subprocess.check_output(["du", "-sk", made.root]).split()[0]) << 10

    def run(damaged, free_bytes, temporary):
        change(made.root / damaged, lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:])
        script = 'mount -t tmpfs -o size="$2" none "$1" && cp -a "$3" "$1" && shift 3 && "$@"'
        command = ["unshare", SPACE, "sh", "-c", script, "sh", mount, str(used + free_bytes)]
        command += [made.root, sys.executable, "-m", "llava_pack", "repair", mount / "bundle"]
        command += ["--expect", made.id]
        environment = {**os.environ, "TMPDIR": str(temporary or mount)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_one_copy_is_enough(stick):
    done = stick(WEIGHTS, WEIGHTS_BYTES + (26 << 20), None)
    assert done.returncode == 0, done.stderr


def test_temporary_files_help_where_only_the_copy_fits(stick, tmp_path):
    done = stick(CONFIG, 4 << 20, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_medium_without_room_for_the_copy_is_said_before_the_work(stick, tmp_path):
    done = stick(WEIGHTS, 4 << 20, tmp_path)
    assert done.returncode == 7, done.stderr
    assert "rebuilding" not in done.stderr
    assert "expected 30.0 MB free" in done.stderr
    assert "repair the copy" in done.stderr


def test_another_place_for_the_work_is_named_with_its_bytes(stick):
    done = stick(WEIGHTS, 4 << 20, None)
    assert done.returncode == 7, done.stderr
    assert "set TMPDIR to a folder of another disk that has 55.2 MB free" in done.stderr
