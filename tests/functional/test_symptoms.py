"""Known failures provoked for real, and recognised by what the programs themselves say."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.health.knowledge import known_failures, recognise
from tests.conftest import ROOT
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.ports import quiet_ports
from tests.support.provocations import PROVOCATIONS
from tests.support.sshd import LoopbackSshd

DEMO = ROOT / "bundles/demo-model/llava-v1-demo"
FAILURES = known_failures()


def codes(text):
    return [failure.id for failure in recognise(text, FAILURES)]


@pytest.fixture(scope="module")
def said():
    """Return what each library said, all provoked in one process."""
    command = [sys.executable, str(ROOT / "tests/support/provocations.py"), str(DEMO)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return json.loads(done.stdout)


@pytest.mark.engine
@pytest.mark.parametrize("provoke", PROVOCATIONS, ids=lambda provoke: provoke.__name__)
def test_a_library_that_fails_is_understood(said, provoke):
    code = provoke.__name__.replace("_", "-")
    assert codes(said[code])[0] == code


@pytest.mark.engine
@pytest.mark.parametrize(
    ("missing", "statement", "code"),
    [
        ("numpy", "import torch; torch.zeros(1).numpy()", "numpy-unavailable"),
        (
            "google.protobuf",
            f"import transformers; transformers.AutoTokenizer.from_pretrained({str(DEMO)!r})",
            "protobuf-missing",
        ),
    ],
)
def test_a_package_that_is_missing_is_named(missing, statement, code):
    program = f"import sys; sys.modules[{missing!r}] = None; {statement}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert codes(done.stderr) == [code]


def test_a_repository_that_is_gated_is_named(tmp_path):
    program = (
        "import huggingface_hub; huggingface_hub.hf_hub_download('someone/gated', 'config.json')"
    )
    with LoopbackHub({"someone/gated": RepoSpec(folder=DEMO, gated=True)}) as hub:
        environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        )
    assert codes(done.stderr) == ["gated-repository"]


@pytest.mark.namespace
def test_a_disk_that_may_run_nothing_is_named(tmp_path):
    steps = (
        'mount -t tmpfs -o noexec none "$1" && cp "$2" "$1/library.so" && '
        'exec "$3" -c "import ctypes, sys; ctypes.CDLL(sys.argv[1])" "$1/library.so"'
    )
    library = importlib.util.find_spec("_hashlib").origin
    command = ["unshare", "-rm", "sh", "-c", steps, "sh", str(tmp_path), library, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert codes(done.stderr) == ["no-exec"]


@pytest.fixture(scope="module", params=["yes", "no"])
def sshd(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"sshd-{request.param}")
    with LoopbackSshd(folder, settings={"AllowTcpForwarding": request.param}) as server:
        yield request.param, server


def ssh(server, *options, user=None):
    """Return an ssh command to the server."""
    found = [part for option in server.options for part in ("-o", option)]
    return ["ssh", "-F", "/dev/null", *found, "-p", str(server.port), *options,
            f"{user or server.user}@127.0.0.1"]  # fmt: skip


def test_a_tunnel_that_sshd_forbids_or_that_leads_nowhere(sshd):
    allowed, server = sshd
    local, nowhere = quiet_ports(2)
    command = ssh(server, "-v", "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{nowhere}")
    with (
        contextlib.ExitStack() as opened,
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tunnel,
    ):
        said = ""
        for line in tunnel.stderr:
            said += line if not line.startswith("debug") else ""
            if "Entering interactive session" in line:
                opened.enter_context(socket.create_connection(("127.0.0.1", local), timeout=200))
            if "open failed" in line:
                break
        tunnel.terminate()
    wanted = "tunnel-leads-nowhere" if allowed == "yes" else "forwarding-prohibited"
    assert codes(said)[0] == wanted


def test_the_laptops_port_is_taken(sshd):
    _, server = sshd
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        forward = ["-o", "ExitOnForwardFailure=yes", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:1"]
        done = subprocess.run(
            ssh(server, *forward), capture_output=True, text=True, check=False, timeout=300
        )
    assert codes(done.stderr)[0] == "local-port-taken"


def test_a_server_that_does_not_let_in_or_is_another_or_is_not_there(sshd, tmp_path):
    _, server = sshd
    known = tmp_path / "known"
    other = Path(server.options[0].partition("=")[2] + ".pub").read_text()
    known.write_text(f"[127.0.0.1]:{server.port} {other}")
    command = ssh(server)
    command[1:1] = ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert codes(done.stderr)[0] == "ssh-host-key-changed"
    done = subprocess.run(
        ssh(server, user="nobody"), capture_output=True, text=True, check=False, timeout=300
    )
    assert codes(done.stderr)[0] == "ssh-key-refused"
    [port] = quiet_ports(1)
    absent = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-p", str(port), "127.0.0.1"]
    done = subprocess.run(absent, capture_output=True, text=True, check=False, timeout=300)
    assert codes(done.stderr)[0] == "ssh-unreachable"
