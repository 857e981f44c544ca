"""Exit codes of every command but `health`; a code never changes its meaning.

Source: docs/reference/exit-codes.md.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status says."""

    OK = 0
    BUG = 1
    USAGE = 2
    PREFLIGHT = 3
    INTEGRITY = 4
    SIGNATURE = 5
    CANNOT_VERIFY = 6
    SPACE = 7
    DOWNGRADE = 8
    NETWORK = 9
    RECIPE = 10
    FETCH = 11
    ACCESS = 12
    CHECKPOINT = 13
    INSTALL = 14
    SERVE = 15
