"""A prefix in memory, as the tests of faults have it."""

from tests.faults.conftest import memory, site

__all__ = ["memory", "site"]
