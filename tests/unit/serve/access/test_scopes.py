"""The table of routes: every route of the gateway is in one row, and everything else is shut."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.access.scopes import LLAVA_ROUTES, OLLAMA_MANAGEMENT, route_of
from llava_pack.serve.gateway.app import GatewaySettings, create_app

OLLAMA = ("version", "tags", "ps", "show", "chat", "generate")
# What each route of the API needs, written down once more by hand; None is open to every key.
NEEDS: dict[str, str | None] = {
    "/livez": None, "/health": None, "/v1/health/live": None,
    "/readyz": "observe", "/v1/health/ready": "observe", "/startupz": "observe",
    "/metrics": "observe", "/observe": "observe",
    "/openapi.json": "ask", "/tokenize": "ask", "/v1/chat/completions": "ask", "/v1/models": "ask",
    "/v1/models/{name:path}": "ask",
    "/v1/completions": "ask", "/v1/responses": "ask",
    **{f"/api/{name}": "ask" for name in (*OLLAMA, *OLLAMA_MANAGEMENT)},
    **{f"/{name}": "ask" for name in LLAVA_ROUTES},
    **{f"/llava/{{key}}/{name}": "ask" for name in LLAVA_ROUTES},
}  # fmt: skip
METERED = {
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate", "/tokenize", "/observe", "/worker_generate_stream",
    "/llava/{key}/worker_generate_stream",
}  # fmt: skip
PAGE = {"/", "/page/facts", "/page/{name}"}
BY_PAGE = {"/v1/chat/completions", "/tokenize"}
"""What a session of a key that opens the page alone may ask, since the page asks it."""


def routes(part: Any) -> Iterator[str]:
    """Yield the template of every route, also of routers that were included or mounted."""
    return (template for template, _ in routes_of(part))


def routes_of(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every route with its template."""
    for route in getattr(part, "original_router", part).routes:
        if hasattr(route, "original_router"):
            context = route.include_context
            yield from routes_of(route, prefix + context.prefix)
        elif getattr(route, "routes", None) is not None and not hasattr(route, "methods"):
            yield from routes_of(route, prefix)
        else:
            yield prefix + route.path, route


def _sample(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", template)


def test_every_route_of_the_api_is_in_one_row() -> None:
    app = create_app({}, GatewaySettings(policy=AccessPolicy(secrets=None), web=False))
    templates = set(routes(app))
    assert templates == set(NEEDS), "a new route needs a row in scopes.py, and one above"
    for template in templates:
        row = route_of(_sample(template))
        assert row is not None, template
        assert (row.needs, row.metered) == (NEEDS[template], template in METERED), template
        assert row.listed
        assert re.sub(r":path", "", template) == row.template


def test_every_route_of_the_page_needs_the_page_and_the_page_asks_for_no_more() -> None:
    settings = GatewaySettings(policy=AccessPolicy(secrets=None), web=True)
    templates = set(routes(create_app({}, settings)))
    assert templates - set(NEEDS) == PAGE
    for template in PAGE:
        row = route_of(_sample(template))
        assert row is not None, template
        assert (row.needs, row.listed, row.metered) == ("page", False, False)
    by_page = {path for path in templates if (row := route_of(_sample(path))) and row.by_page}
    assert by_page == BY_PAGE


@pytest.mark.parametrize(
    "path",
    ["", "*", "metrics", "//", "//metrics", "/metrics/", "/metrics;x", "/METRICS", "/metrics\n",
     "/v1/health/ready\n", "/v1/health/ready\x7f", "/metrics\x00", "/./metrics", "/v1", "/llava",
     "/llava/", "/llava/key", "/llava/key/metrics", "/llava/key/v1/models", "/llava//list_models/",
     "http://localhost/metrics", "/monitoring", "/page", "/logout", "/.env"],
)  # fmt: skip
def test_what_is_in_no_row_is_shut(path: str) -> None:
    assert route_of(path) is None


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "Get", "", "GET "])
def test_an_odd_method_is_in_no_row(method: str) -> None:
    """The API's router hands it on to the page, which is another scope."""
    assert route_of("/v1/models", method) is None
