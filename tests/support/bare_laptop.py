"""llava-pack as on a laptop that has only the packing half: `python -m tests.support.bare_laptop`.

What a server has beside it, Pillow and torch among others, cannot be imported in this process.
"""

import sys

SERVER_ONLY = ("PIL", "pillow_heif", "numpy", "torch", "transformers", "safetensors", "fastapi")

if __name__ == "__main__":
    for name in SERVER_ONLY:
        sys.modules[name] = None  # type: ignore[assignment] # neither found nor importable
    from llava_pack.cli import main

    sys.exit(main(sys.argv[1:]))
