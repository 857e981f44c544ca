"""Which of the page's routes are there: those that a person needs, and no other of its library."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from llava_pack.serve.page.routes import OPEN_ROUTES, find_route
from tests.support.gateway import ROOT, gateway
from tests.support.page_client import PageClient, page_client


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageClient]:
    with gateway(tmp_path_factory.mktemp("run"), "--web") as served, page_client(served) as client:
        yield client


# Every route of the library that is not open, and paths of it that somebody could try.
_CLOSED: dict[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/login"): ("/gradio_api/../login/", "/login/"),
    ("POST", "/login/"): ("/login/",),
    ("GET", "/logout"): ("/logout",),
    ("GET", "/svelte/{path:path}"): ("/svelte/x.js", "/svelte/../../../routes.py"),
    ("GET", "/gradio_api/deep_link"): ("/gradio_api/deep_link?session_hash=abc",),
    ("GET", "/config"): ("/config", "/config?deep_link=../x"),
    ("GET", "/config/"): ("/config/",),
    ("GET", "/robots.txt"): ("/robots.txt",),
    ("GET", "/pwa_icon"): ("/pwa_icon",),
    ("GET", "/pwa_icon/{size}"): ("/pwa_icon/99999",),
    ("GET", "/manifest.json"): ("/manifest.json",),
    ("GET", "/monitoring"): ("/monitoring",),
    ("GET", "/monitoring/summary"): ("/monitoring/summary",),
    ("GET", "/monitoring/{key}"): ("/monitoring/x",),
    ("GET", "/gradio_api/user"): ("/gradio_api/user",),
    ("GET", "/gradio_api/user/"): ("/gradio_api/user/",),
    ("GET", "/gradio_api/login_check"): ("/gradio_api/login_check",),
    ("GET", "/gradio_api/login_check/"): ("/gradio_api/login_check/",),
    ("GET", "/gradio_api/token"): ("/gradio_api/token",),
    ("GET", "/gradio_api/token/"): ("/gradio_api/token/",),
    ("GET", "/gradio_api/app_id"): ("/gradio_api/app_id",),
    ("GET", "/gradio_api/app_id/"): ("/gradio_api/app_id/",),
    ("GET", "/gradio_api/dev/reload"): ("/gradio_api/dev/reload",),
    ("GET", "/gradio_api/runs"): ("/gradio_api/runs",),
    ("GET", "/gradio_api/runs/"): ("/gradio_api/runs/",),
    ("GET", "/gradio_api/info"): ("/gradio_api/info", "/gradio_api/info?all_endpoints=1"),
    ("GET", "/gradio_api/info/"): ("/gradio_api/info/",),
    ("GET", "/gradio_api/openapi.json"): ("/gradio_api/openapi.json",),
    ("GET", "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}"): (
        "/gradio_api/custom_component/x/client/component/..%2f..%2froutes.py",
    ),
    ("GET", "/gradio_api/proxy={url_path:path}"): (
        "/gradio_api/proxy=http://127.0.0.1:9/x.png",
        "/gradio_api/proxy=https://x.hf.space/",
    ),
    ("HEAD", "/gradio_api/proxy={url_path:path}"): ("/gradio_api/proxy=https://x.hf.space/",),
    ("HEAD", "/gradio_api/file={path_or_url:path}"): (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:9/x.png",
    ),
    ("GET", "/gradio_api/file/{path:path}"): ("/gradio_api/file/etc/passwd",),
    ("POST", "/gradio_api/stream/{event_id}"): ("/gradio_api/stream/x",),
    ("POST", "/gradio_api/stream/{event_id}/close"): ("/gradio_api/stream/x/close",),
    ("GET", "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8"): (
        "/gradio_api/stream/a/b/1/playlist.m3u8",
    ),
    ("GET", "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}"): (
        "/gradio_api/stream/a/b/1/x.ts",
    ),
    ("GET", "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file"): (
        "/gradio_api/stream/a/b/1/playlist-file",
    ),
    ("POST", "/gradio_api/reset/"): ("/gradio_api/reset/",),
    ("GET", "/gradio_api/heartbeat/{session_hash}"): ("/gradio_api/heartbeat/abc",),
    ("POST", "/gradio_api/run/{api_name}/"): ("/gradio_api/run/predict/", "/gradio_api/run/answer"),
    ("POST", "/gradio_api/api/{api_name}"): ("/gradio_api/api/predict", "/gradio_api/api/answer"),
    ("POST", "/gradio_api/api/{api_name}/"): ("/gradio_api/api/predict/",),
    ("POST", "/gradio_api/call/v2/{api_name}"): ("/gradio_api/call/v2/answer",),
    ("POST", "/gradio_api/call/v2/{api_name}/"): ("/gradio_api/call/v2/answer/",),
    ("POST", "/gradio_api/call/{api_name}"): ("/gradio_api/call/answer", "/gradio_api/call/_taken"),
    ("POST", "/gradio_api/call/{api_name}/"): ("/gradio_api/call/answer/",),
    ("GET", "/gradio_api/call/v2/{api_name}/{event_id}"): ("/gradio_api/call/v2/answer/x",),
    ("GET", "/gradio_api/call/{api_name}/{event_id}"): ("/gradio_api/call/answer/x",),
    ("POST", "/gradio_api/component_server"): ("/gradio_api/component_server",),
    ("POST", "/gradio_api/component_server/"): ("/gradio_api/component_server/",),
    ("GET", "/gradio_api/queue/status"): ("/gradio_api/queue/status",),
    ("GET", "/gradio_api/upload_progress"): ("/gradio_api/upload_progress?upload_id=x",),
    ("GET", "/gradio_api/startup-events"): ("/gradio_api/startup-events",),
    ("GET", "/gradio_api/theme.css"): ("/gradio_api/theme.css",),
    ("POST", "/gradio_api/process_recording"): ("/gradio_api/process_recording",),
    ("POST", "/gradio_api/vibe-edit"): ("/gradio_api/vibe-edit",),
    ("POST", "/gradio_api/vibe-edit/"): ("/gradio_api/vibe-edit/",),
    ("POST", "/gradio_api/undo-vibe-edit"): ("/gradio_api/undo-vibe-edit",),
    ("POST", "/gradio_api/undo-vibe-edit/"): ("/gradio_api/undo-vibe-edit/",),
    ("GET", "/gradio_api/vibe-code"): ("/gradio_api/vibe-code",),
    ("GET", "/gradio_api/vibe-code/"): ("/gradio_api/vibe-code/",),
    ("POST", "/gradio_api/vibe-code"): ("/gradio_api/vibe-code",),
    ("POST", "/gradio_api/vibe-code/"): ("/gradio_api/vibe-code/",),
    ("POST", "/gradio_api/vibe-starter-queries"): ("/gradio_api/vibe-starter-queries",),
    ("POST", "/gradio_api/vibe-starter-queries/"): ("/gradio_api/vibe-starter-queries/",),
}
_LIST_ROUTES = """
import json, pathlib
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.gateway.app import GatewaySettings, create_app
settings = GatewaySettings(policy=AccessPolicy(secrets=None), web_folder=pathlib.Path.cwd())
gate = create_app({}, settings).routes[-1].app
def routes(part):
    router = getattr(part, "original_router", part)
    if not hasattr(router, "routes"):
        yield part
    for each in getattr(router, "routes", ()):
        yield from routes(each)
