"""Paths as people get them into a terminal: typed, quoted, escaped, dropped with the mouse.

Source: RFC 8089 (file: URLs); POSIX, "Shell Command Language", 2.2 (quoting).
"""

import os
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit


def path_of(word: str) -> str:
    """Return the path that a word means: a file: URL's is decoded, anything else stays as it is.

    >>> path_of("file:///tmp/a%20b.png"), path_of("/tmp/a%20b.png")
    ('/tmp/a b.png', '/tmp/a%20b.png')
    """
    url = urlsplit(word) if word[:7].lower() == "file://" else None
    return unquote(url.path) if url and url.netloc in ("", "localhost") else word


def paths_in(text: str) -> list[str]:
    r"""Return the paths in a line, as a file manager or a person put them there.

    A line that is a file's name as it stands is that file, whatever characters are in it.

    >>> paths_in(r"'/a b.png' /c\ d.png file:///e%20f.png")
    ['/a b.png', '/c d.png', '/e f.png']
    """
    text = text.strip()
    if not text or _is_file(text):
        return [text] if text else []
    try:
        words = shlex.split(text)
    except ValueError:  # a lone quote is a letter of a name
        return [path_of(text)]
    paths = [path_of(word) for word in words]
    plain = not any(mark in text for mark in "'\"\\") and "file://" not in text.lower()
    return [text] if plain and not any(map(_is_file, paths)) else paths


def dropped_files(line: str) -> list[str]:
    """Return the files that a line names and has nothing but; none where it is anything else."""
    if not line.lower().startswith(("/", "~", "'", '"', "file://")):
        return []
    paths = paths_in(line)
    return paths if all(map(_is_file, paths)) else []


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(Path(path).expanduser())  # noqa: PTH113 - of any text, without raising
    except (ValueError, RuntimeError):  # no user of that name
        return False
