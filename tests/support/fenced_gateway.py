"""A gateway behind its fence, as a process of its own: page, API, and a route that tries to get out.

Run it: `python tests/support/fenced_gateway.py PARTS.json LISTENING`, LISTENING being the number of
a descriptor; the engine of PARTS listens already.
"""

# ruff: noqa: E402 - the fence is raised before anything of the web is imported

import json
import sys
from pathlib import Path

from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.gateway.fencing import enter_gateway_fence
from tests.support.escapes import FOR_GATEWAY, Surroundings, attempt, open_terminal

open_terminal()
PARTS = json.loads(Path(sys.argv[1]).read_text())
STANDING = enter_gateway_fence(Path(PARTS["surroundings"]["home"]), mode=PARTS["mode"])

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from fastapi import Request

from llava_pack.engine.process.client import EngineClient
from llava_pack.engine.stats import Stats
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.feed import News
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from llava_pack.serve.gateway.served import ServedEngine
from llava_pack.serve.port import Status, Vitals


async def serve() -> None:
    """Serve one model until told to end."""
    path = Path(PARTS["engine"])
    async with await EngineClient.connect(path) as client:
        info = await client.ready()
    vitals = Vitals(steps=0, running=0, waiting=0, stalled_s=0.0, bound_s=60.0)
    news = News(
        engine=0,
        name="echo",
        address=EngineAddress(socket=path),
        status=Status(phase="ready"),
        info=info,
        vitals=vitals,
        stats=Stats(),
        restarts=0,
    )
    reached = asyncio.Event()
    engine = ServedEngine(news, 8, reached.set)
    await reached.wait()
    settings = GatewaySettings(
        policy=AccessPolicy(secrets=(PARTS["token"],)),
        web=True,
        standing=STANDING,
    )
    app = create_app({"echo": engine}, settings)

    async def tried(_request: Request) -> dict[str, Any]:
        return attempt(FOR_GATEWAY, Surroundings(**PARTS["surroundings"]))

    app.add_api_route("/v1/models/escapes", tried)
    app.router.routes.insert(0, app.router.routes.pop())  # before the other routes of that name
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    await server.serve([socket.socket(fileno=int(sys.argv[2]))])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(serve())
