"""Probes tell progress: what stalls is not ready, whoever it is."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from llava_pack.engine.stats import Stats
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.api import probes
from llava_pack.serve.api.probes import Signs, probe_router
from llava_pack.serve.counters import Tally
from llava_pack.serve.port import Phase, Status, Vitals


class _Model:
    """A model that stands as it is told."""

    name = "m"
    info = None
    replicas = ()
    full = False
    stats = Stats()
    tally = Tally()

    def __init__(self, phase: Phase = "ready", stalled_s: float = 0.0) -> None:
        self.status = Status(phase=phase)
        self.vitals = Vitals(steps=1, running=1, waiting=0, stalled_s=stalled_s, bound_s=60.0)


def _ask(path: str, model: _Model, *, pictures_stall: bool = False) -> tuple[int, Any]:
    app = FastAPI()
    signs = Signs(bundle_id="b", page=False, restarts=3, pictures_stall=lambda: pictures_stall)
    app.include_router(probe_router({"m": model}, signs, Refusals()))  # type: ignore[dict-item]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get(path)

    answer = asyncio.run(ask())
    return answer.status_code, answer.text if path == "/metrics" else answer.json()


def test_a_model_that_moves_is_ready() -> None:
    status, body = _ask("/readyz", _Model())
    assert status == 200
    assert body == {
        "status": "ready",
        "models": {"m": "ready"},
        "pictures": "ready",
        "bundle_id": "b",
        "page": False,
        "replicas": 0,
    }


def test_an_engine_that_stalls_is_neither_live_nor_ready() -> None:
    model = _Model(stalled_s=61.0)
    assert _ask("/livez", model)[0] == 503
    status, body = _ask("/readyz", model)
    assert (status, body["models"]) == (503, {"m": "stalled"})


def test_pictures_that_stall_are_not_ready_while_the_engine_is() -> None:
    status, body = _ask("/readyz", _Model(), pictures_stall=True)
    assert (status, body["status"], body["pictures"]) == (503, "not ready", "stalled")
    assert body["models"] == {"m": "ready"}


def test_without_the_look_at_progress_a_stalled_engine_would_count_as_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutation: readiness that knows phases alone."""
    monkeypatch.setattr(probes, "_readiness", lambda model: model.status.phase)
    assert _ask("/readyz", _Model(stalled_s=61.0))[0] == 200


def test_how_many_gateways_there_were_is_a_metric() -> None:
    _status, text = _ask("/metrics", _Model())
    assert "\nllava_pack:gateway_restarts_total 3\n" in text
