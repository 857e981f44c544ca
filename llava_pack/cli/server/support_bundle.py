"""`llava-pack support-bundle`: one small file for support, made of known fields only."""

import getpass
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.format.errors import SpaceError, UsageError, reason_of
from llava_pack.format.text import human_bytes
from llava_pack.installation.prefix import chosen_prefix
from llava_pack.serve.run_state import RunState, directories, running
from llava_pack.shipped import shipped

if TYPE_CHECKING:
    from llava_pack.health.evidence import Document, Reader
    from llava_pack.health.support import SupportContents

_HEALTH_S = 15.0
_LOOPBACK = ("127.", "::1", "localhost")
_NOT_SECRET = frozenset({"host", "socket", "bundle_id", "control", "log", "controller"})
"""Texts of a run state that anybody on the machine may know; each other one is taken for a key."""
_SECRET_CHARS = 8
"""Shorter ones are found everywhere."""
_LOG_NAMES = ("serve.log", "serve.log.1")


def support_bundle(
    output: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; it must not exist yet."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the contents and write nothing."),
    ] = False,
    with_logs: Annotated[
        bool,
        typer.Option(
            "--with-logs",
            help="Include the logs' own text. Only what looks private is removed: READ IT.",
        ),
    ] = False,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Collect diagnostics in one small file that can be shared.

    The file is under 5 MB. It contains known fields only: facts about the machine and its GPUs,
    health, versions, receipts, the installer's journal, and llava-pack's log messages without the
    texts in them. Only numbers, versions, digests and words of a fixed list are included; no log
    line, path, host, user, address or name that you chose is. Nothing is sent anywhere. It works
    even if the installation is broken.

    \b
    Examples:
      llava-pack support-bundle --dry-run
      llava-pack support-bundle
      llava-pack support-bundle --out /media/usb/support.tar.gz
      tar -xzOf llava-pack-support-*.tar.gz llava-pack-support/ABOUT.txt
    """
    from llava_pack.health.redaction import Redactor
    from llava_pack.health.support import collect, packed

    place, servers = chosen_prefix(prefix), running()
    console.say("collecting, 20 s at most …")
    contents = collect(
        _parts(place, servers),
        salt=os.urandom(32),
        secrets=[one for server in servers for one in secrets_of(server)],
        logs=_logs(place) if with_logs else None,
        redactor=Redactor(_private(servers)),
    )
    if with_logs:
        console.say(
            "! the file includes the logs' own text: what looks private is removed, but not"
        )
        console.say(
            "! everything private can be recognized. Read UNREVIEWED-logs before you send it."
        )
    if dry_run:
        _preview(contents, as_json=as_json)
        return
    console.say("contents:")
    for line in contents.lines():
        console.say(line)
    path, data = output or Path(_name(unreviewed=with_logs)), packed(contents)
    _write(path, data)
    _tell(path, len(data), contents, as_json=as_json)


def secrets_of(state: RunState) -> Iterator[str]:
    """Yield the texts of a run state that could let somebody in: all that are not known not to.

    A field that a later version adds is one of them until somebody says that it is not.
    """
    for field in fields(state):
        value = getattr(state, field.name)
        known = field.name in _NOT_SECRET
        if isinstance(value, str) and not known and len(value) >= _SECRET_CHARS:
            yield value


def _name(*, unreviewed: bool) -> str:
    mark = "UNREVIEWED-" if unreviewed else ""
    return time.strftime(f"llava-pack-support-{mark}%Y%m%d-%H%M%S.tar.gz", time.gmtime())


def _preview(contents: "SupportContents", *, as_json: bool) -> None:
    if as_json:
        console.document("support-bundle", {"documents": contents.documents, **_counts(contents)})
        return
    for name, text in contents.documents.items():
        console.verbatim(f"--- {name}")
        console.verbatim(text)


def _tell(path: Path, size_bytes: int, contents: "SupportContents", *, as_json: bool) -> None:
    if as_json:
        facts = {"path": str(path), "size_bytes": size_bytes, **_counts(contents)}
        console.document("support-bundle", facts)
        return
    console.verbatim(str(path))
    stayed = sum(contents.left_out.values())
    console.say(
        f"{human_bytes(size_bytes)}, {len(contents.files)} files; "
        f"{stayed} values stayed on this machine"
    )
    for code in contents.known:
        console.say(f"known: llava-pack explain {code}")
    console.say("read it before you send it: it is plain text in a .tar.gz")


def _counts(contents: "SupportContents") -> Mapping[str, Any]:
    return {
        "files": contents.files,
        "left_out": contents.left_out,
        "redacted": contents.redacted,
        "dropped": contents.dropped,
        "known": contents.known,
    }


def _parts(prefix: Path, servers: tuple[RunState, ...]) -> Mapping[str, "Document"]:
    from llava_pack.health import documents, evidence, hardware
    from llava_pack.health.evidence import Document
    from llava_pack.health.knowledge import known_failures
    from llava_pack.health.logbook import Log
    from llava_pack.health.settings import Settings

    ask = [sys.executable, "-m", "llava_pack", "health", "--json", "--prefix", str(prefix)]
    codes = frozenset(one.id for one in known_failures())
    installed = partial(evidence.installed, prefix, chosen_prefix(None))
    return {
        "machine.json": Document(read=_machine, shape=hardware.MACHINE),
        "gpus.json": Document(read=evidence.gpus, shape=hardware.GPUS),
        "installed.json": Document(read=installed, shape=documents.INSTALLED),
        "journal.json": Document(
            read=partial(evidence.journal, prefix), shape=documents.JOURNAL, tells=True
        ),
        "servers.json": Document(read=lambda: list(map(_server, servers)), shape=documents.SERVERS),
        "health.json": Document(
            read=evidence.health(ask, _HEALTH_S), shape=documents.health(codes), tells=True
        ),
        "packages.json": Document(read=evidence.versions, shape=documents.PACKAGES),
        "settings.json": Document(read=lambda: dict(os.environ), shape=Settings()),
        "unit.json": Document(read=evidence.unit(), shape=documents.SERVICE),
        "unit-of-account.json": Document(read=evidence.unit("--user"), shape=documents.SERVICE),
        "unit-log.json": Document(read=evidence.unit_log(), shape=Log(), tells=True),
        "unit-log-of-account.json": Document(
            read=evidence.unit_log("--user"), shape=Log(), tells=True
        ),
        "kernel.json": Document(read=evidence.kernel, shape=Log(), tells=True),
        **{
            f"logs/{name}.json": Document(read=reader, shape=Log(), tells=True)
            for name, reader in _logs(prefix).items()
        },
    }


def _machine() -> Any:
    from llava_pack.health import evidence

    return evidence.machine(shipped("installers") / "probe.sh")()


def _logs(prefix: Path) -> Mapping[str, "Reader"]:
    """Return readers of the logs, under names of ours: a file's own could tell something."""
    from llava_pack.health.evidence import tail

    folders = {prefix / "logs", *(folder.parent / "logs" for folder in directories())}
    found: dict[str, Reader] = {}
    for number, folder in enumerate(sorted(folders), 1):
        kept = sorted(path for path in folder.glob("*.log*") if _is_log(path))
        others = [path for path in kept if path.name not in _LOG_NAMES]
        for path in kept:
            name = path.name if path.name in _LOG_NAMES else f"other-{others.index(path) + 1}.log"
            found[f"{number}-{name}"] = tail(path)
    return found


