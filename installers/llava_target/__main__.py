"""Start of the copied installer: sys.path holds the folder of the copies and the stdlib."""

import sys

if not __package__:
    # run as a folder: its own modules must not shadow the stdlib's, so its parent takes its place
    sys.path[0] = sys.path[0].rpartition("/")[0]

from llava_target import silence
from llava_target.main import main

if __name__ == "__main__":
    silence.fence()
    sys.exit(main())
