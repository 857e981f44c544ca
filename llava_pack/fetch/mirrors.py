"""Mirrors: where a machine fetches from that does not reach the usual hosts.

They say where bytes are fetched and never what they are: digests, locks and bundle ids stay the
same. What a person has set in the environment or in a configuration file goes before a mirror.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llava_pack.fetch.remote import place
from llava_pack.format.errors import UsageError
from llava_pack.lock.configuration import uv_setting
from llava_pack.lock.indexes import configured_default

_TABLE = "mirrors.toml"
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Addresses in place of the usual ones; None leaves the usual one.

    Attributes:
        hub: in place of huggingface.co.
        index: in place of PyPI.
        python: in place of the releases of python-build-standalone.
        torch: in place of download.pytorch.org/whl; a folder for each backend is below it.
    """

    hub: str | None = None
    index: str | None = None
    python: str | None = None
    torch: str | None = None

    def beside(self, own: Mapping[str, str]) -> "Mirror":
        """Return what is left of it beside what a person has set, as `own_settings` finds it."""
        left = {each.name: getattr(self, each.name) for each in fields(self)}
        return Mirror(**{name: None if own.get(name) else text for name, text in left.items()})

    def lines(self, name: str, own: Mapping[str, str], *, token: bool) -> Iterator[str]:
        """Yield what it changes, a line each, and what it leaves because a person has set it.

        Args:
            name: what the person calls it.
            own: what the person has set.
            token: there is one for the Hub, which a mirror does not get.
        """
        for key, what in _WHAT.items():
            address = getattr(self, key)
            if address is not None and (setting := own.get(key)):
                yield f"mirror {name}: {what}: your own stays ({setting})"
            elif address is not None:
                yield f"mirror {name}: {what}: {place(address)}"
        if token and self.hub is not None and not own.get("hub"):
            yield f"mirror {name}: the Hub token is not sent to it; where HF_ENDPOINT is set, it is"


USUAL = Mirror()
"""No mirror: everything is fetched where it is published."""
_WHAT = {"hub": "the Hub", "index": "package index", "python": "CPython", "torch": "torch's index"}


def find_mirror(text: str) -> Mirror:
    """Return a mirror of the table by its name, or of a person's own `.toml` file.

    Raises:
        UsageError: there is none, or it is not written as one.

    >>> find_mirror("cn").hub
    'https://hf-mirror.com'
    """
    known = tomllib.loads(resources.files(__package__).joinpath(_TABLE).read_text("utf-8"))
    if text in known:
        return _mirror(known[text], text)
    path = Path(text)
    try:
        return _mirror(tomllib.loads(path.read_text("utf-8")), path.name)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(
            f"expected {' or '.join(known)}, or the path of a .toml file, got {text!r}",
            subject="--mirror",
            hint="docs/how-to/mirrors.md shows what such a file says",
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}", subject="--mirror") from error


def _mirror(table: Mapping[str, Any], name: str) -> Mirror:
    """Return a mirror of a table.

    Raises:
        UsageError: a key is unknown, or a value is not an address.
    """
    known = [each.name for each in fields(Mirror)]
    for key, value in table.items():
        if key not in known:
            raise UsageError(
                f"{name}: expected {', '.join(known)}, got {key!r}", subject="--mirror"
            )
        if not isinstance(value, str) or not _is_safe(value):
            raise UsageError(
                f"{name}: {key}: expected an address that begins with https://, got {value!r:.60}",
                subject="--mirror",
            )
    return Mirror(**{key: str(value).rstrip("/") for key, value in table.items()})


def _is_safe(address: str) -> bool:
    """Say whether nobody on the way can change what comes: https, or this machine itself."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _HERE))


def own_settings(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the settings of a person by the key of a mirror that each of them goes before.

    Args:
        environ: HF_ENDPOINT, and the variables of uv and pip.
        folder: where uv's project configuration is looked for.
    """
    root = Path(Path.cwd().anchor)  # uv is asked for CPython there: see llava_pack.fetch.python
    python = next(
        (
            found
            for variable, option in (
                ("UV_PYTHON_INSTALL_MIRROR", "python-install-mirror"),
                ("UV_PYTHON_DOWNLOADS_JSON_URL", "python-downloads-json-url"),
            )
            if (found := uv_setting(environ, root, variable, option))
        ),
        "",
    )
    hub = "HF_ENDPOINT" if environ.get("HF_ENDPOINT") else ""
    return {"hub": hub, "index": configured_default(environ, folder), "python": python}
