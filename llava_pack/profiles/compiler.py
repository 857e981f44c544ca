"""The C compiler of an engine that compiles while it serves, where the machine has none.

ziglang is a wheel that holds one; Triton asks for a compiler as one word, so a script stands
between them. Source: triton, python/triton/runtime/build.py, `_build`.
"""

import hashlib
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from llava_pack.format import files

_COMPILERS = ("cc", "gcc", "clang")
_PACKAGE = "lib/python3*/site-packages/ziglang"
_MODE = 0o700


def lacks_compiler(
    python: Path, search_path: str, find: Callable[..., str | None] = shutil.which
) -> bool:
    """Return whether the machine has no compiler, and the environment of a Python brings one.

    Args:
        python: the interpreter of the engine's environment.
        search_path: the `PATH` that the engine has.
        find: looks up a program in it.
    """
    if any(find(name, path=search_path) for name in _COMPILERS):
        return False
    return any(python.parent.parent.glob(_PACKAGE))


def compiler_script(python: Path) -> str:
    """Return a script that is a C compiler.

    >>> print(compiler_script(Path("/e n/python")), end="")
    #!/bin/sh
    exec '/e n/python' -I -m ziglang cc "$@"
    """
    return f'#!/bin/sh\nexec {shlex.quote(str(python))} -I -m ziglang cc "$@"\n'


def write_compiler(python: Path, folder: Path) -> dict[str, str]:
    """Write the script into a private folder, and return what an engine is told of it.

    Another start may run the script that is there; it also keeps its own libraries there, once
    they are compiled.
    """
    script = folder / f"cc-{hashlib.sha256(str(python).encode()).hexdigest()[:8]}"
    folder.mkdir(mode=_MODE, exist_ok=True)
    with files.replacing(script, _MODE) as file:
        file.write(compiler_script(python).encode())
    return {
        "CC": str(script),
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig"),
    }
