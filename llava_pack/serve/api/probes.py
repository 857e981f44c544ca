"""`/livez`, `/readyz`, `/startupz`, `/metrics`: progress, not liveness of HTTP.

A probe only reads what the supervisor has seen; it never makes work for an engine. Live means:
whatever is in flight moves, or nothing is. A model that loads is live and not ready.

Source: docs/reference/http-api.md, "Probes"; the aliases are vLLM's `/health` and NVIDIA NIM's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from llava_pack.engine.fence.value import Standing
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.api.metrics import CONTENT_TYPE, exposition
from llava_pack.serve.errors import RETRY_AFTER_S
from llava_pack.serve.port import Replica, Served, Vitals

_OWN = "llava-pack"


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What the probes tell of the gateway itself."""

    bundle_id: str | None
    """Of what is installed, so that a laptop can tell which server it reached."""
    page: bool
    """Whether it has a page."""
    restarts: int = 0
    """How many gateways there were before this one."""
    standing: Standing | None = None
    """Which fence stands around the gateway; None where that is not known."""
    pictures_stall: Callable[[], bool] = lambda: False
    """Whether pictures do not get through."""


def probe_router(models: Mapping[str, Served], signs: Signs, refusals: Refusals) -> APIRouter:
    """Return the probes of a gateway.

    Args:
        models: what it serves.
        signs: what is to be told of itself.
        refusals: what was refused.
    """
    router = APIRouter()

    @router.get("/livez")
    @router.get("/health", include_in_schema=False)
    @router.get("/v1/health/live", include_in_schema=False)
    async def livez() -> JSONResponse:
        vitals = {name: model.vitals for name, model in models.items()}
        stalled = [name for name, seen in vitals.items() if seen.stalled]
        body = {
            "status": "stalled" if stalled else "live",
            "stalled": stalled,
            "models": {name: _progress(seen) for name, seen in vitals.items()},
        }
        return _answer(body, ok=not stalled)

    @router.get("/readyz")
    @router.get("/v1/health/ready", include_in_schema=False)
    async def readyz() -> JSONResponse:
        phases = {name: _readiness(model) for name, model in models.items()}
        stalled = signs.pictures_stall()
        loaded = bool(phases) and all(phase == "ready" for phase in phases.values())
        body = {
            "status": "ready" if loaded and not stalled else "not ready",
            "models": phases,
            "pictures": "stalled" if stalled else "ready",
            "bundle_id": signs.bundle_id,
            "page": signs.page,
            "replicas": sum(len(model.replicas) for model in models.values()),
        }
        return _answer(body, ok=loaded and not stalled)

    @router.get("/startupz")
    async def startupz() -> JSONResponse:
        started = all(model.info is not None for model in models.values())
        body = {
            "status": "started" if started else "starting",
            "models": {name: _startup(model) for name, model in models.items()},
            "fence": _fence(signs.standing),
        }
        return _answer(body, ok=started)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(models, refusals, signs.restarts), media_type=CONTENT_TYPE)

    return router


def _answer(body: Mapping[str, Any], *, ok: bool) -> JSONResponse:
    headers = None if ok else {"Retry-After": str(RETRY_AFTER_S)}
    return JSONResponse(body, status_code=200 if ok else 503, headers=headers)


def _progress(seen: Vitals) -> dict[str, Any]:
    return {
        "steps": seen.steps,
        "running": seen.running,
        "waiting": seen.waiting,
        "stalled_s": round(seen.stalled_s, 3),
    }


def _readiness(model: Served) -> str:
    """Return a phase, or why a model that is ready would refuse a request."""
    if model.status.phase != "ready":
        return model.status.phase
    if model.vitals.stalled:
        return "stalled"
    return "overloaded" if model.full else "ready"


def _startup(model: Served) -> dict[str, Any]:
    status, info = model.status, model.info
    return {
        "phase": status.phase,
        "detail": status.detail,
        "done_bytes": status.done_bytes,
        "total_bytes": status.total_bytes,
        "precision": info.precision if info else None,
        "device": info.device if info else None,
        "context_tokens": info.context_tokens if info else None,
        "slots": info.slots if info else None,
        "engine": (info.engine or _OWN) if info else None,
        "picture_mode": info.picture_mode if info else None,
        "fence": _fence(model.standing),
        "replicas": {one.replica: _replica(one) for one in model.replicas},
    }


def _replica(one: Replica) -> dict[str, Any]:
    """Return how one of several engines stands, and what it has of what came here."""
    return {
        "phase": one.status.phase,
        "detail": one.status.detail,
        "precision": one.info.precision if one.info else None,
        "device": one.info.device if one.info else None,
        "slots": one.info.slots if one.info else None,
        "running": one.vitals.running,
        "waiting": one.vitals.waiting,
        "in_flight": one.in_flight,
        "answered": one.tally.ended["stop"] + one.tally.ended["length"],
        "lost": one.tally.ended["error"],
    }


def _fence(standing: Standing | None) -> dict[str, Any] | None:
    """Return which fence stands, for `health`; None where that is not known."""
    if standing is None:
        return None
    return {**asdict(standing), "whole": standing.whole, "said": str(standing)}
