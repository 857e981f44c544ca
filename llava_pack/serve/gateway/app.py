"""The gateway: one ASGI application made from what it is given."""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

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
from llava_pack.serve.aliases import Aliases
from llava_pack.serve.api.completions import completions_router
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.llava_protocol import llava_router
from llava_pack.serve.api.observe import observation_router
from llava_pack.serve.api.ollama import ollama_router
from llava_pack.serve.api.openai import openai_router
from llava_pack.serve.api.picture_root import PictureRoot
from llava_pack.serve.api.pictures import PictureDecoder
from llava_pack.serve.api.probes import Signs, probe_router
from llava_pack.serve.api.responses import responses_router
from llava_pack.serve.api.tokenize import tokenize_router
from llava_pack.serve.care import QUEUE
from llava_pack.serve.errors import install_handlers
from llava_pack.serve.gateway.guard import Boundary, Guard
from llava_pack.serve.gateway.public_address import PublicAddress
from llava_pack.serve.gateway.routes import KnownRoutes
from llava_pack.serve.page.routes import page_router
from llava_pack.serve.port import Served

_ROUTERS = (
    openai_router,
    completions_router,
    responses_router,
    ollama_router,
    tokenize_router,
    observation_router,
    llava_router,
)
"""Of everything that asks models."""


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
    aliases: Aliases = field(default_factory=dict)
    """Further names of the models in the API."""
    books: Books | None = None
    """What keys may still ask; None begins anew."""
    picture_root: Path | None = None
    """The folder below which pictures may be named by file:// URLs; None allows none."""
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
    models = SharedModels(served, settings.queue, settings.bodies.budget())
    root = settings.picture_root
    decoder = PictureDecoder(root=None if root is None else PictureRoot(root))
    app = FastAPI(
        title="llava-pack",
        version=llava_pack.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=functools.partial(_decoding, decoder),
    )
    install_handlers(app)
    signs = Signs(
        bundle_id=settings.bundle_id,
        page=settings.web,
        restarts=settings.restarts,
        standing=settings.standing,
        pictures_stall=lambda: decoder.stalled,
    )
    app.include_router(probe_router(models, signs, refusals))
    inference = Inference(models, decoder, settings.aliases)
    for router in _ROUTERS:
        app.include_router(router(inference))
    if settings.web:
        app.include_router(page_router(models))
    app.add_middleware(KnownRoutes, routes=tuple(app.routes))
    app.add_middleware(Admission, limits=settings.bodies, door=models)
    app.add_middleware(Guard, policy=settings.policy, ledger=ledger)
    app.add_middleware(Boundary, refusals=refusals)
    app.add_middleware(PublicAddress, name=settings.policy.name)
    return app


@asynccontextmanager
async def _decoding(decoder: PictureDecoder, _app: FastAPI) -> AsyncIterator[None]:
    """Keep the picture decoders running while the gateway serves."""
    decoder.start()
    try:
        yield
    finally:
        await asyncio.to_thread(decoder.close)
