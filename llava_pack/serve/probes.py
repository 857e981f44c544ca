"""`/livez`, `/readyz`, `/startupz`: progress, not liveness of HTTP; a probe never makes work.

Live means: whatever is in flight moves, or nothing is. A model that loads is live and not ready.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from llava_pack.serve.failures import RETRY_AFTER_S
from llava_pack.serve.models import Served

STALL_S = 60.0


def probe_router(models: Mapping[str, Served], *, bundle_id: str | None, page: bool) -> APIRouter:
    """Return the probes of a gateway.

    Args:
        models: what it serves.
        bundle_id: of what is installed, so that a laptop can tell which server it reached.
        page: whether it has a page.
    """
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> JSONResponse:
        stalled = [name for name, model in models.items() if model.vitals.stalled_s > STALL_S]
        body = {
            "status": "stalled" if stalled else "live",
            "stalled": stalled,
            "models": {name: _vitals(model) for name, model in models.items()},
        }
        return JSONResponse(body, status_code=503 if stalled else 200)

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        phases = {name: model.status.phase for name, model in models.items()}
        ready = all(phase == "ready" for phase in phases.values())
        said = "ready" if ready else "not ready"
        body = {"status": said, "models": phases, "bundle_id": bundle_id, "page": page}
        headers = None if ready else {"Retry-After": str(RETRY_AFTER_S)}
        return JSONResponse(body, status_code=200 if ready else 503, headers=headers)

    @router.get("/startupz")
    async def startupz() -> JSONResponse:
        started = all(model.info is not None for model in models.values())
        body = {
            "status": "started" if started else "starting",
            "models": {name: _startup(model) for name, model in models.items()},
        }
        headers = None if started else {"Retry-After": str(RETRY_AFTER_S)}
        return JSONResponse(body, status_code=200 if started else 503, headers=headers)

    return router


def _vitals(model: Served) -> dict[str, Any]:
    vitals = model.vitals
    return {
        "steps": vitals.steps,
        "running": vitals.running,
        "waiting": vitals.waiting,
        "stalled_s": round(vitals.stalled_s, 3),
    }


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
    }
