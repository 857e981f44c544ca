"""Which test provokes a known failure for real."""

from llava_pack.health.knowledge import known_failures
from tests.support.provocations import PROVOCATIONS

_SYMPTOMS = "tests/functional/test_symptoms.py"
_UPSTREAM = "`make test-upstream` (tests/upstream/symptoms.py)"
_MESSAGES = "tests/architecture/test_messages.py"
_ROOM = "llava_pack/checkpoint/"

SPOKEN = [one.id for one in known_failures() if all(_ROOM in source for source in one.sources)]
"""Those that `checkpoint/` tells in its own words: what its unit tests provoke."""

PROVOKED: dict[str, str] = {
    **dict.fromkeys(SPOKEN, _MESSAGES),
    **{one.__name__.replace("_", "-"): _SYMPTOMS for one in PROVOCATIONS},
    **dict.fromkeys(
        (
            "numpy-unavailable",
            "protobuf-missing",
            "tunnel-leads-nowhere",
            "forwarding-prohibited",
            "local-port-taken",
            "ssh-key-refused",
            "ssh-unreachable",
            "ssh-host-key-changed",
            "gated-repository",
            "no-exec",
        ),
        _SYMPTOMS,
    ),
    **dict.fromkeys(
        (
            "gradio-fastapi-schema",
            "gradio-starlette-1",
            "localhost-not-accessible",
            "hf-folder",
            "numpy-2",
            "name-without-llava",
            "tower-unknown",
            "lora-without-base",
        ),
        _UPSTREAM,
    ),
    "wrong-token": "tests/functional/test_serve_api.py",
    "xid": "tests/unit/health/test_gpu.py",
    "no-gpu-found": "tests/unit/health/test_gpu.py, tests/functional/test_symptoms.py",
    "files-changed": "tests/functional/test_health_command.py",
    "file-system-unfit": "tests/target/test_file_systems.py",
    "clock-wrong": "tests/unit/health/test_machine.py",
}
