"""Thousands of files and folders of this machine, tried from behind each fence.

What lies below a path that the fence lets through is opened, everything else is refused; where it
lies is said here by its real path alone, which the kernel is never asked about.

    python -m pytest -n 0 tests/attack/fences.py

SEED and TRIES may be set; the seed is printed.
"""

import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_pack.engine.fence.place import this_place
from llava_pack.engine.fence.plan import decoder_fence, engine_fence, gateway_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import Fence
from llava_pack.llava_serve.fencing import upstream_fence
from tests.support.fences import landlock_abi

ROOT = Path(__file__).resolve().parents[2]
TRIES = int(os.environ.get("TRIES", "5000"))
_ABSENT = ("proc", "sys", "dev")
"""What is there changes while it is looked at, or answers when it is opened."""
_DEPTH = 12


def fences(folder: Path) -> dict[str, Fence]:
    """Return each fence, around nothing in particular."""
    place, home, model = this_place({}), folder / "home", folder / "model"
    return {
        "engine": engine_fence(place, [model], home, gpu=False),
        "gateway": gateway_fence(place, home=home, write=[folder / "logs"]),
        "decoder": decoder_fence(place),
        "upstream": upstream_fence(place, [model], home, ports=(21001,), gpu=False),
    }


def random_paths(chance: random.Random) -> Iterator[Path]:
    """Yield files and folders of this machine without end, each by a walk down from the root."""
    while True:
        path = Path("/")
        for _ in range(chance.randrange(1, _DEPTH)):
            try:
                names = sorted(entry.name for entry in path.iterdir())
            except OSError:
                break
            if path == Path("/"):
                names = [name for name in names if name not in _ABSENT]
            if not names:
                break
            path /= chance.choice(names)
            if not path.is_dir() or path.is_symlink():
                break
        if _plain(path):
            yield path


def _plain(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    readable = os.access(path, os.R_OK)
    return readable and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def allowed(path: Path, fence: Fence) -> bool:
    """Return whether the fence lets a path through."""
    real = Path(os.path.realpath(path))
    rules = [Path(os.path.realpath(one)) for one in (*fence.read, *fence.run, *fence.write)]
    listed = [Path(os.path.realpath(one)) for one in fence.names] if real.is_dir() else []
    return any(real.is_relative_to(rule) for rule in (*rules, *listed))


def opened(fence: str, folder: Path, paths: list[Path]) -> list[bool]:
    """Return which of some paths could be opened by a process behind a fence."""
    asked = folder / "asked.json"
    asked.write_text(json.dumps([fence, str(folder), list(map(str, paths))]))
    done = subprocess.run(
        [sys.executable, __file__, str(asked)],
        capture_output=True,
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found: list[bool] = json.loads(done.stdout)
    return found


def wrong(fence: str, folder: Path, seed: int, tries: int) -> list[str]:
    """Return the paths of a random walk for which the kernel and the plan do not agree."""
    for name in ("home", "logs", "model"):
        (folder / name).mkdir(exist_ok=True)
    chance = random.Random(seed)
    walk = random_paths(chance)
    paths = [next(walk) for _ in range(tries)]
    plan = fences(folder)[fence]
    expected = [allowed(path, plan) for path in paths]
    assert 0 < sum(expected) < tries, "some inside and some outside"
    got = opened(fence, folder, paths)
    pairs = zip(paths, expected, got, strict=True)
    return [f"{path}: {'open' if was else 'refused'}" for path, want, was in pairs if want != was]


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("fence", ["engine", "gateway", "decoder", "upstream"])
def test_the_kernel_and_the_plan_agree_on_every_path(fence: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed} TRIES={TRIES}")
    assert wrong(fence, tmp_path, seed, TRIES) == []


_FORGETFUL = """
import os, sys
from pathlib import Path
from llava_pack.engine.fence.place import this_place
from llava_pack.engine.fence.plan import decoder_fence
from llava_pack.engine.fence.raising import raise_fence

raise_fence(decoder_fence(this_place({})))
if sys.argv[1] == "closed":
    os.closerange(3, 100)
print("standing", flush=True)
input()
open("/proc/cpuinfo").close()
open("/proc/self/maps").close()
"""


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
@pytest.mark.skipif(os.getuid() != 0, reason="root alone can make the kernel forget")
@pytest.mark.parametrize("kept", ["open", "closed"])
def test_a_kernel_that_forgets_what_it_knew_of_proc_takes_no_rule_away(kept: str) -> None:
    """And where the descriptors on it are closed, as a mutation, it does."""
    with subprocess.Popen(
        [sys.executable, "-c", _FORGETFUL, kept],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "standing\n"
        Path("/proc/sys/vm/drop_caches").write_text("2")
        _, said = process.communicate("\n")
    assert ("PermissionError" in said) == (kept == "closed"), said


def main() -> None:
    """Raise a fence, try to open what is asked for, and print what could be."""
    fence, folder, paths = json.loads(Path(sys.argv[1]).read_text())
    plan = fences(Path(folder))[fence]
    standing = raise_fence(plan)
    assert (standing.landlock > 0, standing.seccomp) == (True, True)
    sys.stdout.write(json.dumps([_opens(path) for path in paths]))


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
