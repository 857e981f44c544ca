"""An account with a password on this machine, for as long as a test runs; only root makes one."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import until

NAME = "lp-tester"
PASSWORD = "correct horse"  # of an account that lives for seconds


@contextmanager
def account(home: Path) -> Iterator[str]:
    """Make the account, and remove it again."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    useradd, userdel = (shutil.which(name) or name for name in ("useradd", "userdel"))
    words = ["-M", "-d", str(home), "-s", "/bin/sh", "-p", hashed, NAME]
    subprocess.run([useradd, *words], check=True)
    try:
        yield NAME
    finally:
        # its last process may be ending: the one of sshd for a connection that was closed just now
        until(lambda: subprocess.run([userdel, NAME], check=False).returncode == 0, within_s=30)


def asking(folder: Path) -> tuple[dict[str, str], Path]:
    """Return the variables by which ssh gets the password, and the file with a line for each time."""
    program, log = folder / "askpass", folder / "asked"
    program.write_text(f'#!/bin/sh\necho asked >>"{log}"\necho "{PASSWORD}"\n')
    program.chmod(0o755)
    log.touch()
    return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}, log
