"""kill -9 at every step that the journal knows, and at writes in between; then the same again."""

import random

import pytest

from llava_pack.format.progress import Silent
from llava_pack.installation import removal
from tests.support.site import Site, complete
from tests.support.wheels import write_environments

STEPS = ("place", "python", "venv", "model", "smoke", "seal", "switch", "close")
SEED = 20261127


@pytest.fixture(scope="module")
def upgrade(memory):
    """Give a site with an old generation, saved, and what a new one comes to."""
    site = Site(memory / "upgrade")
    both = write_environments(memory / "made")
    site.write("old")
    site.write("new", weights=b"newer weights", release=1_800_000_000, **both)
    site.install("old")
    site.save()
    site.install("new")
    return site, site.state()


def points():
    """Every step, before and after it is written down, and a draw of the writes in between."""
    steps = [f"step:{n}" for n in range(2 * len(STEPS))]
    return [*steps, *(f"write:{n}" for n in random.Random(SEED).sample(range(180), 6))]


@pytest.mark.parametrize("point", points())
def test_a_killed_upgrade_ends_like_an_untouched_one(upgrade, point):
    site, untouched = upgrade
    site.restore()
    done = site.killed(point, *site.installing("new"))
    assert done.returncode == -9, f"seed {SEED}: {done.stderr}"
    switched = site.current() == 2
    assert not switched or point in {"step:13", "step:14", "step:15"} or point.startswith("write")
    complete(site.prefix)
    assert site.says("hello") == f"{site.prefix} hello"
    outcome = site.install("new")
    assert (outcome.generation, outcome.unchanged) == (2, switched)
    assert site.state() == untouched


@pytest.fixture(scope="module")
def two(upgrade, memory):
    """Give a site with two generations, of which the newer one is current, saved."""
    site = Site(memory / "two")
    site.write("old")
    site.write("new", weights=b"newer weights", release=1_800_000_000)
    site.install("old")
    site.install("new")
    site.save()
    return site


OPERATIONS = {
    "revert": (3, lambda prefix: removal.revert(prefix, None, None, Silent())),
    "gc": (6, lambda prefix: removal.gc(prefix, Silent(), keep=1)),
    "uninstall": (8, lambda prefix: removal.uninstall(prefix, None, Silent())),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_killed_change_ends_like_an_untouched_one(two, operation):
    count, again = OPERATIONS[operation]
    arguments = [operation, *(["1"] if operation == "gc" else [])]
    two.restore()
    done = two.killed("write:", *arguments)
    writes, untouched = int(done.stdout), two.state()
    drawn = random.Random(SEED).sample(range(writes), min(4, writes))
    for point in [*(f"step:{n}" for n in range(count)), *(f"write:{n}" for n in drawn)]:
        two.restore()
        assert two.killed(point, *arguments).returncode == -9, f"{point}, seed {SEED}"
        complete(two.prefix)
        again(two.prefix)
        assert two.state() == untouched, f"{point}, seed {SEED}"


GROUPS = 6
"""Of files that a build of the tiny bundle makes: each is written down when it is whole."""


def test_a_killed_build_ends_like_an_untouched_one(site):
    out = site.folder / "bundle"
    done = site.killed("write:", "build", str(out))
    writes, untouched = int(done.stdout), tree(out)
    drawn = random.Random(SEED).sample(range(writes), 6)
    for point in [*(f"step:{n}" for n in range(2 * GROUPS)), *(f"write:{n}" for n in drawn)]:
        assert site.killed(point, "build", str(out)).returncode == -9, f"{point}, seed {SEED}"
        assert site.killed("none", "build", str(out)).returncode == 0
        assert tree(out) == untouched, f"{point}, seed {SEED}"
        assert sorted(path.name for path in site.folder.iterdir()) == ["bundle"]


def tree(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
