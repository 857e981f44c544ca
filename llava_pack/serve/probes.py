"""`/livez`, `/readyz`, `/startupz`, `/metrics`: progress, not liveness of HTTP.

A probe only reads what the supervisor has seen; it never makes work for an engine. Live means:
whatever is in flight moves, or nothing is. A model that loads is live and not ready.

Source: docs/reference/http-api.md, "Probes"; the aliases are vLLM's `/health` and NVIDIA NIM's.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from llava_pack.serve.failures import RETRY_AFTER_S
from llava_pack.serve.metrics import CONTENT_TYPE, exposition
from llava_pack.serve.models import Served
from llava_pack.serve.pictures import PictureDecoder
from llava_pack.serve.refusals import Refusals


def probe_router(
    models: Mapping[str, Served],
    *,
    bundle_id: str | None,
    page: bool,
    decoder: PictureDecoder,
    refusals: Refusals,
) -> APIRouter:
    """Return the probes of a gateway.

    Args:
        models: what it serves.
        bundle_id: of what is installed, so that a laptop can tell which server it reached.
        page: whether it has a page.
        decoder: of the pictures.
        refusals: what was refused.
    """
    router = APIRouter()

    @router.get("/livez")
    @router.get("/health", include_in_schema=False)
    @router.get("/v1/health/live", include_in_schema=False)
    async def livez() -> JSONResponse:
        vitals = {name: model.vitals for name, model in models.items()}
        stalled = [name for name, signs in vitals.items() if signs.stalled]
        body = {
            "status": "stalled" if stalled else "live",
            "stalled": stalled,
            "models": {
                name: {
                    "steps": signs.steps,
                    "running": signs.running,
                    "waiting": signs.waiting,
                    "stalled_s": round(signs.stalled_s, 3),
                }
                for name, signs in vitals.items()
            },
        }
        return _answer(body, ok=not stalled)

    @router.get("/readyz")
    @router.get("/v1/health/ready", include_in_schema=False)
    async def readyz() -> JSONResponse:
        phases = {name: _readiness(model) for name, model in models.items()}
        pictures = "stalled" if decoder.stalled else "ready"
        ready = bool(phases) and {*phases.values(), pictures} == {"ready"}
        body = {
            "status": "ready" if ready else "not ready",
            "models": phases,
            "pictures": pictures,
            "bundle_id": bundle_id,
            "page": page,
        }
        return _answer(body, ok=ready)

    @router.get("/startupz")
    async def startupz() -> JSONResponse:
        started = all(model.info is not None for model in models.values())
        body = {
            "status": "started" if started else "starting",
            "models": {name: _startup(model) for name, model in models.items()},
        }
        return _answer(body, ok=started)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(models, refusals), media_type=CONTENT_TYPE)

    return router


def _answer(body: Mapping[str, Any], *, ok: bool) -> JSONResponse:
    headers = None if ok else {"Retry-After": str(RETRY_AFTER_S)}
    return JSONResponse(body, status_code=200 if ok else 503, headers=headers)


def _readiness(model: Served) -> str:
    """Return a phase, or why a model that is ready would refuse a request."""
    if model.status.phase != "ready":
        return model.status.phase
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
    }
