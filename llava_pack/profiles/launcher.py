"""Runs a module of an engine with a key that no list of processes shows; stdlib only.

    python -I -X faulthandler launcher.py OPTION,OPTION… -m MODULE ARGUMENT…

The engine's own interpreter runs this file; its environment has no llava_pack. The key comes in a
variable, which is gone before anything of the engine runs, so that what the engine starts does not
inherit it. Each OPTION ends the arguments with the key behind it. What is printed goes to stderr,
where whoever started this reads.

The module becomes `__main__` as with `python -m`: what starts processes by `multiprocessing`
finds it by its name there, and this file is run once.
"""

import os
import runpy
import sys

KEY_VARIABLE = "LLAVA_PACK_ENGINE_KEY"
_STDOUT, _STDERR = 1, 2


def main(argv: list[str]) -> None:
    """Become the module, with its arguments and the key."""
    options, dash_m, module, *arguments = argv
    if dash_m != "-m":
        raise SystemExit(f"expected -m and a module, got {dash_m}")
    key = os.environ.pop(KEY_VARIABLE, "")
    told = [word for option in options.split(",") if key and option for word in (option, key)]
    os.dup2(_STDERR, _STDOUT)
    sys.argv = [module, *arguments, *told]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
