"""Real clients and proxies, each in an environment of its own, against the server they are told of.

    python tests/clients/run.py [FILE…]

Run by `make test-clients`. The first run downloads some 700 MB. What the pages of docs/how-to show is
what runs: the tests read commands and configurations out of them. They run in a namespace of its own
without a route to elsewhere, where ports are free and the names of the pages lead to loopback.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "clients"
ENVIRONMENTS = ROOT / ".venv-clients"
_PROGRAMS = {"nginx": "nginx-light", "caddy": "caddy", "prometheus": "prometheus", "ip": "iproute2"}
_OF_SYSTEM = "/usr/sbin:/sbin"
_NAMES = "127.0.0.1 localhost llava.corp hub.corp\n::1 localhost\n"
_FOLDERS = ("/etc/nginx", "/etc/caddy", "/etc/prometheus")
"""Covered by empty ones: configurations go where the pages say."""


def main(files: Sequence[str]) -> int:
    """Return pytest's exit code."""
    os.environ["PATH"] += f":{_OF_SYSTEM}"
    _need_programs()
    for requirements in sorted((HERE / "environments").glob("*.txt")):
        if "." not in requirements.stem:
            _make_environment(requirements)
    own = [str(path) for path in sorted(HERE.glob("*.py")) if path.name not in _NO_TESTS]
    test = [sys.executable, "-m", "pytest", "-n", "0", "-v", "-p", "no:cacheprovider"]
    return _within([*test, *(files or own)])


_NO_TESTS = {"run.py", "conftest.py"}


def _need_programs() -> None:
    """Install what Debian has, as .ci/run does, where that is allowed."""
    missing = [package for name, package in _PROGRAMS.items() if shutil.which(name) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(install, check=True, env=quiet)


def _make_environment(requirements: Path) -> None:
    """Make the environment of one client, where it is not there as it is asked for."""
    folder = ENVIRONMENTS / requirements.stem
    overrides = requirements.with_suffix(".without.txt")
    wanted = requirements.read_text() + (overrides.read_text() if overrides.exists() else "")
    made = folder / "made-of.txt"
    if made.exists() and made.read_text() == wanted:
        return
    uv = find_uv_bin()
    subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, folder], check=True)
    install = [
        uv,
        "pip",
        "install",
        "-q",
        "--compile-bytecode",
        "--python",
        folder / "bin" / "python",
    ]
    install += ["-r", requirements, *(["--overrides", overrides] if overrides.exists() else [])]
    subprocess.run(install, check=True)
    made.write_text(wanted)


def _within(command: Sequence[str]) -> int:
    """Run a command where no network is and the names of the pages lead to loopback."""
    hosts = ENVIRONMENTS / "hosts"
    hosts.write_text(_NAMES)
    covered = " && ".join(f"{{ [ ! -d {at} ] || mount -t tmpfs own {at}; }}" for at in _FOLDERS)
    steps = f"ip link set lo up && {covered} && mount --bind {hosts} /etc/hosts"
    inside = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", f'{steps} && exec "$@"']
    environ = {**os.environ, "TEST_CLIENTS": str(ENVIRONMENTS)}
    return subprocess.run([*inside, "sh", *command], cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
