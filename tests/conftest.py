"""What every test starts from: an environment without settings of the person who runs it."""

import os
from pathlib import Path

import pytest

_FOREIGN = (
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "HUGGING_FACE_HUB_TOKEN",
    "LLAVA_PACK_PREFIX",
    "SOURCE_DATE_EPOCH",
    "XDG_RUNTIME_DIR",
    "SSH_CONNECTION",
    "NO_COLOR",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def scrubbed_environment(tmp_path_factory):
    """Take foreign settings away, and give Hugging Face a home of its own."""
    kept = {name: os.environ.pop(name) for name in _FOREIGN if name in os.environ}
    home = os.environ.get("HF_HOME")
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf-home"))
    yield
    os.environ.update(kept)
    if home is not None:
        os.environ["HF_HOME"] = home