print(json.dumps([(m, r.path) for r in routes(gate._app) for m in getattr(r, "methods", ["*"])]))
"""


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("page")
    done = subprocess.run(
        [sys.executable, "-c", _LIST_ROUTES],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(folder),
             "GRADIO_ANALYTICS_ENABLED": "False", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    return {(method, path) for method, path in json.loads(done.stdout)}


def test_every_route_of_the_library_is_open_or_closed_here(routes: set[tuple[str, str]]) -> None:
    """A new version's new route is neither: decide about it, and write it down."""
    open_routes = {(route.method, route.template) for route in OPEN_ROUTES}
    assert open_routes & set(_CLOSED) == set()
    assert routes - open_routes - set(_CLOSED) == set(), "not decided about"
    assert open_routes <= routes, "open, and not there any more"


@pytest.mark.parametrize("route", _CLOSED, ids=" ".join)
def test_a_closed_route_is_not_there(page: PageClient, route: tuple[str, str]) -> None:
    method = route[0]
    for path in _CLOSED[route]:
        body = {"data": [], "fn_index": 0, "session_hash": "abc", "code": "x", "prompt": "x"}
        answer = page.http.request(method, path, json=body if method == "POST" else None)
        assert answer.status_code in {404, 405}, path
        if method != "HEAD" and not path.endswith("/login"):
            assert answer.json()["error"]["code"] == "not_found", path


@pytest.mark.parametrize("route", OPEN_ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_an_open_route_is_open_for_one_method(route: Any) -> None:
    names = {
        "file={path_or_url:path}": "file=/a.png",
        "{path:path}": "a/b.js",
        "{api_name}": "predict",
    }
    path = route.template
    for written, filled in names.items():
        path = path.replace(written, filled)
    assert find_route(route.method, path) is not None
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", ""):
        assert find_route(method, path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../routes.py", "/assets/..%2froutes.py", "/assets//etc/passwd", "/assets/.env",
        "/static/../../routes.py", "/static/%2e%2e/x", "/static/a\\..\\b", "/assets/",
        "/theme.css/..", "/favicon.ico/", "//", "/gradio_api/run/predict/../../config",
        "/gradio_api/file=etc/passwd", "/gradio_api/file=", "/GRADIO_API/upload",
        "/gradio_api/upload\n", "/gradio_api//upload", "/gradio_api/run/predict\x00",
    ],
)  # fmt: skip
def test_no_other_spelling_of_an_open_route_is_open(path: str) -> None:
    assert find_route("GET", path) is None
    assert find_route("POST", path) is None
