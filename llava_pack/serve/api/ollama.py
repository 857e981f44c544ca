"""Ollama's API: what its clients ask to see, to talk to and to be told of models.

Bodies are read whatever type they are said to have, as Ollama does: `curl -d` says that it sends a
form. Models cannot be pulled or made here, and nothing is embedded.

Source: ollama docs/api.md.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.scopes import OLLAMA_MANAGEMENT
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.api.answering import ask, reply
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.ollama_wire import LATEST, OllamaChat, OllamaGenerate
from llava_pack.serve.api.translation import Answer, chat_request
from llava_pack.serve.api.wire import ChatRequest, TokenOdds
from llava_pack.serve.api.writer import AnswerHead, head_of
from llava_pack.serve.errors import ErrorBody, name_fields, plain_error
from llava_pack.serve.validation import problem

_VERSION = "0.12.0"
"""Of Ollama's API, which clients look at before they use what is newer."""
_NS = 1_000_000_000
_FOREVER = "9999-12-31T23:59:59Z"
B = TypeVar("B", bound=BaseModel)


class NamedOllamaModel(BaseModel):
    """What asks for one model; `name` is what it was called before."""

    model: str = ""
    name: str = ""


def ollama_router(inference: Inference) -> APIRouter:
    """Return the routes under `/api`."""
    router = APIRouter(prefix="/api", include_in_schema=False)
    shelf = _Shelf(inference)

    @router.get("/version")
    async def version() -> dict[str, str]:
        return {"version": _VERSION}

    @router.get("/tags")
    async def tags() -> dict[str, Any]:
        return {"models": [shelf.entry(name) for name in shelf.names]}

    @router.get("/ps")
    async def running() -> dict[str, Any]:
        return {"models": [shelf.running(name) for name in shelf.names if shelf.loaded(name)]}

    @router.post("/show")
    async def show(request: Request) -> dict[str, Any]:
        body = await _read(NamedOllamaModel, request)
        return shelf.card(body.model or body.name)

    @router.post("/chat")
    async def chat(request: Request) -> Response:
        body = await _read(OllamaChat, request)
        return await _answered(shelf, body, request, empty=not body.messages)

    @router.post("/generate")
    async def generate(request: Request) -> Response:
        body = await _read(OllamaGenerate, request)
        return await _answered(shelf, body, request, empty=not (body.prompt or body.images))

    async def managed(request: Request) -> JSONResponse:
        what = request.url.path.rpartition("/")[2]
        message = f"{what} is not available: models come in bundles, see llava-pack start and swap"
        return plain_error(501, message)

    for name in OLLAMA_MANAGEMENT:
        method = "DELETE" if name == "delete" else "POST"
        router.add_api_route(f"/{name}", managed, methods=[method], response_model=None)
    return router


async def _read(kind: type[B], request: Request) -> B:
    """Return a body, whatever type its header gives it.

    Raises:
        UsageError: it is not one of that kind.
    """
    try:
        body = from_json(await request.body())
    except ValueError as error:
        raise UsageError("the body is not JSON") from error
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _refusal({**first, "loc": ("body", *first["loc"])}, body) from error


def _refusal(first: Mapping[str, Any], body: Any) -> UsageError:
    """Return what is wrong with a body, in words alone: there is no field for the place."""
    place, words = problem(first, body)
    return UsageError(words, subject=place)


def _chat(body: OllamaChat | OllamaGenerate, own: str) -> ChatRequest:
    try:
        return chat_request({**body.as_chat, "model": own})
    except RequestValidationError as error:
        raise _refusal(error.errors()[0], error.body) from error


async def _answered(
    shelf: "_Shelf", body: OllamaChat | OllamaGenerate, request: Request, *, empty: bool
) -> Response:
    own = shelf.find(body.model).name
    writer = OllamaWriter(
        head_of(request, "ollama", body.model), generates=isinstance(body, OllamaGenerate)
    )
    if empty:  # to have a model loaded, or unloaded: it stays
        return JSONResponse(writer.line("", done=True, done_reason="load"))
    name_fields(request, body.field_names)
    asked = _chat(body, own)
    prompt = body.prompt if isinstance(body, OllamaGenerate) and body.raw else None
    choices = ask(shelf.inference, asked, writer.head, request, prompt=prompt)
    return await reply(choices, writer, request, stream=body.streams)


