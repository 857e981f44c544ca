"""The configuration of pip and of uv, read where each tool keeps it.

Source: pip's documentation, "Configuration"; uv's, "Configuration files".
"""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PIP_TIMEOUT_S = 60
_SECTIONS = ("global", "download", "install", ":env:")
"""Of pip's, the later one wins; what is said for other commands does not concern a download."""


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's effective settings by option name, as pip itself reports them.

    The pip of this Python is asked, else the one on the PATH; a machine without any has variables.
    """
    found = shutil.which("pip", path=environ.get("PATH")) or shutil.which("pip3")
    for pip in ([sys.executable, "-m", "pip"], [found] if found else []):
        if pip and (text := _pip_says(pip, environ)) is not None:
            return parse_pip_config(text)
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_")
    }


def _pip_says(pip: list[str], environ: Mapping[str, str]) -> str | None:
    command = [*pip, "config", "list", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=dict(environ),
            check=False,
            timeout=_PIP_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def parse_pip_config(text: str) -> dict[str, str]:
    r"""Return option names and values of `pip config list`; variables win over files.

    >>> parse_pip_config("global.cert='/a'\n:env:.find-links='/w'\nfreeze.user='1'\n")
    {'cert': '/a', 'find-links': '/w'}
    """
    rows = []
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if equals and option and section in _SECTIONS:
            rows.append((_SECTIONS.index(section), option, _plain(value.strip())))
    return {option: value for _, option, value in sorted(rows, key=lambda row: row[0])}


def _plain(value: str) -> str:
    """Return a value as it was written, its lines joined; pip shows it as a Python literal."""
    try:
        value = str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        value = value.strip("'\"")
    return " ".join(value.split())


def uv_indexes(environ: Mapping[str, str], folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the indexes of uv's configuration files: `url`, perhaps `name` and `default`.

    Args:
        environ: UV_CONFIG_FILE and UV_NO_CONFIG decide which files are read.
        folder: where a project's configuration is looked for, and above it.
    """
    found: list[Mapping[str, Any]] = []
    for table in _uv_tables(environ, folder):
        found += [one for one in table.get("index", []) if isinstance(one, dict)]
        pip = table.get("pip", {})
        for part in (table, pip if isinstance(pip, dict) else {}):
            if url := part.get("index-url"):
                found.append({"url": str(url), "default": True})
            found += [{"url": str(url)} for url in part.get("extra-index-url", [])]
    return tuple(one for one in found if isinstance(one.get("url"), str))


def uv_setting(environ: Mapping[str, str], folder: Path, variable: str, option: str) -> str:
    """Return where a setting of uv is written: its variable, or its files; empty where it is not.

    Args:
        environ: the variable wins, as it does for uv.
        folder: where a project's configuration is looked for, and above it.
        variable: of uv.
        option: the same in a file.
    """
    if environ.get(variable):
        return variable
    written = any(table.get(option) for table in _uv_tables(environ, folder))
    return f"{option} in uv's configuration" if written else ""


def _uv_tables(environ: Mapping[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield uv's tables, the project's first; a named file stands for all of them."""
    if environ.get("UV_NO_CONFIG"):
        return
    if named := environ.get("UV_CONFIG_FILE"):
        yield _read(Path(named))
        return
    for place in (folder, *folder.parents):
        own = _read(place / "uv.toml")
        project = _read(place / "pyproject.toml").get("tool", {}).get("uv")
        if own or project:
            yield own or project
            break
    for place in _config_folders(environ):
        yield _read(place / "uv" / "uv.toml")


def _config_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    if os.name == "nt":
        names = ("APPDATA", "PROGRAMDATA")
        return tuple(Path(environ[name]) for name in names if environ.get(name))
    user = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~", ".config")
    shared = [part for part in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if part]
    return (at_home(user), *map(Path, shared), Path("/etc"))


def at_home(place: str | Path) -> Path:
    """Return a path with `~` as the account's home; as it is where the account has none.

    >>> at_home("/etc/netrc").as_posix()
    '/etc/netrc'
    """
    with suppress(RuntimeError):
        return Path(place).expanduser()
    return Path(place)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # uv itself says what is wrong with it
