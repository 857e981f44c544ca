"""The gateway: one ASGI application made from what it is given."""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

import llava_pack
from llava_pack.engine.fence.value import Standing
from llava_pack.serve.access.audit import AuditLog, Sink
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.access.quota import Books
from llava_pack.serve.admission.bodies import Admission, BodyLimits
from llava_pack.serve.admission.fair_models import SharedModels
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.admission.visits import Ledger
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.llava_protocol import llava_router
from llava_pack.serve.api.observe import observation_router
from llava_pack.serve.api.openai import openai_router
from llava_pack.serve.api.pictures import PictureDecoder
from llava_pack.serve.api.probes import Signs, probe_router
from llava_pack.serve.api.tokenize import tokenize_router
from llava_pack.serve.care import QUEUE
from llava_pack.serve.errors import install_handlers
from llava_pack.serve.gateway.guard import Boundary, Guard
from llava_pack.serve.page.routes import page_router
from llava_pack.serve.port import Served


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """How the gateway answers."""

    policy: AccessPolicy
    """Who may ask."""
    web: bool
    """Whether the page is served."""
    bundle_id: str | None = None
    """Shown by `/readyz`, so that a laptop can tell which server it reached."""
    restarts: int = 0
    """How many gateways there were before this one, for `/metrics`."""
    standing: Standing | None = None
    """Which fence stands around this process, for `health`."""
    bodies: BodyLimits = field(default_factory=BodyLimits)
    """How large requests may be."""
    queue: int = QUEUE
    """How many requests may wait for each model."""
    books: Books | None = None
    """What keys may still ask; None begins anew."""
    sink: Sink | None = None
    """Where is written which key asked what, open already; None writes nothing."""


def create_app(
    served: Mapping[str, Served], settings: GatewaySettings, refusals: Refusals | None = None
) -> FastAPI:
    """Return the gateway over some models: API, probes and, if asked for, the page.

    Args:
        served: by the name for `model` in the API; the first is the page's first choice.
        settings: access, limits and the page.
        refusals: where what is refused is counted.
    """
    refusals = refusals or Refusals()
    ledger = Ledger(AuditLog(settings.sink), settings.books)
    models = SharedModels(served, settings.queue)
    decoder = PictureDecoder()
    app = FastAPI(
        title="llava-pack",
        version=llava_pack.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=functools.partial(_decoding, decoder),
    )
    install_handlers(app)
    # First: what else is asked for under /v1 is answered by the API, with a 404 of its own shape.
    signs = Signs(
        bundle_id=settings.bundle_id,
        page=settings.web,
        restarts=settings.restarts,
        standing=settings.standing,
        pictures_stall=lambda: decoder.stalled,
    )
    app.include_router(probe_router(models, signs, refusals))
    inference = Inference(models, decoder)
    for router in (openai_router, tokenize_router, observation_router, llava_router):
        app.include_router(router(inference))
    if settings.web:
        app.include_router(page_router(models))
    app.add_middleware(Admission, limits=settings.bodies)
    app.add_middleware(Guard, policy=settings.policy, ledger=ledger)
    app.add_middleware(Boundary, refusals=refusals)
    return app


@asynccontextmanager
async def _decoding(decoder: PictureDecoder, _app: FastAPI) -> AsyncIterator[None]:
    """Keep the picture decoders running while the gateway serves."""
    decoder.start()
    try:
        yield
    finally:
        await asyncio.to_thread(decoder.close)
