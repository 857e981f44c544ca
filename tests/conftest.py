"""What every test starts from: an environment without settings of the person who runs it."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_FOREIGN = (
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HUGGING_FACE_HUB_TOKEN",
    "LLAVA_PACK_PREFIX",
    "SOURCE_DATE_EPOCH",
    "XDG_RUNTIME_DIR",
    "SSH_CONNECTION",
    "LANGUAGE",
    "LC_ALL",
    "LC_MESSAGES",
    "NO_COLOR",
    "FORCE_COLOR",
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
_LONG = (
    "functional/test_crossing.py",
    "functional/test_carried_python.py",
    "functional/test_build.py",
    "functional/test_parity_forms.py",
    "functional/test_recorded_answers.py",
    "functional/test_engine_native.py",
    "functional/test_build_layouts.py",
    "target/test_trust.py",
    "functional/test_plan.py",
    "target/test_bad_bundles.py",
    "target/test_probe.py",
    "functional/test_engine_exactness.py",
    "functional/test_lock.py",
    "functional/test_package_indexes.py",
    "faults/test_killed.py",
    "functional/test_quantize_ahead.py",
    "target/test_attacks.py",
    "target/test_install.py",
    "functional/test_serve_demo.py",
    "functional/test_engine_chat.py",
    "functional/test_memory_prediction.py",
    "functional/test_page.py",
    "functional/test_page_use.py",
    "functional/test_login.py",
)

# How long an example takes says how busy the machine is.
settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("few", settings.get_profile("patient"), max_examples=10)
settings.load_profile("patient")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: two workers then end together."""
    rank = {ROOT / "tests" / name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def scrubbed_environment(tmp_path_factory):
    """Take foreign settings away; Hugging Face's home and the run states are this run's own.

    What a script starts in the background ignores Ctrl-C, and so would all that tests start; modes
    of files are those of the usual umask.
    """
    _scrub()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o022)
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state-home"))
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf-home"))


@pytest.fixture(autouse=True)
def own_settings():
    """Start and end without settings: an engine in this process leaves some of its own."""
    _scrub()
    yield
    _scrub()


def _scrub():
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ["LANG"] = "C.UTF-8"
    if hub := sys.modules.get("huggingface_hub.constants"):
        hub.HF_HUB_OFFLINE = False  # what it read when it was imported, maybe beside an engine
