"""Target profiles: what probe.sh prints, and what a person pastes back, as one value.

Source: docs/reference/target-profile.md.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format import canonical, records
from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.target import Machine
from llava_pack.shells import redirected

SCHEMA = 1
MAX_BYTES = 1 << 20
_AGAIN = "run the probe again: llava-pack probe USER@HOST"


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A place where something could be installed, and the disk that it is on."""

    path: str
    mount: str | None = None
    filesystem: str | None = None
    free_bytes: int | None = None
    free_inodes: int | None = None
    noexec: bool | None = None
    writable: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python that was run."""

    version: str
    path: str


@dataclass(frozen=True, kw_only=True)
class TargetProfile(Machine):
    """All that probe.sh tells of a machine; None where it could not be found out.

    Source: docs/reference/target-profile.md.
    """

    host: str | None = None
    clock: int | None = None
    distribution: str | None = None
    libc: str | None = None
    pythons: tuple[Interpreter, ...] | None = None
    cpu_model: str | None = None
    cpu_count: int | None = None
    disks: tuple[Disk, ...] | None = None
    memory_free_bytes: int | None = None
    driver: str | None = None
    nvidia_smi: str | None = None
    home: str | None = None
    user: str | None = None
    uid: int | None = None
    open_files: str | None = None
    locked_memory: str | None = None
    ports_in_use: tuple[int, ...] | None = None
    selinux: str | None = None
    fips: bool | None = None
    container: str | None = None
    init: str | None = None
    tools: Mapping[str, str | None] | None = None
    ssh_address: str | None = None
    ssh_port: int | None = None


def read_profile(path: Path) -> TargetProfile:
    """Read a saved target profile.

    Raises:
        UsageError: the file cannot be read, or is no target profile.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", subject=str(path), hint=_AGAIN
        ) from error
    return parse_profile(redirected(data).encode(), subject=path.name)


def parse_profile(data: bytes, *, subject: str = "target profile") -> TargetProfile:
    """Return the profile in what probe.sh printed, also when a terminal broke its lines.

    Args:
        data: the JSON object, perhaps with a prompt or a log line around it.
        subject: what messages call it.

    Raises:
        UsageError: there is no target profile in it; every defect is named.
    """
    value = _object(data, subject)
    schema = value.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise UsageError(
            f"target profile of schema {schema}, expected at most {SCHEMA}",
            subject=subject,
            hint="use a newer llava-pack, or probe the machine with this one",
        )
    if schema != SCHEMA or value.get("kind") != "target":
        found = f'schema {schema!r:.20} and kind "{value.get("kind")!s:.20}"'
        raise UsageError(
            f'expected schema {SCHEMA} and kind "target", got {found}', subject=subject, hint=_AGAIN
        )
    defects = records.Defects()
    profile = records.decode(TargetProfile, value, defects)
    if profile is None or defects:
        raise UsageError("; ".join(defects), subject=subject, hint=_AGAIN)
    return profile


def render_profile(data: bytes) -> str:
    """Return the object in `data` as it is saved: two spaces, keys in their order, one final LF."""
    return json.dumps(_object(data, "target profile"), indent=2) + "\n"


def _object(data: bytes, subject: str) -> dict[str, Any]:
    begin, end = data.find(b"{"), data.rfind(b"}")
    text = data[begin : end + 1] if 0 <= begin < end else data
    joined = re.sub(rb"[\r\n]+", b"", text)  # a terminal may break a line inside a value
    for form in (text, joined):
        try:
            value = canonical.loads(form, max_bytes=MAX_BYTES)
        except IntegrityError as error:
            last = error
            continue
        if isinstance(value, dict):
            return value
        last = IntegrityError("expected an object")
    raise UsageError(last.message, subject=subject, hint=_AGAIN) from last
