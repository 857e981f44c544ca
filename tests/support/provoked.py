"""Which test provokes a known failure for real."""

from tests.support.provocations import PROVOCATIONS

_SYMPTOMS = "tests/functional/test_symptoms.py"
_UPSTREAM = "`make test-upstream` (tests/upstream/symptoms.py)"

PROVOKED: dict[str, str] = {
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
    "clock-wrong": "tests/unit/health/test_machine.py",
}
