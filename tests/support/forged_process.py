"""A process that calls itself what it is told: `forged_process.py UID WORD… -- ROOM`.

It becomes another user, writes the words over its own command line, where ROOM makes room for them,
says so on stdout, and waits to be ended. No rights are needed for any of that.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_DUMPABLE = 4  # Source: linux/prctl.h


def call_itself(words: list[str]) -> None:
    """Write the words over this process's command line, as /proc shows it."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # Source: proc(5), stat, arg_start and arg_end
    line = "\0".join(words).encode() + b"\0"
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(line.ljust(end - start, b"\0"))


def main(arguments: list[str]) -> None:
    """Forge, and wait."""
    uid, *words = arguments[: arguments.index("--")]
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    call_itself(words)
    sys.stdout.write("forged\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
