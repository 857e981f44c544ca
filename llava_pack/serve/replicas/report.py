"""What a server says of itself to who has it as a replica, from its probes. Pure.

Source: docs/reference/http-api.md, "Probes".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.port import EngineInfo
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import IntegrityError, ServeError, UsageError
from llava_pack.serve.port import PHASES, Phase, Status, Vitals

PROBES = ("/readyz", "/startupz", "/livez")
"""What is asked, in the order of `report_of`."""


@dataclass(frozen=True, kw_only=True)
class ReplicaReport:
    """How a server stands."""

    model: str
    """The name of the one model that it serves."""
    bundle_id: str | None
    """Of what is installed there; None for a bare folder."""
    status: Status
    info: EngineInfo | None
    vitals: Vitals
    stats: Stats


def report_of(readiness: Any, startup: Any, live: Any) -> ReplicaReport:
    """Return what the bodies of the probes say.

    Raises:
        UsageError: it serves several models, or has replicas itself.
        ServeError: they are not a llava-pack server's.
    """
    try:
        if readiness.get("replicas"):
            raise UsageError("expected a server with a model, got one with replicas itself")
        if len(readiness["models"]) != 1:
            names = ", ".join(readiness["models"]) or "none"
            raise UsageError(f"expected a server with one model, got {names}")
        (name, readiness_of_it), *_ = readiness["models"].items()
        started, moves = startup["models"][name], live["models"][name]
        running, waiting = int(moves["running"]), int(moves["waiting"])
        stalled = readiness_of_it == "stalled" or readiness.get("pictures") == "stalled"
        return ReplicaReport(
            model=str(name),
            bundle_id=readiness["bundle_id"],
            status=_status(readiness_of_it, started),
            info=_info(name, started),
            vitals=Vitals(
                steps=int(moves["steps"]),
                running=running,
                waiting=waiting,
                stalled_s=max(float(moves["stalled_s"]), 1.0) if stalled else 0.0,
                bound_s=0.0,
            ),
            stats=Stats(steps=int(moves["steps"]), running=running, waiting=waiting),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ServeError("it does not answer as a llava-pack server does") from error


def _status(readiness: str, started: Mapping[str, Any]) -> Status:
    """Return where its model stands; one that is full is ready, and has a load that says so."""
    phase: Phase = next((one for one in PHASES if one == readiness), "ready")
    return Status(
        phase=phase,
        detail=str(started["detail"]),
        done_bytes=int(started["done_bytes"]),
        total_bytes=int(started["total_bytes"]),
    )


def _info(name: str, started: Mapping[str, Any]) -> EngineInfo | None:
    if started["slots"] is None:
        return None
    return EngineInfo(
        model=name,
        precision=str(started["precision"]),
        device=str(started["device"]),
        context_tokens=int(started["context_tokens"]),
        slots=int(started["slots"]),
        conv_mode="",
        image_tokens=0,
        picture_mode=started.get("picture_mode") or DEFAULT_PICTURE_MODE,
    )


def check_same(address: str, report: ReplicaReport, model: str, bundle_id: str | None) -> None:
    """Refuse a replica that would answer as another model does.

    Args:
        address: of the replica.
        report: what it says.
        model: the name that is expected.
        bundle_id: that is expected.

    Raises:
        UsageError: its model has another name.
        IntegrityError: its bundle is another one.
    """
    if report.model != model:
        raise UsageError(
            f"expected the model {model}, got {report.model}", subject=f"--replica {address}"
        )
    if report.bundle_id != bundle_id:
        raise IntegrityError(
            f"expected the bundle {bundle_id or 'of no id'}, got {report.bundle_id or 'none'}",
            subject=f"--replica {address}",
            hint="install the same bundle there",
        )
