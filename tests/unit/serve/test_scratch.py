"""The private folder of a run: gone at its end, and after a kill gone at the next start."""

import subprocess
import sys
from pathlib import Path

from llava_pack.serve.scratch import Scratch


def test_it_is_private_and_goes_with_the_run(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        assert scratch.root.stat().st_mode & 0o777 == 0o700
        assert list(scratch.empty.iterdir()) == []
        (scratch.uploads / "picture.png").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_and_what_runs_stays(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from llava_pack.serve.scratch import Scratch\n"
        "with Scratch(Path(sys.argv[1])) as s:\n"
        "    (s.uploads / 'p').write_bytes(b'x'); print(s.root, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().decode().strip())
        with Scratch(tmp_path):
            assert (left / "uploads" / "p").exists()
        other.kill()
        other.wait()
        assert left.exists()
        with Scratch(tmp_path):
            assert not left.exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "llava-pack-serve-mine").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "llava-pack-serve-link").symlink_to(tmp_path / "else")
    with Scratch(tmp_path):
        assert (tmp_path / "llava-pack-serve-mine").exists()
    assert (tmp_path / "else").exists()
