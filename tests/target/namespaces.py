"""What only namespaces can show: other programs where programs are, and another account."""

import subprocess

AS_A_USER = ("unshare", "-U", "--map-user=1000", "--map-group=1000")

NAMELESS = ("unshare", "-U", "--map-user=12345", "--map-group=12345", "env", "-i")
"""As containers run it: a number without a name, and nothing in its environment."""


def allowed(*command):
    """Say whether such a namespace can be had here."""
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


def may_mount():
    return allowed("unshare", "-rm")


def covering(files):
    """Return a prefix for a command that sees each file covered by another."""
    mounts = " && ".join(f"mount --bind {fake} {place}" for place, fake in files.items())
    return ("unshare", "-rm", "sh", "-c", f'{mounts} && exec "$@"', "sh")
