"""A prefix in memory, and tiny bundles for it."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.site import Site


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """Give a folder in memory where there is some: a flush is free there, nothing else differs."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or os.statvfs(shm).f_flag & os.ST_NOEXEC:
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(dir=shm, prefix="llava-pack-") as folder:
        yield Path(folder)


@pytest.fixture
def site(memory, tmp_path):
    """Give a prefix with nothing in it."""
    return Site(memory / tmp_path.name)
