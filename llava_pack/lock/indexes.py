"""Where wheels come from: what pip and uv are configured with, as one value.

uv reads its own variables and files; it does not read pip's, and people behind mirrors have one
or the other. What pip is told and uv is not, is passed on to uv.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from llava_pack.lock.configuration import at_home, pip_settings, uv_indexes
from llava_pack.network.trust import VARIABLES

_YES = {"1", "true", "yes", "on"}
_KEYRING = {"subprocess", "import"}
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """What uv is told beside its own configuration, and who to be where.

    Attributes:
        find_links: folders and pages of wheels from pip's configuration.
        no_index: only find-links are asked.
        environment: variables for uv and for the downloader: indexes (a variable hides a password
            from `ps`), certificates, proxies. None of them is set already.
        urls: every index and page of wheels, with the user and password that somebody wrote there.
        keyring: passwords may be asked of the `keyring` program.
        torch: where torch's own indexes are, in place of download.pytorch.org/whl.
    """

    find_links: tuple[str, ...] = ()
    no_index: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    urls: tuple[str, ...] = field(default=(), repr=False)
    keyring: bool = False
    torch: str | None = None

    def arguments(self) -> list[str]:
        """Return uv's command line options."""
        options = [part for place in self.find_links for part in ("--find-links", place)]
        return [*options, *(["--no-index"] if self.no_index else [])]

    def local_folders(self) -> tuple[Path, ...]:
        """Return the find-links that are folders of this machine."""
        return tuple(path for place in self.find_links if (path := _folder(place)) is not None)


def configured_indexes(
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    *,
    mirror: str | None = None,
    torch: str | None = None,
    pip: Mapping[str, str] | None = None,
) -> Indexes:
    """Read pip's configuration (files and variables) and what uv already has.

    Args:
        environ: the process's own where it is left out.
        folder: where uv's project configuration is looked for; the working directory.
        mirror: the default index where neither uv nor pip has one.
        torch: where torch's own indexes are.
        pip: what pip says of its settings, where it was asked already.
    """
    env = dict(os.environ if environ is None else environ)
    pip = pip_settings(env) if pip is None else pip
    files = uv_indexes(env, Path.cwd() if folder is None else folder)
    uv_default = bool(_uv_default(env, files))
    uv_any = uv_default or bool(files or env.get("UV_INDEX") or env.get("UV_EXTRA_INDEX_URL"))
    passed = dict(_network(pip, env))
    if not uv_default and (index := pip.get("index-url") or mirror):
        passed["UV_DEFAULT_INDEX"] = index
    if not uv_any:
        passed |= _more_indexes(pip)
    uv_links = [place for place in env.get("UV_FIND_LINKS", "").split(",") if place]
    links = tuple(dict.fromkeys([*pip.get("find-links", "").split(), *uv_links]))
    from_pip = [pip.get("index-url", ""), *pip.get("extra-index-url", "").split(), mirror or ""]
    written = [*_uv_urls(env), *(_signed(one, env) for one in files), *from_pip, *links]
    keyring = env.get("UV_KEYRING_PROVIDER") or pip.get("keyring-provider")
    return Indexes(
        find_links=links,
        no_index=pip.get("no-index", "").lower() in _YES,
        environment=passed,
        urls=tuple(dict.fromkeys(url for url in written if url.startswith("http"))),
        keyring=keyring in _KEYRING,
        torch=torch,
    )


def configured_default(environ: Mapping[str, str], folder: Path) -> str:
    """Return where a person has set the default index: for uv, or for pip; empty where nowhere.

    Args:
        environ: variables of uv and pip.
        folder: where uv's project configuration is looked for.
    """
    if found := _uv_default(environ, uv_indexes(environ, folder)):
        return found
    return "index-url of pip" if pip_settings(environ).get("index-url") else ""


def _uv_default(environ: Mapping[str, str], files: Sequence[Mapping[str, Any]]) -> str:
    """Return where uv's default index is set."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if environ.get(name):
            return name
    return "uv's configuration" if any(one.get("default") for one in files) else ""


def _network(pip: Mapping[str, str], env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield certificates and proxy of pip where nothing else is set."""
    if (cert := pip.get("cert")) and not any(env.get(name) for name in VARIABLES):
        yield "PIP_CERT", cert
    proxies = {name for name in _PROXIES if env.get(name) or env.get(name.lower())}
    if (proxy := pip.get("proxy")) and not proxies:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        yield "HTTPS_PROXY", proxy
        yield "HTTP_PROXY", proxy


def _more_indexes(pip: Mapping[str, str]) -> dict[str, str]:
    """Return uv's variables for what else pip is told.

    pip takes the best version of all its indexes; uv would stop at the first that has a package.
    """
    found = {}
    if more := pip.get("extra-index-url", "").split():
        found = {"UV_INDEX": " ".join(more), "UV_INDEX_STRATEGY": "unsafe-best-match"}
    if hosts := pip.get("trusted-host", "").split():
        found["UV_INSECURE_HOST"] = " ".join(hosts)
    if pip.get("keyring-provider") in _KEYRING:
        found["UV_KEYRING_PROVIDER"] = "subprocess"
    return found


def _uv_urls(env: Mapping[str, str]) -> Iterator[str]:
    """Yield the indexes in uv's variables: `url` or `name=url`."""
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
        for text in env.get(variable, "").split():
            name, equals, url = text.partition("=")
            named = bool(equals) and "://" not in name
            yield _signed({"name": name, "url": url} if named else {"url": text}, env)


def _signed(index: Mapping[str, str], env: Mapping[str, str]) -> str:
    """Return an index's URL with the user and password that uv has for its name.

    Source: uv's documentation, "Package indexes", UV_INDEX_<NAME>_USERNAME.
    """
    url = str(index["url"])
    name = "".join(c if c.isalnum() else "_" for c in str(index.get("name") or "")).upper()
    user, password = (env.get(f"UV_INDEX_{name}_{what}") for what in ("USERNAME", "PASSWORD"))
    if not name or not (user or password):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user or ''}:{password or ''}@{host}"))


def _folder(place: str) -> Path | None:
    if place.startswith("file:"):
        place = unquote(urlsplit(place).path)
    path = at_home(place)
    return path if "://" not in place and path.is_dir() else None
