"""Errors as HTTP: OpenAI's shape, a status each, an id to look up, and no internals.

Source: OpenAI API reference, "Error codes"; RFC 9110, 421 and Retry-After.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from llava_pack.engine.port import ContextLengthError
from llava_pack.format.errors import PackError, ServeError, SpaceError, UsageError
from llava_pack.format.text import visible
from llava_pack.serve.access.quota import QuotaError
from llava_pack.serve.access.scopes import API_PATHS
from llava_pack.serve.port import LaterError, OverloadedError, ShareError
from llava_pack.serve.validation import problem, renamed

_log = logging.getLogger(__name__)
RETRY_AFTER_S = 2
_OLLAMA = "/api/"
_PATH_CHARS = 200
_OWN_NAMES: Mapping[str, str] = {}


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(BaseModel):
    """What every error response holds."""

    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope} for status in (400, 401, 403, 404, 413, 421, 429, 500, 503)
}
"""What a route of the API documents beside its answer."""
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
_CODES = {401: "invalid_api_key", 404: "not_found", 413: "body_too_large"}


class ErrorResponse(JSONResponse):
    """An error in OpenAI's shape; below `/api/`, where Ollama's clients ask, in theirs."""

    def __init__(self, status: int, body: ErrorBody) -> None:
        super().__init__(ErrorEnvelope(error=body).model_dump(), status_code=status)
        self._message = body.message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, in the shape that the path asks for."""
        if scope["path"].startswith(_OLLAMA):
            self.body = self.render({"error": self._message})
            self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def error_response(status: int, body: ErrorBody) -> ErrorResponse:
    """Return an error response; 429 and 503 say when to come back."""
    response = ErrorResponse(status, body)
    if status in {429, 503}:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def no_such_route(method: str, path: str) -> ErrorResponse:
    """Return that there is no such route, and which there are."""
    asked = visible(f"{method} {path}")[:_PATH_CHARS]
    there_are = ", ".join(API_PATHS)
    return plain_error(404, f"there is no {asked} here; there are {there_are}")


def wrong_method(method: str, path: str, allowed: Iterable[str]) -> ErrorResponse:
    """Return that a route takes other methods."""
    methods = ", ".join(allowed)
    asked = visible(f"{path} does not accept {method}")[:_PATH_CHARS]
    refused = plain_error(405, f"{asked}; expected {methods}", code="method_not_allowed")
    refused.headers["Allow"] = methods
    return refused


def plain_error(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> ErrorResponse:
    """Return an error response whose type and code follow from the status."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return error_response(
        status, ErrorBody(message=message, type=kind, param=param, code=code or _CODES.get(status))
    )


def name_fields(request: Request, names: Mapping[str, str]) -> None:
    """Have the errors of a request call its fields as its dialect does, see `renamed`."""
    request.state.field_names = names


def field_names(request: Request) -> Mapping[str, str]:
    """Return how the dialect of a request calls the fields of a chat completion."""
    names: Mapping[str, str] = getattr(request.state, "field_names", {})
    return names


def describe(
    error: PackError, request_id: str, names: Mapping[str, str] = _OWN_NAMES
) -> tuple[int, ErrorBody]:
    """Return the status and the body for one of our errors.

    What a person can fix is told; anything else is logged under the id, and only the id is told.

    Args:
        error: what failed.
        request_id: of the request.
        names: of fields, see `field_names`.
    """
    message = visible(error.message) + (f" ({visible(error.hint)})" if error.hint else "")
    match error:
        case ContextLengthError():
            return 400, ErrorBody(
                message=message,
                type="invalid_request_error",
                param=renamed("messages", names),
                code="context_length_exceeded",
            )
        case UsageError():
            field = renamed(error.subject, names) if error.subject else None
            return 400, ErrorBody(
                message=f"{field}: {message}" if field else message,
                type="invalid_request_error",
                param=field,
                code="invalid_value",
            )
        case SpaceError():
            return 503, ErrorBody(message=message, type="server_error", code="out_of_memory")
        case QuotaError() | ShareError():
            limited = "rate_limit_exceeded"
            return 429, ErrorBody(message=message, type=limited, code=limited)
        case OverloadedError():
            return 503, ErrorBody(message=message, type="server_error", code="overloaded")
        case ServeError():
            return 503, ErrorBody(message=message, type="server_error", code="not_ready")
        case _:
            _log.error("request %s failed: %s", request_id, error)
            return 500, internal_error(request_id)


def pack_response(
    error: PackError, request_id: str = "", names: Mapping[str, str] = _OWN_NAMES
) -> ErrorResponse:
    """Return the answer to what failed, and where that is known when to come back."""
    response = error_response(*describe(error, request_id, names))
    if isinstance(error, LaterError | QuotaError):
        response.headers["Retry-After"] = str(error.retry_s)
    return response


def internal_error(request_id: str) -> ErrorBody:
    """Return the body that tells nothing but where to look."""
    message = f"internal server error; see the server's log for the id {request_id}"
    return ErrorBody(message=message, type="server_error", code="internal_error")


def install_handlers(app: FastAPI) -> None:
    """Give every error of the API the OpenAI shape."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(PackError, _on_pack)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    kind = request.headers.get("content-type", "")
    if first["loc"] == ("body",) and "json" not in kind:
        message = (
            f"expected the header Content-Type: application/json, got {visible(kind) or 'none'}"
        )
        return plain_error(400, message, code="invalid_json")
    if first["type"] == "json_invalid":
        return plain_error(400, "the body is not JSON", code="invalid_json")
    place, words = problem(first, error.body)
    place = renamed(place, field_names(request))
    message = f"{place}: {words}" if place else words
    body = ErrorBody(
        message=message, type="invalid_request_error", param=place or None, code="invalid_value"
    )
    return error_response(400, body)


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.detail, ErrorBody):
        return error_response(error.status_code, error.detail)
    return plain_error(error.status_code, str(error.detail))


async def _on_pack(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, PackError):
        raise error
    return pack_response(error, request.state.request_id, field_names(request))
