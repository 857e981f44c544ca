"""Whether this machine lets an account have namespaces of its own."""

import subprocess


def unshared(*flags: str) -> bool:
    """Say whether `unshare` works with these flags."""
    command = ["unshare", *flags, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
