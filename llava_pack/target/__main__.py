"""Start of the copied installer: sys.path holds the folder of the copies and the stdlib."""

import sys

if not __package__:
    # run as a folder: its modules must not shadow the stdlib's, so what holds the package takes
    # its place
    sys.path[0] = sys.path[0].removesuffix("/llava_pack/target")

from llava_pack.target import silence
from llava_pack.target.main import main

if __name__ == "__main__":
    silence.fence()
    sys.exit(main())
