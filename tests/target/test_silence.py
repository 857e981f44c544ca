"""Silence of an installation: fenced processes, a trace of everything else, and the receipt."""

import json
import re
import shutil
import socket
import subprocess
import sys

import pytest

from llava_pack.target import silence
from tests.support.bundle import CHECKOUT, SMOKE_PASSES
from tests.support.traces import reached, traced

FENCE = CHECKOUT / "llava_pack/target/silence.py"
REACHING = {
    "a name": "socket.getaddrinfo('example.org', 443)",
    "an old name": "socket.gethostbyname('example.org')",
    "an address": "socket.create_connection(('192.0.2.1', 443), timeout=1)",
    "a packet": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))",
    "IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'', ('2001:db8::1', 9))",
}


def fenced(tmp_path, code):
    (tmp_path / "asked.py").write_text(f"import socket\n{code}\nprint('went on')\n")
    command = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['', 'asked'];"
    command += f"import runpy; runpy.run_path({str(FENCE)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", command], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("code", REACHING.values(), ids=REACHING)
def test_a_fenced_process_ends_when_it_reaches_out(tmp_path, code):
    done = fenced(tmp_path, f"try:\n    {code}\nexcept BaseException:\n    pass")
    assert (done.returncode, done.stdout) == (silence.REACHED_OUT, "")
    assert "expected no network access" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_fenced_process_may_speak_to_itself(tmp_path, host):
    done = fenced(
        tmp_path,
        f"with socket.create_server(('127.0.0.1', 0)) as s:\n    socket.getaddrinfo({host!r}, 80)",
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


@pytest.mark.parametrize(
    "after", [REACHING["a name"], REACHING["an address"].replace(".1'", ".2'")]
)
def test_the_gap_in_a_fence_is_for_the_host_that_was_named_alone(after):
    code = "import socket\nfrom llava_pack.target import silence\nsilence.fence()\n"
    code += (
        "try:\n    silence.connect('192.0.2.1', 443, 0.01)\nexcept OSError:\n    print('went on')\n"
    )
    code += f"import sys; sys.stdout.flush()\n{after}\nprint('too far')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    assert (done.returncode, done.stdout) == (silence.REACHED_OUT, "went on\n"), done.stderr


def test_a_model_that_reaches_out_is_not_installed(host, medium):
    reaching = f"import socket\ntry:\n    {REACHING['a name']}\nexcept OSError:\n    pass\n"
    done = host.install_sh(medium(smoke=reaching + SMOKE_PASSES))
    assert done.returncode == 9
    assert "tried to reach 'example.org', expected no network access" in done.stderr
    assert host.current() is None


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_no_process_of_an_installation_speaks_to_anybody(host, medium, tmp_path):
    log = tmp_path / "trace"
    done = host.install_sh(medium(real_uv=True), wrap=traced(log))
    assert done.returncode == 0, done.stderr
    assert reached(log, "sh") == (0, [])
    facts = json.loads((host.prefix / "models/tiny/current/receipt.json").read_text())["silence"]
    assert (facts["installer"], facts["smoke test"]) == ("fenced", "fenced")
    assert facts["uv"] == "run with --offline and without an index"


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_the_trace_would_have_seen_it(tmp_path):
    log = tmp_path / "trace"
    command = [
        sys.executable,
        "-c",
        f"import socket\ntry:\n    {REACHING['a packet']}\nexcept OSError: pass",
    ]
    subprocess.run([*traced(log), "sh", "-c", '"$@"; true', "sh", *command], check=True)
    spoken, outside = reached(log, "sh")
    assert (spoken, outside[0].startswith("192.0.2.1 port 9")) == (1, True)


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.parametrize(
    "code",
    [
        "there.connect('io.systemd.Resolve')",
        "there.connect('nscd'); there.send(b'\\2\\0\\0\\0\\r\\0\\0\\0\\6\\0\\0\\0hosts\\0')",
    ],
    ids=["systemd-resolved", "nscd"],
)
def test_a_name_that_a_daemon_here_looks_up_is_seen_too(tmp_path, code):
    log = tmp_path / "trace"
    name = re.search(r"'([^']+)'", code)[1]
    code = code.replace(f"'{name}'", repr(str(tmp_path / name)))
    program = f"import socket; there = socket.socket(socket.AF_UNIX); {code}"
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(tmp_path / name))
        daemon.listen()
        command = [sys.executable, "-c", program]
        subprocess.run([*traced(log), "sh", "-c", '"$@"; true', "sh", *command], check=True)
    spoken, outside = reached(log, "sh")
    assert (spoken, len(outside)) == (0, 1)
