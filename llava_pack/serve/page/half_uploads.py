"""Uploads that come to nothing leave nothing: the library keeps what it wrote of them.

Its parser writes each file of a form beside the uploads first. A client that goes away, a form
beyond its bound, a part under another name: each leaves that file, for as long as the server runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

_written: ContextVar[list[Path] | None] = ContextVar("written", default=None)


def note_files_of_forms(parsing: Any) -> None:
    """Have each file that the library makes for a form noted.

    Args:
        parsing: the library's module that parses forms.
    """
    parsing.NamedTemporaryFile = _noted


def _noted(*arguments: Any, **named: Any) -> Any:
    file = NamedTemporaryFile(*arguments, **named)  # noqa: SIM115 - the library closes it
    written = _written.get()
    if written is not None:
        written.append(Path(file.name))
    return file


@contextmanager
def half_uploads_removed() -> Iterator[None]:
    """Remove what a form left under the names that its files had while they came."""
    written: list[Path] = []
    token = _written.set(written)
    try:
        yield
    finally:
        _written.reset(token)
        for file in written:
            file.unlink(missing_ok=True)