@dataclass(frozen=True)
class OllamaWriter:
    """Writes answers as Ollama does: an object a line, the last one with the counts."""

    head: AnswerHead
    generates: bool
    """Whether it answers `/api/generate`, whose text has another name."""
    media_type: str = "application/x-ndjson"

    def whole(self, choices: Sequence[Answer]) -> str:
        """Return the answer as one object."""
        [answer] = choices
        return json.dumps(self._last(answer, answer.text, answer.odds), ensure_ascii=False)

    def opening(self) -> Iterable[str]:
        """Return nothing: the first line has text."""
        return ()

    def piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:  # noqa: ARG002 - there is one
        """Return a line with a piece of the text."""
        if text or odds:
            yield _line(self.line(text, odds, done=False))

    def ended(self, index: int, choice: Answer) -> Iterable[str]:  # noqa: ARG002 - there is one
        """Return the last line."""
        yield _line(self._last(choice, "", ()))

    def closing(self, choices: Sequence[Answer]) -> Iterable[str]:  # noqa: ARG002 - it was written
        """Return nothing: the last line was written."""
        return ()

    def failure(self, error: ErrorBody) -> Iterable[str]:
        """Return a line with the error."""
        yield _line({"error": error.message})

    def ping(self) -> Iterable[str]:
        """Return a line without text."""
        yield _line(self.line("", done=False))

    def line(
        self, text: str, odds: Sequence[TokenOdds] = (), *, done: bool, **more: Any
    ) -> dict[str, Any]:
        """Return a line's object."""
        said = {"response": text} if self.generates else {"message": _message(text)}
        told = {"logprobs": [one.model_dump() for one in odds]} if odds else {}
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        head = {"model": self.head.model, "created_at": now}
        return {**head, **said, **told, "done": done, **more}

    def _last(self, answer: Answer, text: str, odds: Sequence[TokenOdds]) -> dict[str, Any]:
        warnings = {"warnings": self.head.warnings} if self.head.warnings else {}
        counts = {"done_reason": answer.finish_reason, **_counts(answer)}
        return self.line(text, odds, done=True, **counts, **warnings)


def _message(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _line(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")) + "\n"


def _counts(answer: Answer) -> dict[str, int]:
    """Return tokens, and nanoseconds: of reading the prompt, of writing, of all."""
    if answer.ended is None:
        return {}
    times, usage = answer.ended.timings, answer.ended.usage
    read_s, wrote_s = times.first_token_s - times.queued_s, times.total_s - times.first_token_s
    return {
        "total_duration": round(times.total_s * _NS),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": round(max(0.0, read_s) * _NS),
        "eval_count": usage.completion_tokens,
        "eval_duration": round(max(0.0, wrote_s) * _NS),
    }


class _Shelf:
    """The models, under the names that Ollama's clients know: each has a tag."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self._started = datetime.now(UTC).isoformat()

    @property
    def names(self) -> dict[str, str]:
        """Return every name with a tag, and the same as the API has it."""
        names = (name for model in self.inference.models for name in self.inference.names_of(model))
        return {name if ":" in name else f"{name}{LATEST}": name for name in names}

    def find(self, name: str) -> Shared:
        """Return a model by a name of its, with the tag that every model has or without.

        Raises:
            HTTPException: 404, there is none.
        """
        return self.inference.find(self.names.get(name, name))

    def loaded(self, name: str) -> bool:
        """Return whether a model has been loaded."""
        return self.find(name).info is not None

    def entry(self, name: str) -> dict[str, Any]:
        """Return a model's line in a list."""
        model = self.find(name)
        digest = hashlib.sha256(model.name.encode()).hexdigest()
        return {
            "name": name,
            "model": name,
            "modified_at": self._started,
            "size": 0,
            "digest": digest,
            "details": _details(model),
        }

    def running(self, name: str) -> dict[str, Any]:
        """Return a loaded model's line in a list."""
        limit = {"context_length": info.context_tokens} if (info := self.find(name).info) else {}
        return {**self.entry(name), "expires_at": _FOREVER, "size_vram": 0, **limit}

    def card(self, name: str) -> dict[str, Any]:
        """Return what there is to say of a model."""
        model = self.find(name)
        limit = {"llava.context_length": model.info.context_tokens} if model.info else {}
        return {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(model),
            "model_info": {"general.architecture": "llava", **limit},
            "capabilities": ["completion", "vision"],
            "modified_at": self._started,
        }


def _details(model: Shared) -> dict[str, Any]:
    precision = model.info.precision.upper() if model.info else ""
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "llava",
        "families": ["llava", "clip"],
        "parameter_size": "",
        "quantization_level": precision,
    }
