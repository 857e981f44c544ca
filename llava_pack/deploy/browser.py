"""The page in the person's browser: its address holds a token, so no command line gets it."""

import html
import json
import os
import sys
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from llava_pack.format import files

_READ_S = 30.0
"""How long a browser may take to start."""


def has_browser(environ: Mapping[str, str]) -> bool:
    """Return whether a browser would have a screen: one in this terminal would not do.

    >>> has_browser({"DISPLAY": ":0"})
    True
    """
    if sys.platform in {"win32", "darwin"}:
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


@contextmanager
def shown(url: str, folder: Path | None = None) -> Iterator[bool]:
    """Open a page, and yield whether that could be done.

    The browser is given a file of this account that leads to the page, and not its address: every
    account of a machine can read the arguments of its programs. A browser in a sandbox of its own
    reads the home folder, and there nothing that is hidden.

    Args:
        url: with the token in its fragment.
        folder: for the file, which goes again in seconds; None for the home.
    """
    if not has_browser(os.environ):
        yield False
        return
    place = (folder or Path.home()) / f"llava-pack-page-{token_hex(8)}.html"
    gone = threading.Timer(_READ_S, _remove, [place])
    gone.daemon = True
    gone.start()
    try:
        yield _opened(place, url)
    finally:
        gone.cancel()
        _remove(place)


def _opened(place: Path, url: str) -> bool:
    """Write the file and have it opened; False where either cannot be."""
    try:
        files.write(place, redirect(url).encode(), 0o600, durable=False)
    except OSError:
        return False
    return webbrowser.open(place.as_uri())


def _remove(place: Path) -> None:
    with suppress(OSError):
        place.unlink()


def redirect(url: str) -> str:
    """Return a page that leads to `url` without a click, and by one.

    >>> "<script>" in redirect("http://localhost:7860/#token=a")
    True
    """
    link = html.escape(url, quote=True)
    script = json.dumps(url).replace("<", "\\u003c")
    return (
        '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<title>LLaVA</title><a href="{link}">LLaVA</a>'
        f"<script>location.replace({script})</script>\n"
    )
