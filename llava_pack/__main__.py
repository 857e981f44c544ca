"""`python -m llava_pack` is `llava-pack`."""

import sys

from llava_pack.cli import main

if __name__ == "__main__":
    sys.exit(main())
