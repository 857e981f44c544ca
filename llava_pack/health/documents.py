"""The documents of a support bundle: the fields of each, and the shape of each value. Pure data.

What is not listed here does not leave. A later version of what is read may have more fields: they
stay until somebody adds them here, with a shape.
"""

from typing import Any, get_args

from llava_pack.format.precision import PRECISIONS
from llava_pack.format.target import UNKNOWN
from llava_pack.health.messages import FOUND
from llava_pack.health.reading import read
from llava_pack.health.report import HealthCode, Layer, Level
from llava_pack.health.shapes import (
    Either,
    Fields,
    Flag,
    Form,
    Name,
    Number,
    OneOf,
    Several,
    Shape,
    Table,
    Told,
    Words,
)
from llava_pack.health.vocabulary import (
    ANSWER,
    ARCH,
    COUNT,
    CPU_FLAGS,
    DEVICE,
    DIGEST_TEXT,
    ENGINE,
    LICENCE,
    MODEL,
    PACKAGE,
    PACKAGE_VERSION,
    PRECISION,
    RECIPE,
    SECONDS,
    VERSION,
    VERSION_TEXT,
)

_LEVEL = OneOf(*get_args(Level))
_BY = Words(frozenset({"--expect", "--trust-key", "pinned", "key", "and", "nothing"}))
_STEP = OneOf("fetch", "place", "python", "venv", "model", "smoke", "seal", "switch", "deactivate",
              "remove", "sweep")  # fmt: skip
