"""A standalone CPython for the target, as uv knows them.

uv's own list is asked, so its mirrors are honoured: UV_PYTHON_INSTALL_MIRROR and
UV_PYTHON_DOWNLOADS_JSON_URL, or the same in a person's uv.toml.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from llava_pack.fetch.patience import patiently
from llava_pack.fetch.remote import RemoteFile, Sha256, place
from llava_pack.fetch.transport import Transport
from llava_pack.format.errors import FetchError, NetworkError, PackError
from llava_pack.network.front import read_front

_UV_TIMEOUT_S = 60.0
_WIDE = "1000"
"""So that uv breaks no message over two lines."""
_SUMS_AT_MOST_BYTES = 4 << 20
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_ARCHIVE = re.compile(r"cpython-.*-install_only(_stripped)?\.tar\.gz")
_SYSTEMS = {
    "x86_64-unknown-linux-gnu": "linux-x86_64-gnu",
    "aarch64-unknown-linux-gnu": "linux-aarch64-gnu",
}


@dataclass(frozen=True, kw_only=True)
class Standalone:
    """A CPython archive to fetch, or why there is none.

    Attributes:
        version: for example 3.11.18; empty without an archive.
        file: what to give to `download_all`; its top folder is `python/`.
        reason: why `file` is None.
    """

    version: str = ""
    file: RemoteFile | None = None
    reason: str = ""


def find_standalone(python: str, triple: str, *, mirror: str | None = None) -> Standalone:
    """Return the newest standalone CPython of the series `python` for `triple`.

    The archive's digest comes from the list of checksums beside it, where there is one.

    Args:
        python: a series like 3.11, or one version like 3.11.9.
        triple: for example x86_64-unknown-linux-gnu.
        mirror: of the archives, in place of uv's.

    Raises:
        NetworkError: the list, or the host that keeps the archives, cannot be reached.
        FetchError: uv cannot be run, or does not understand its configured list.
    """
    found = listed_standalone(python, triple, mirror=mirror)
    if found.file is None:
        return found
    return replace(found, file=replace(found.file, digest=_promised(found.file.url)))


def listed_standalone(python: str, triple: str, *, mirror: str | None = None) -> Standalone:
    """Return the same as uv's list has it, without a digest: no archive's host is asked.

    Raises:
        NetworkError: the list cannot be reached.
        FetchError: uv cannot be run, or does not understand its configured list.
    """
    system = _SYSTEMS.get(triple)
    if system is None:
        return Standalone(reason=f"no standalone CPython is known for {triple}")
    for entry in _list(f"cpython-{python}-{system}", mirror):
        url = str(entry.get("url") or "")
        if entry.get("variant") == "default" and _ARCHIVE.fullmatch(_file_name(url)):
            version = str(entry["version"])
            name = f"cpython-{version}-{triple}.tar.gz"
            return Standalone(version=version, file=RemoteFile(url=url, name=name))
    return Standalone(reason=f"uv has no standalone CPython {python} for {triple}")


def _list(request: str, mirror: str | None) -> list[dict[str, Any]]:
    """Return uv's downloads for `request`, newest first."""
    from uv import find_uv_bin

    own = {} if mirror is None else {"UV_PYTHON_INSTALL_MIRROR": mirror}
    arguments = ["--all-versions", "--only-downloads", "--output-format", "json", request]
    try:
        done = subprocess.run(
            [find_uv_bin(), "python", "list", *arguments],
            cwd=Path.cwd().anchor,  # a person's mirrors count, a project's configuration does not
            env={**read_front(os.environ).environment(os.environ), **own, "COLUMNS": _WIDE},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_UV_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"uv does not respond: {error}", subject="uv python list") from error
    if done.returncode != 0:
        raise _complaint(done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _complaint(stderr: str) -> PackError:
    lines = stderr.strip().splitlines() or ["no message"]
    said = lines[0].removeprefix("error: ")
    kind = NetworkError if "fetch" in said.lower() else FetchError
    return kind(
        said,
        subject="uv python list",
        hint="check UV_PYTHON_DOWNLOADS_JSON_URL and the network",
    )


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]


def _promised(url: str) -> Sha256 | None:
    """Return the archive's digest from SHA256SUMS in the same folder; None where it has none."""
    folder = url.rpartition("/")[0]
    sums = RemoteFile(url=f"{folder}/SHA256SUMS", name="SHA256SUMS")
    try:
        with Transport(connections=1, connect_s=15.0, read_s=30.0) as transport:

            def ask() -> str:
                with transport.open_stream(sums) as response:
                    return _text(response)

            text = patiently(ask)
    except FetchError:  # a mirror that keeps the archives alone
        return None
    wanted = _file_name(url).replace("%2B", "+")
    for line in text.splitlines():
        match = _SUM.fullmatch(line.strip())
        if match and match[2] == wanted:
            return Sha256(match[1].lower())
    return None


def _text(response: httpx.Response) -> str:
    data = b""
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > _SUMS_AT_MOST_BYTES:
            raise FetchError(
                f"larger than {_SUMS_AT_MOST_BYTES} bytes", subject=place(str(response.url))
            )
    return data.decode("utf-8", "replace")
