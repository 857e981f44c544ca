"""The same host and the same media as the tests of the target have."""

from tests.target.conftest import cli, host, medium, tmp_path

__all__ = ["cli", "host", "medium", "tmp_path"]