_UNKNOWN_BEFORE = ("could not be found out",)
"""What receipts of earlier versions say instead of `UNKNOWN`."""
_MEASURE = Either(
    Form(rf"(?:at least )?{VERSION}"),
    Form(r"(?:at least )?[0-9]{1,15}(?: bytes| free)?"),
    OneOf("linux", "x86_64", "aarch64", "all present", "none", UNKNOWN, *_UNKNOWN_BEFORE),
    Words(CPU_FLAGS | {f"{flag}," for flag in CPU_FLAGS} | {"without"}),
)
_PREFLIGHT = Fields(
    {
        "name": OneOf("os", "arch", "python", "glibc", "libstdc++", "cpu", "driver", "disk",
                      "compute capability", "memory", "GPU memory", "free GPU memory", "prefix",
                      "inodes", "clock", "wheels", "files", other="another fact"),
        "level": _LEVEL,
        "value": _MEASURE,
        "need": _MEASURE,
        "exit_code": Number(0, 255),
    }
)  # fmt: skip
_SMOKE = Fields(
    {
        "schema": COUNT,
        "ok": Flag(),
        "precision": PRECISION,
        "device": DEVICE,
        "load_s": SECONDS,
        "answers": Several(
            Fields(
                {
                    "name": ANSWER,
                    "ok": Flag(),
                    "grade": OneOf("exact", "equivalent", "degraded", "broken"),
                    "stage": OneOf("", "tokenizer", "template", "picture", "vision tower",
                                   "projector", "precision", "model"),
                    "tokens": COUNT,
                    "ttft_s": SECONDS,
                    "tokens_per_s": SECONDS,
                }
            )
        ),
    }
)  # fmt: skip
RECEIPT = Fields(
    {
        "schema": COUNT,
        "bundle_id": DIGEST_TEXT,
        "recipe": RECIPE,
        "release": SECONDS,
        "generation": COUNT,
        "installed_at": SECONDS,
        "installed_by": Form(rf"llava-pack {VERSION}"),
        "verified": Fields(
            {
                "by": _BY,
                "expect": OneOf(other="over ssh"),  # with the address of a person
                "signature": OneOf("good", "unsigned"),
                "key_trusted": Flag(),
                "tools": Several(OneOf("openssl", "ssh-keygen")),
            }
        ),
        "files": COUNT,
        "size_bytes": COUNT,
        "hashed_with": Form(rf"hashlib of Python {VERSION}"),
        "placed": Table(OneOf("stored", "moved", "linked", "cloned", "copied", "fetched"), COUNT),
        "preflight": Several(_PREFLIGHT),
        "smoke": _SMOKE,
        "silence": Fields(
            {
                "installer": OneOf("fenced", "not watched", other="fenced but for an index"),
                "smoke test": OneOf("fenced"),
                "uv": OneOf("run with --offline and without an index"),
            }
        ),
        "step_ms": Table(_STEP, COUNT),
    }
)
MANIFEST = Fields(
    {
        "format": COUNT,
        "release": SECONDS,
        "created_by": Form(rf"llava-pack {VERSION}"),
        "recipe": Fields({"name": RECIPE}),
        "licence": Fields({"id": LICENCE, "gated": Flag(), "accepted": Flag()}),
        "model": Fields({"name": MODEL, "format": OneOf("original", "hf")}),
        "python": Fields({"kind": OneOf("standalone", "target"), "version": VERSION_TEXT}),
        "wheels": Table(PACKAGE, PACKAGE_VERSION),
        "files": COUNT,
        "known_answers": COUNT,
        "floors": Fields(
            {
                "python": VERSION_TEXT,
                "python_tag": Form(r"cp[0-9]{2,3}"),
                "platform": OneOf("linux"),
                "arch": ARCH,
                "glibc": VERSION_TEXT,
                "glibcxx": VERSION_TEXT,
                "driver": VERSION_TEXT,
                "compute_capability": VERSION_TEXT,
                "disk_bytes": COUNT,
                "memory_bytes": Table(OneOf(*PRECISIONS), COUNT),
                "cpu_flags": Several(OneOf(*CPU_FLAGS)),
            }
        ),
        "serving": Fields(
            {
                "engine": ENGINE,
                "precision": PRECISION,
                "device": DEVICE,
                "context_tokens": COUNT,
                "slots": COUNT,
                "gpus": COUNT,
            }
        ),
    }
)
INSTALLED = Fields(
    {
        "prefix": Fields(
            {
                "exists": Flag(),
                "default": Flag(),
                "writable": Flag(),
                "mode": Form(r"[0-7]{3,4}"),
                "free_bytes": COUNT,
                "free_inodes": COUNT,
            }
        ),
        "generations": Several(
            Fields(
                {
                    "recipe": RECIPE,
                    "number": COUNT,
                    "active": Flag(),
                    "receipt": Either(RECEIPT, OneOf("absent", "not readable")),
                    "manifest": Either(MANIFEST, OneOf("absent", "not readable")),
                }
            )
        ),
    }
)
JOURNAL = Fields(
    {
        "state": OneOf("nothing is unfinished", "not readable", "an installer was interrupted"),
        "step": _STEP,
        "operation": OneOf("install", "revert", "activate", "gc", "uninstall"),
        "recipe": RECIPE,
        "generation": COUNT,
        "previous": COUNT,
    }
)
PACKAGES = Table(PACKAGE, PACKAGE_VERSION)
SERVERS = Several(
    Fields(
        {
            "pid": COUNT,
            "port": Number(0, 65535),
            "loopback": Flag(),
            "token": Flag(),
            "socket": Flag(),
            "controller": Flag(),
            "models": Several(MODEL),
            "started": SECONDS,
            "bundle_id": DIGEST_TEXT,
        }
    )
)
SERVICE = Table(
    OneOf("LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "NRestarts",
          "ExecMainCode", "ExecMainStatus"),
    Either(
        Form(r"[0-9]{1,9}"),
        OneOf("", "loaded", "not-found", "masked", "error", "active", "inactive", "failed",
              "activating", "deactivating", "reloading", "running", "dead", "exited", "start",
              "auto-restart", "auto-restart-queued", "stop-sigterm", "stop-sigkill", "success",
              "exit-code", "signal", "core-dump", "watchdog", "timeout", "protocol", "resources",
              "oom-kill", "start-limit-hit", "enabled", "disabled", "static", "linked"),
    ),
)  # fmt: skip


class _Said:
    """What a finding says, by its template; a line without one becomes its digest."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return the line."""
        if not isinstance(value, str):
            return told.stays()
        if shown := read(value, FOUND, told):
            return shown
        told.stays()
        return f"not included, same as {told.digest(value)}"


class _Code(Name):
    """A code of a known failure."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return the code."""
        known = isinstance(value, str) and (value in self.public or not value)
        return value if known else told.stays()


def health(codes: frozenset[str]) -> Shape:
    """Return the shape of what `health --json` says.

    Args:
        codes: of the known failures.
    """
    finding = Fields(
        {"layer": OneOf(*Layer), "level": _LEVEL, "code": _Code("code", codes), "text": _Said()}
    )
    return Fields(
        {
            "state": OneOf("not within its time", "not JSON"),
            "status": OneOf(*(code.name for code in HealthCode)),
            "exit_code": Number(0, 255),
            "findings": Several(finding),
            "metrics": Table(OneOf("ttft_s", "tokens_per_s"), SECONDS),
            "took_s": SECONDS,
        }
    )
