"""Where wheels come from: what pip and uv are configured with, read the way each tool does.

uv reads its own variables and files; it does not read pip's, and people behind mirrors have one
or the other. What pip is told and uv is not, is passed on to uv.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """What uv is told beside its own configuration.

    Attributes:
        find_links: folders and pages of wheels from pip's configuration.
        index_url: pip's index where uv has none of its own, else None.
        no_index: only find-links are asked.
        environment: variables to add to uv's, such as the certificate bundle.
    """

    find_links: tuple[str, ...] = ()
    index_url: str | None = None
    no_index: bool = False
    environment: Mapping[str, str] | None = None

    def arguments(self) -> list[str]:
        """Return uv's command line options."""
        options = [part for place in self.find_links for part in ("--find-links", place)]
        if self.index_url is not None:
            options += ["--default-index", self.index_url]
        return [*options, *(["--no-index"] if self.no_index else [])]

    def local_folders(self) -> tuple[Path, ...]:
        """Return the find-links that are folders of this machine."""
        return tuple(path for place in self.find_links if (path := _folder(place)) is not None)


def configured_indexes(environ: Mapping[str, str] | None = None) -> Indexes:
    """Read pip's configuration (files and variables) and what uv already has."""
    env = dict(os.environ if environ is None else environ)
    settings = pip_settings(env)
    uv_places = [p for p in env.get("UV_FIND_LINKS", "").split(",") if p]
    uv_has_index = any(env.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"))
    certificate = settings.get("cert")
    extra = {"SSL_CERT_FILE": certificate} if certificate and "SSL_CERT_FILE" not in env else {}
    if not uv_has_index and not env.get("UV_INDEX") and not env.get("UV_EXTRA_INDEX_URL"):
        extra |= _more_indexes(settings)
    return Indexes(
        find_links=tuple(dict.fromkeys([*settings.get("find-links", "").split(), *uv_places])),
        index_url=None if uv_has_index else settings.get("index-url"),
        no_index=settings.get("no-index", "").lower() in {"1", "true", "yes", "on"},
        environment=extra,
    )


def _more_indexes(settings: Mapping[str, str]) -> dict[str, str]:
    """Return uv's variables for what else pip is told; a variable hides a password from `ps`.

    pip takes the best version of all its indexes; uv would stop at the first that has a package.
    """
    found = {}
    if more := settings.get("extra-index-url", "").split():
        found = {"UV_INDEX": " ".join(more), "UV_INDEX_STRATEGY": "unsafe-best-match"}
    if hosts := settings.get("trusted-host", "").split():
        found["UV_INSECURE_HOST"] = " ".join(hosts)
    if settings.get("keyring-provider") in {"subprocess", "import"}:
        found["UV_KEYRING_PROVIDER"] = "subprocess"
    return found


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's effective settings by option name, as `pip config list` reports them.

    Files first, then variables, which win; a machine without pip has none.
    """
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, env=dict(environ), check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_pip_config(listed.stdout) if listed.returncode == 0 else {}


def parse_pip_config(text: str) -> dict[str, str]:
    r"""Return option names and values of `pip config list`; `:env:` wins over files.

    >>> parse_pip_config("global.cert='/a'\n:env:.find-links='/w'\n")
    {'cert': '/a', 'find-links': '/w'}
    """
    rows = []
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if equals and option:
            plain = value.strip().strip("'\"").replace("\\n", " ").strip()
            rows.append((section == ":env:", option, plain))
    return {option: value for _, option, value in sorted(rows, key=lambda row: row[0])}


def _folder(place: str) -> Path | None:
    if place.startswith("file:"):
        place = unquote(urlsplit(place).path)
    path = Path(place).expanduser()
    return path if "://" not in place and path.is_dir() else None
