"""LLaVA's own protocol on the one port: its controller and its worker, for its own clients.

`--controller-url http://localhost:7860/llava/KEY` is what LLaVA's web server, `test_message` and
others of its family are given. They can send no header, so there is a key in the path: it is made
for one key and one start, is not that key, and opens these routes only. There are no workers to
register: the controller is also the worker of every model.

Errors are `{"text": …, "error_code": N}` in the stream, as those clients expect.

Source: haotian-liu/LLaVA llava/serve/controller.py, model_worker.py, gradio_web_server.py;
CVE-2024-9309, CVE-2024-10044 for why nobody registers from outside.
"""

import base64
import binascii
import functools
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.limits import MAX_STOP_CHARS, MAX_TEMPERATURE
from llava_pack.engine.port import ContextLengthError, Event, Message, Part, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import PackError, UsageError
from llava_pack.serve.access.scopes import LLAVA_PREFIX
from llava_pack.serve.admission.bodies import body_is_gone
from llava_pack.serve.admission.visits import Visit
from llava_pack.serve.api.inference import Inference, Question, visit_with
from llava_pack.serve.api.messages import MAX_PICTURES
from llava_pack.serve.api.translation import Answer
from llava_pack.serve.api.wire import MAX_PROMPT_CHARS
from llava_pack.serve.caller import Caller, root_url
from llava_pack.serve.errors import describe, plain_error

_log = logging.getLogger(__name__)
_IMAGE = "<image>"
_MOST_TOKENS = 1024
_GREEDY = 0.001
_WORKER_FAILED, _NO_MODEL = 1, 2
_TOO_LONG = "Exceeds max token length. Please start a new conversation, thanks."


class NamedModel(BaseModel):
    """What asks for a worker's address."""

    model: str


class StreamRequest(BaseModel):
    """What LLaVA's worker is asked; `stop` may be a string or absent."""

    model: str
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
    images: Annotated[list[str], Field(max_length=MAX_PICTURES, fail_fast=True)] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=0)] = 256
    stop: Annotated[str, Field(max_length=MAX_STOP_CHARS)] | None = None


def llava_router(inference: Inference) -> APIRouter:
    """Return the routes, at the root and behind the key's path."""
    router = APIRouter()
    worker, models = _Worker(inference), inference.models

    @router.post("/refresh_all_workers")
    async def refresh_all_workers() -> None:
        return None

    @router.post("/list_models")
    async def list_models() -> dict[str, list[str]]:
        return {"models": [name for name, model in models.items() if model.info is not None]}

    @router.post("/get_worker_address")
    async def get_worker_address(body: NamedModel, request: HttpRequest) -> dict[str, str]:
        found = body.model in models
        return {"address": _address(request) if found else ""}

    @router.post("/worker_get_status")
    async def worker_get_status() -> dict[str, Any]:
        waiting = sum(model.vitals.running + model.vitals.waiting for model in models.values())
        return {"model_names": list(models), "speed": len(models), "queue_length": waiting}

    @router.post("/worker_generate_stream")
    async def worker_generate_stream(
        body: StreamRequest, request: HttpRequest
    ) -> StreamingResponse:
        request_id, visit = f"llava-{request.state.request_id}", visit_with(request)
        gone = functools.partial(body_is_gone, request)
        return StreamingResponse(worker.stream(body, request_id, visit, gone))

    @router.post("/register_worker")
    @router.post("/receive_heart_beat")
    async def register_worker() -> JSONResponse:
        return plain_error(403, "workers cannot register here; llava-pack start adds a model")

    both = APIRouter()
    both.include_router(router, include_in_schema=False)
    both.include_router(router, prefix=f"{LLAVA_PREFIX}{{key}}", include_in_schema=False)
    return both


class _Worker:
    """Answers as LLaVA's model worker does."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def stream(
        self, body: StreamRequest, request_id: str, visit: Visit, gone: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        """Yield the prompt with the answer so far, again and again, each ended by NUL.

        Args:
            body: what was asked; its pictures are taken out of it.
            request_id: of the answer.
            visit: of who asks.
            gone: called once the pictures as they came are held no more.
        """
        text = body.prompt
        try:
            if body.model not in self._inference.models:
                yield _frame(f"there is no model {body.model[:200]!r} here", _NO_MODEL)
                return
            yield _frame(text)
            async with aclosing(self._events(body, request_id, visit, gone)) as events:
                answer = Answer()
                async for event in events:
                    if answer.take(event):
                        yield _frame(body.prompt + answer.text)
        except ContextLengthError:
            yield _frame(body.prompt + _TOO_LONG)
        except PackError as error:
            yield _frame(describe(error, request_id)[1].message, _WORKER_FAILED)
        except Exception:  # noqa: BLE001 - the boundary of a stream
            _log.exception("request %s failed", request_id)
            yield _frame(f"the server failed: {request_id}", _WORKER_FAILED)

    def _events(
        self, body: StreamRequest, request_id: str, visit: Visit, gone: Callable[[], None]
    ) -> AsyncGenerator[Event, None]:
        texts, wanted = _question(body, request_id, visit.caller)
        images, body.images = body.images or [], None

        async def files() -> list[bytes]:
            decoded = await anyio.to_thread.run_sync(_decoded, images)
            images.clear()
            gone()
            return decoded

        def messages(pictures: Sequence[Picture]) -> tuple[Message, ...]:
            return (Message("user", _parts(texts, pictures)),)

        model = self._inference.models[body.model]
        return self._inference.answer(model, visit, Question(wanted, files, messages))


def _question(body: StreamRequest, request_id: str, caller: Caller) -> tuple[list[str], Request]:
    """Return the texts between the pictures, and what is asked, still without its message."""
    texts, images = body.prompt.split(_IMAGE), body.images or []
    if len(images) != len(texts) - 1:
        raise UsageError(
            f"the prompt has {_IMAGE} {len(texts) - 1} times, but {len(images)} pictures came"
        )
    greedy = body.temperature <= _GREEDY
    wanted = Request(
        request_id=request_id,
        messages=(),
        conv_mode=RAW,
        salt=caller.salt,
        sampling=Sampling(
            temperature=0.0 if greedy else body.temperature,
            top_p=body.top_p or 1.0,
            max_tokens=max(1, min(body.max_new_tokens, _MOST_TOKENS)),
            stop=(body.stop,) if body.stop else (),
        ),
    )
    return texts, wanted


def _parts(texts: Sequence[str], pictures: Sequence[Picture]) -> tuple[Part, ...]:
    """Return texts and pictures in turn, without the texts that are empty."""
    parts: list[Part] = [texts[0]]
    for picture, text in zip(pictures, texts[1:], strict=True):
        parts += [picture, text]
    return tuple(part for part in parts if part != "")


def _frame(text: str, error_code: int = 0) -> bytes:
    return json.dumps({"text": text, "error_code": error_code}).encode() + b"\0"


def _decoded(images: Sequence[str]) -> list[bytes]:
    try:
        return [base64.b64decode(image, validate=True) for image in images]
    except (binascii.Error, ValueError) as error:
        raise UsageError("a picture is not valid base64") from error


def _address(request: HttpRequest) -> str:
    """Return where the client found us, which is where it finds the worker too.

    The guard has let only a Host of ours through.
    """
    key = request.path_params.get("key")
    return root_url(request.scope) + (f"{LLAVA_PREFIX}{key}" if key else "")
