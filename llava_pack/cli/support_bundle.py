"""`llava-pack support-bundle`: one small file for whoever helps, with nothing private in it."""

import getpass
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.target import AsJson, Prefix, chosen_prefix
from llava_pack.format.errors import PackError, SpaceError, UsageError
from llava_pack.serve.state import directories, running
from llava_pack.shipped import shipped

if TYPE_CHECKING:
    from llava_pack.health.support import Collector

_HEALTH_S = 15.0
_PROBE_S = 10.0
_KERNEL = "nvrm|xid|oom|killed process|i/o err"


def support_bundle(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; it must not exist.")
    ] = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Collect what somebody who cannot see this machine needs to help, in one file under 5 MB.

    Facts of the machine, health, logs, versions, receipts and the installer's journal. Secrets,
    prompts, pictures, host names and addresses are taken out before anything is written, and the
    file lists how many. Nothing is sent anywhere. It works where the installation is broken.

    \b
    Examples:
      llava-pack support-bundle
      llava-pack support-bundle -o /media/usb/support.tar.gz
      tar -xzOf llava-pack-support-*.tar.gz llava-pack-support/ABOUT.txt
    """
    from llava_pack.health.redaction import Redactor
    from llava_pack.health.support import collect

    place = chosen_prefix(prefix)
    name = time.strftime("llava-pack-support-%Y%m%d-%H%M%S.tar.gz", time.gmtime())
    path = output or Path(name)
    console.say("collecting, 20 s at most …")
    data, contents = collect(_collectors(place), Redactor(_private()))
    _write(path, data)
    if as_json:
        fields = {"path": str(path), "size_bytes": len(data), **vars(contents)}
        console.document("support-bundle", fields)
        return
    console.data(str(path))
    taken = ", ".join(f"{count} {kind}" for kind, count in sorted(contents.redacted.items()))
    console.say(f"{console.human_bytes(len(data))}, {len(contents.files)} files")
    console.say(f"taken out: {taken or 'nothing'}")
    for code in contents.known:
        console.say(f"known: llava-pack explain {code}")
    console.say("read it before you send it: it is plain text in a .tar.gz")


def _collectors(prefix: Path) -> Mapping[str, "Collector"]:
    from llava_pack.health.support import command, installed_files, settings, tail, versions

    health = [sys.executable, "-m", "llava_pack", "health", "--json", "--prefix", str(prefix)]
    found: dict[str, Collector] = {
        "versions.txt": versions,
        "settings.txt": lambda: settings(os.environ),
        "health.json": command(health, _HEALTH_S),
        "disks.txt": command(["df", "-hT"]),
        "memory.txt": command(["free", "-m"]),
        "listening.txt": command(["ss", "-ltn"]),
        "gpu.txt": command(["nvidia-smi", "-q"]),
        "kernel.txt": command(
            ["sh", "-c", "dmesg | grep -iE 'nvrm|xid|oom|killed process|i/o err'"]
        ),
        "service.txt": command(["systemctl", "--user", "status", "--no-pager", "llava-pack*"]),
        "service-log.txt": command(
            ["journalctl", "--user", "--no-pager", "-n", "2000", "-u", "llava-pack*"]
        ),
        **installed_files(prefix),
    }
    try:
        found["probe.json"] = command(["sh", str(shipped("installers") / "probe.sh")], _PROBE_S)
    except PackError:
        found["probe.json"] = lambda: "could not be collected: probe.sh is not there\n"
    folders = {prefix / "logs", *(folder.parent / "logs" for folder in directories())}
    for folder in sorted(folders):
        for path in sorted(folder.glob("*.log*")):
            if path.name.startswith("audit."):
                continue  # it holds who asked, and helps with no failure
            found.setdefault(f"logs/{path.name}", tail(path))
    return found


def _private() -> Mapping[str, list[str]]:
    """Return what is known to be private of this machine and its servers, by kind."""
    node = platform.node()
    connection = os.environ.get("SSH_CONNECTION", "").split()
    return {
        "secret": [secret for server in running() for secret in server.secrets],
        "host": list(dict.fromkeys(filter(None, [node, node.partition(".")[0]]))),
        "address": [word for word in connection if not word.isdecimal()],
        "user": [name for name in [_user()] if name != "root"],
        "home": [home for home in [str(Path.home())] if home not in {"/", "/root"}],
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "root"


def _write(path: Path, data: bytes) -> None:
    """Write the file, readable by its owner only; one that exists is never touched.

    Raises:
        UsageError: it exists, or may not be written.
        SpaceError: the disk is full.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UsageError(f"cannot be written: {why}", subject=str(path), hint="-o FILE") from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SpaceError(
            f"cannot be written: {error.strerror}", subject=str(path), hint="-o FILE elsewhere"
        ) from error
