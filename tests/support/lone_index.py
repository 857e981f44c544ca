"""Run a command where one package index is, and no other host: `lone_index.py FOLDER COMMAND…`.

It runs in a network namespace of its own; the index has an address that is not loopback's.
"""

import subprocess
import sys
from pathlib import Path

from tests.support.index import LoopbackIndex

HOST, PORT = "192.0.2.7", 8080
URL = f"http://{HOST}:{PORT}/simple/"
"""Source of the address: RFC 5737, for documentation: nobody's."""


def main(folder: str, *command: str) -> int:
    """Give loopback that address, open the index, and return how the command ended."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{HOST}/32", "dev", "lo"], check=True)
    with LoopbackIndex([Path(folder)], host=HOST, port=PORT):
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
