"""What is read from a machine for a support bundle, before anything of it may leave.

Only the standard library is needed: it has to work where nothing else does. Each reader has its
time-out, and one that fails says so in its own document.
"""

import json
import os
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from llava_pack.format import files
from llava_pack.health.shapes import Shape

_LOG_BYTES = 1_000_000
_FACT_BYTES = 32_000_000
_KERNEL = "nvrm|xid|oom|killed process|i/o err"
_UNIT_FACTS = (
    "LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,ExecMainCode,ExecMainStatus"
)
_PORT = 7860
_TRIED = OSError, ValueError, KeyError, TypeError, AttributeError

Reader = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of the bundle."""

    read: Reader
    """Returns what the machine says, whatever is in it."""
    shape: Shape
    """Decides what of that leaves."""
    tells: bool = False
    """Whether known failures are looked for in it: programs say there what went wrong."""


def command(arguments: Sequence[str], timeout_s: float = 5.0) -> Reader:
    """Return a reader of the end of what a command prints."""

    def run() -> str:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        return done.stdout[-_LOG_BYTES:].decode(errors="replace")

    return run


def tail(path: Path, size_bytes: int = _LOG_BYTES) -> Reader:
    """Return a reader of the end of a plain file."""

    def read() -> str:
        with open(path, "rb", opener=_plain) as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - size_bytes, 0))
            return stream.read(size_bytes).decode(errors="replace")

    return read


def _plain(path: str, flags: int) -> int:
    """Open a file that is no link, which an account that writes logs could plant, and cannot hang.

    Raises:
        OSError: it is none.
    """
    descriptor = os.open(path, flags | files.UNFOLLOWED)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a plain file")
    return descriptor


def machine(probe: Path) -> Reader:
    """Return a reader of what `probe.sh` says."""

    def read() -> Mapping[str, Any]:
        value: dict[str, Any] = json.loads(command(["sh", str(probe)], timeout_s=15.0)())
        ports = value.get("ports_in_use")
        tools = value.get("tools") or {}
        return value | {
            "port_7860_taken": _PORT in ports if isinstance(ports, list) else None,
            "tools": {name: where is not None for name, where in tools.items()},
        }

    return read


def health(arguments: Sequence[str], timeout_s: float) -> Reader:
    """Return a reader of what `health --json` says, or that it does not come to an end."""

    def read() -> Any:
        try:
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
            return json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            return {"state": "not within its time"}
        except (ValueError, IndexError):
            return {"state": "not JSON", "exit_code": done.returncode}

    return read


def versions() -> Mapping[str, str]:
    """Return the packages of the running environment."""
    found = {
        (one.metadata["Name"] or "?").lower().replace("_", "-"): one.version
        for one in metadata.distributions()
    }
    return dict(sorted(found.items()))


def installed(prefix: Path, default: Path) -> Mapping[str, Any]:
    """Return what lies under a prefix: its disk, its generations, their receipts and manifests.

    Args:
        prefix: of the installation.
        default: the one that is taken where nobody names one.
    """
    facts: dict[str, Any] = {"exists": prefix.is_dir(), "default": prefix == default}
    if prefix.is_dir():
        disk = os.statvfs(prefix)
        facts |= {
            "writable": os.access(prefix, os.W_OK | os.X_OK),
            "mode": f"{stat.S_IMODE(prefix.stat().st_mode):o}",
            "free_bytes": disk.f_bavail * disk.f_frsize,
            "free_inodes": disk.f_favail,
        }
    folders = sorted(prefix.glob("models/*/generations/*"))
    return {"prefix": facts, "generations": [_generation(folder) for folder in folders]}


def _generation(folder: Path) -> Mapping[str, Any]:
    recipe = folder.parent.parent
    return {
        "recipe": recipe.name,
        "number": int(folder.name) if folder.name.isdecimal() else None,
        "active": (recipe / "current").resolve() == folder.resolve(),
        "receipt": _json(folder / "receipt.json"),
        "manifest": _manifest(folder / "MANIFEST.json"),
    }


def _manifest(path: Path) -> Any:
    """Return a manifest with counts for what is many, and the versions of its wheels."""
    value = _json(path)
    if not isinstance(value, dict):
        return value
    paths = [str(one.get("path")) for one in value.get("files", ()) if isinstance(one, dict)]
    wheels = [path.rpartition("/")[2].split("-") for path in paths if path.endswith(".whl")]
    return value | {
        "files": len(paths),
        "known_answers": len(value.get("known_answers", ())),
        "wheels": {one[0].lower().replace("_", "-"): one[1] for one in wheels if len(one) > 2},
    }


def journal(prefix: Path) -> Mapping[str, Any]:
    """Return what an installer was doing when it ended."""
    value = _json(prefix / "journal.json")
    if value == "absent":
        return {"state": "nothing is unfinished"}
    if not isinstance(value, dict):
        return {"state": "not readable"}
    return {**value, "state": "an installer was interrupted"}


def _json(path: Path) -> Any:
    try:
        return json.loads(tail(path, _FACT_BYTES)())
    except FileNotFoundError:
        return "absent"
    except _TRIED:
        return "not readable"


def gpus() -> Mapping[str, Any]:
    """Return what the driver says, asked by a process of its own."""
    from llava_pack.health.gpu import probe_gpus

    return asdict(probe_gpus())


def unit(*scope: str) -> Reader:
    """Return a reader of the state of llava-pack's unit.

    Args:
        scope: `--user`, or nothing for the system's.
    """
    ask = ["systemctl", *scope, "show", "llava-pack.service", "-p", _UNIT_FACTS]

    def read() -> Mapping[str, str]:
        lines = command(ask)().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    return read


def unit_log(*scope: str) -> Reader:
    """Return a reader of what llava-pack's unit said, without dates and host names."""
    ask = ["journalctl", *scope, "--no-pager", "-o", "cat", "-n", "2000", "-u", "llava-pack*"]
    return command(ask)


def kernel() -> str:
    """Return the kernel's lines about GPUs, memory and disks."""
    return str(command(["sh", "-c", f"dmesg | grep -iE '{_KERNEL}'"])())