def _is_log(path: Path) -> bool:
    """Return whether a file is a log that may help; the audit log says who asked, and helps not."""
    return path.is_file() and not path.is_symlink() and not path.name.startswith("audit.")


def _server(state: RunState) -> Mapping[str, Any]:
    return {
        "pid": state.pid,
        "port": state.port,
        "loopback": state.host.startswith(_LOOPBACK),
        "token": bool(state.token),
        "socket": state.socket is not None,
        "controller": bool(state.controller),
        "models": state.models,
        "started": state.started,
        "bundle_id": state.bundle_id,
    }


def _private(servers: tuple[RunState, ...]) -> Mapping[str, list[str]]:
    """Return what is known to be private of this machine and its servers, by kind."""
    node = platform.node()
    connection = os.environ.get("SSH_CONNECTION", "").split()
    user, home = _account()
    return {
        "secret": [one for server in servers for one in secrets_of(server)],
        "host": list(dict.fromkeys(filter(None, [node, node.partition(".")[0]]))),
        "address": [word for word in connection if not word.isdecimal()],
        "user": [name for name in [user] if name != "root"],
        "home": [
            one
            for one in dict.fromkeys([home, os.environ.get("HOME", "/")])
            if one not in {"", "/", "/root"}
        ],
    }


def _account() -> tuple[str, str]:
    if sys.platform == "win32":
        return getpass.getuser(), str(Path.home())
    import pwd

    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return "root", "/"
    return entry.pw_name, entry.pw_dir


def _write(path: Path, data: bytes) -> None:
    """Write the file, readable by its owner only; one that exists is never touched.

    Raises:
        UsageError: it exists, or may not be written.
        SpaceError: the disk is full.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        why = reason_of(error)
        raise UsageError(f"cannot be written: {why}", subject=str(path), hint="-o FILE") from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SpaceError(
            f"cannot be written: {error.strerror}", subject=str(path), hint="choose another -o FILE"
        ) from error
