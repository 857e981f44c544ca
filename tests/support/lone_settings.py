"""A laptop without settings of its own for package indexes."""

import os
from pathlib import Path

import pytest


def forget_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Leave only what a test says of pip and uv, whose cache is empty, and work in a folder."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(folder / "shared"))
    monkeypatch.setenv("UV_CACHE_DIR", str(folder / "uv-cache"))
    monkeypatch.chdir(folder)
