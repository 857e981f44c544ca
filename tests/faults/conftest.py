"""A prefix in memory, and tiny bundles for it."""

import tempfile
from pathlib import Path

import pytest

from tests.support.memory_disk import memory_disk
from tests.support.site import Site


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """Give a folder in memory where there is some."""
    if (disk := memory_disk()) is None:
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(dir=disk, prefix="llava-pack-") as folder:
        yield Path(folder)


@pytest.fixture
def site(memory, tmp_path):
    """Give a prefix with nothing in it."""
    return Site(memory / tmp_path.name)
