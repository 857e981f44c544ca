"""Each engine is installed once, and served once for the tests that leave it as it is."""

import os
from collections.abc import Iterator

import pytest

from tests.engines.installed import FOLDER, Installed, Served, serving

_ENGINES = os.environ.get("TEST_ENGINES", "").split()


@pytest.fixture(scope="session", params=_ENGINES)
def installed(request: pytest.FixtureRequest) -> Installed:
    one = Installed(request.param, FOLDER / "homes" / request.param)
    one.install()
    return one


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Served]:
    with serving(installed) as running:
        yield running
