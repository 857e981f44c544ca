"""The page's routes: its front, its files, and the facts that it asks for.

Everything else that it does goes by the routes that every client has.
"""

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llava_pack.serve.errors import no_such_route
from llava_pack.serve.page.facts import page_facts
from llava_pack.serve.page.files import FRONT, page_files
from llava_pack.serve.port import Served


def page_router(models: Mapping[str, Served]) -> APIRouter:
    """Return the routes of the page over some models; the first is its first choice."""
    router = APIRouter(include_in_schema=False)
    files = page_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def front(request: Request) -> Response:
        return files[FRONT].answer(request)

    @router.get("/page/facts")
    async def facts() -> JSONResponse:
        return JSONResponse(page_facts(models.values()), headers={"Cache-Control": "no-store"})

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            return no_such_route(request.method, request.scope["path"])
        return files[name].answer(request)

    return router
