"""What shells read and write: command lines to paste, for sh, cmd.exe and PowerShell; their `>`."""

import codecs
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

_BARE = re.compile(r"[\w./\\:+=-][\w./\\:+=@~-]*")


def pasted(words: Sequence[str], platform: str = sys.platform) -> str:
    """Return a command line for the shells of a machine.

    Args:
        words: program and arguments.
        platform: as `sys.platform` names it.

    >>> pasted(["scp", "-r", "my bundle", "me@gpu01:"], "linux")
    "scp -r 'my bundle' me@gpu01:"
    """
    return for_windows(words) if platform == "win32" else shlex.join(words)


def for_windows(words: Sequence[str]) -> str:
    r"""Return a command line that cmd.exe and PowerShell read alike.

    Neither leaves everything alone between double quotes: cmd.exe replaces %NAME% there, and
    PowerShell $NAME. A word with one of these has to be typed by hand.

    >>> for_windows(["scp", "-r", r"C:\my models\demo", "me@gpu01:"])
    'scp -r "C:\\my models\\demo" me@gpu01:'
    """
    return " ".join(map(_for_windows, words))


def _for_windows(word: str) -> str:
    r"""Return one word, quoted as the C runtime takes it apart.

    >>> print(_for_windows("a&b"), _for_windows(""), _for_windows("a b\\"))
    "a&b" "" "a b\\"
    """
    if _BARE.fullmatch(word):
        return word
    quoted = subprocess.list2cmdline([word])
    if quoted.startswith('"'):
        return quoted
    ending = quoted[len(quoted.rstrip("\\")) :]  # a backslash before a quote counts as one of two
    return f'"{quoted}{ending}"'


def redirected(data: bytes) -> str:
    r"""Return the text that `>` of a shell wrote: of Windows PowerShell, that is UTF-16.

    >>> redirected("need:1f\r\n".encode("utf-16")), redirected(b"need:1f\n")
    ('need:1f\r\n', 'need:1f\n')
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", "replace")
