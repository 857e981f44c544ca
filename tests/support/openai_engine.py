"""An engine of others, as far as it can be seen from outside: the reference engine behind HTTP.

It speaks as vLLM or as SGLang does: routes, chunks, errors, counters, and what each of them lacks.
What it is asked, and who left before the end, is a line of JSON in its log.

Run it: `python tests/support/openai_engine.py --socket PATH --dialect vllm [--slots N] [--context N]
[--step-s S] [--load-until PATH] [--log PATH] [--key KEY]`.

Source: what real vLLM 0.32.0 and SGLang 0.5.23 answered, and their sources.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llava_pack.engine.measures import Odds
from llava_pack.engine.port import Delta, Event, Failed, Finished, Message, Part, Picture, Request
from llava_pack.engine.sampling import Sampling
from tests.support.engine import EchoEngine

PICTURE_TOKEN = 32000
SECRET_PATH = "/opt/engine/site-packages/sglang/srt/managers/tokenizer_manager.py"
_FINISHED = {"stop": "stop", "length": "length", "cancelled": "abort"}
_VLLM_ONLY = ("add_special_tokens", "return_token_ids", "structured_outputs")


@dataclass
class Stub:
    """The engine, and what came to it.

    Attributes:
        engine: that answers.
        dialect: `vllm` or `sglang`.
        step_s: how long a step takes.
        log: where what comes is written.
        key: that is asked for.
        ready: whether it has loaded.
        step_count: how many steps there were.
    """

    engine: EchoEngine
    dialect: str = "vllm"
    step_s: float = 0.0
    log: Path | None = None
    key: str = ""
    ready: bool = True
    step_count: int = 0
    generated: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)
    _events: dict[str, asyncio.Queue[Event]] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, **told: Any) -> None:
        """Keep what happened."""
        self.seen.append(told)
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(json.dumps(told) + "\n")

    async def work(self) -> None:
        """Step for ever, while there is something to do."""
        while True:
            if self.engine.idle:
                self._woken.clear()
                await self._woken.wait()
            await asyncio.sleep(self.step_s)
            for event in self.engine.step():
                self.generated += len(event.token_ids) if isinstance(event, Delta) else 0
                if (queue := self._events.get(event.request_id)) is not None:
                    queue.put_nowait(event)
            self.step_count += 1

    async def answer(self, request: Request) -> AsyncIterator[Event]:
        """Yield what comes of a request; who leaves before the end frees its slot."""
        name = str(next(self._ids))
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._events[name] = queue
        self.engine.submit(
            Request(
                request_id=name,
                messages=request.messages,
                sampling=request.sampling,
                conv_mode=request.conv_mode,
                new_turn=request.new_turn,
            )
        )
        self._woken.set()
        ended = False
        try:
            while not ended:
                event = await queue.get()
                ended = isinstance(event, Finished | Failed)
                yield event
        finally:
            del self._events[name]
            if not ended:
                self.note(left=name)
                self.engine.cancel(name)
                self._woken.set()


def app_of(stub: Stub) -> Starlette:
    """Return the engine's HTTP side."""

    async def health(_: HttpRequest) -> Response:
        return Response(status_code=200 if stub.ready else 503)

    async def models(_: HttpRequest) -> Response:
        card = {"id": "echo", "object": "model", "max_model_len": stub.engine.info.context_tokens}
        return JSONResponse({"object": "list", "data": [card]})

    async def metrics(_: HttpRequest) -> Response:
        return PlainTextResponse(_metrics(stub))

    async def tokenize(http: HttpRequest) -> Response:
        body = await http.json()
        stub.note(path="/tokenize", body=_shown(body))
        request = _request(body, chat="messages" in body)
        if "prompt" in body and body["prompt"] == "<image>":
            return JSONResponse({"count": 1, "tokens": [PICTURE_TOKEN]})
        ids = [PICTURE_TOKEN if i == -200 else i for i in stub.engine.tokenize(request)]
        limit = stub.engine.info.context_tokens
        return JSONResponse({"count": len(ids), "max_model_len": limit, "tokens": ids})

    async def generate(http: HttpRequest) -> Response:
        body = await http.json()
        chat = http.url.path.endswith("/chat/completions")
        stub.note(path=http.url.path, body=_shown(body), headers=dict(http.headers))
        if stub.key and http.headers.get("authorization") != f"Bearer {stub.key}":
            return _error(stub, 401, "Unauthorized")
        request = _request(body, chat=chat)
        ids = stub.engine.tokenize(request)
        if (refused := _refused(stub, body, len(ids))) is not None:
            return refused
        events = stub.answer(request)
        first = await anext(events)
        if isinstance(first, Failed):
            return _failed(stub, first, len(ids))
        prompt = [PICTURE_TOKEN if i == -200 else i for i in ids]
        pieces = _pieces(stub, body, first, events, prompt, chat=chat)
        return StreamingResponse(pieces, media_type="text/event-stream")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(stub.work())
        yield
        working.cancel()

    routes = [
        Route("/health", health),
        Route("/ready", health),
        Route("/v1/models", models),
        Route("/metrics", metrics),
        Route("/v1/chat/completions", generate, methods=["POST"]),
        Route("/v1/completions", generate, methods=["POST"]),
    ]
    if stub.dialect == "vllm":
        routes.append(Route("/tokenize", tokenize, methods=["POST"]))
    return Starlette(routes=routes, lifespan=lifespan)


def _shown(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with its pictures cut short."""

    def short(part: Any) -> Any:
        if not isinstance(part, dict) or part.get("type") != "image_url":
            return part
        return {**part, "image_url": {"url": part["image_url"]["url"][:40]}}

    messages = [
        {**message, "content": [short(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in body.get("messages", ())
    ]
    return {**body, "messages": messages} if messages else dict(body)


def _refused(stub: Stub, body: Mapping[str, Any], count: int) -> Response | None:
    """Return what the real one says to fields, None where it goes on."""
    limit, asked = stub.engine.info.context_tokens, int(body.get("max_tokens") or 16)
    if stub.dialect == "sglang":
        if body.get("stream") and body.get("return_token_ids"):
            return _error(stub, 400, "return_token_ids is not supported with streaming")
        if count < limit < count + asked:
            return _error(
                stub,
                400,
                f"Requested token count exceeds the model's maximum context length of {limit} "
                f"tokens. You requested a total of {count + asked} tokens: {count} tokens from "
                f"the input messages and {asked} tokens for the completion. Please reduce",
            )
        return None
    if body["model"] != "echo":
        return _error(stub, 404, f"The model `{body['model']}` does not exist.", param="model")
    if asked > limit:
        told = f"max_tokens={asked} cannot be greater than max_model_len={limit}."
        return _error(stub, 400, told, param="max_tokens")
    grammar = (body.get("structured_outputs") or {}).get("regex")
    if grammar == "(":
        return _error(stub, 400, "Grammar error: unclosed group")
    return None


def _error(stub: Stub, status: int, message: str, param: str | None = None) -> Response:
    told = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    if stub.dialect == "sglang":
        told["message"] = f"{message} (raised in {SECRET_PATH})"
        return JSONResponse({"object": "error", **told}, status)
    return JSONResponse({"error": told}, status)


def _failed(stub: Stub, failed: Failed, count: int) -> Response:
    limit = stub.engine.info.context_tokens
    if failed.kind != "context-length":
        return _error(stub, 500, f"EngineCore died: {failed.message}")
    if stub.dialect == "sglang":
        return _error(
            stub,
            400,
            f"The input ({count} tokens) is longer than the model's context length ({limit} "
            "tokens).",
        )
    return _error(
        stub,
        400,
        f"This model's maximum context length is {limit} tokens. However, your prompt contains at "
        f"least {count} input tokens, which exceeds this limit even without any output tokens. "
        f"Please reduce the length of the input prompt. (parameter=input_tokens, value={count})",
        param="input_tokens",
    )


def _request(body: Mapping[str, Any], *, chat: bool) -> Request:
    """Return a body as the reference engine takes it."""
    wanted = Sampling(
        temperature=float(body.get("temperature", 0)),
        max_tokens=int(body.get("max_tokens") or 16),
        seed=body.get("seed"),
        stop=tuple(body.get("stop") or ()),
        logprobs=body.get("top_logprobs") if chat else body.get("logprobs"),
    )
    if not chat:
        parts: tuple[Part, ...] = (body["prompt"],)
        return Request(
            request_id="r",
            messages=(Message("user", parts),),
            sampling=wanted,
            conv_mode="raw",
            new_turn=None,
        )
    messages = []
    for message in body["messages"]:
        content = message["content"]
        listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
        messages.append(Message(message["role"], tuple(map(_part, listed))))
    opened = body.get("add_generation_prompt", not body.get("continue_final_message"))
    new_turn = None if body.get("continue_final_message") else bool(opened)
    return Request(request_id="r", messages=tuple(messages), sampling=wanted, new_turn=new_turn)


def _part(part: Mapping[str, Any]) -> Part:
    if part["type"] == "text":
        return str(part["text"])
    _, _, data = part["image_url"]["url"].partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        return Picture(image.width, image.height, image.convert("RGB").tobytes())


async def _pieces(
    stub: Stub,
    body: Mapping[str, Any],
    first: Event,
    rest: AsyncIterator[Event],
    prompt: Sequence[int],
    *,
    chat: bool,
) -> AsyncIterator[str]:
    head: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    head["model"] = body["model"]
    vllm = stub.dialect == "vllm"
    if chat:
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        told = {"prompt_token_ids": list(prompt)} if vllm else {}
        yield _chunk({**head, "choices": [role], **told})
    opening = "" if body.get("continue_final_message") or not chat else " "
    event = first
    ids: list[int] = []
    while isinstance(event, Delta):
        follows = await anext(rest)
        choice = _choice(event, opening, body, vllm=vllm, chat=chat)
        opening = opening if not event.text else ""
        ids += event.token_ids
        if isinstance(follows, Finished):
            choice["finish_reason"] = _FINISHED[follows.reason]
        yield _chunk({**head, "choices": [choice], "usage": None})
        event = follows
    if isinstance(event, Failed):
        error = {"message": f"boom in {SECRET_PATH}", "type": "E", "param": None, "code": 500}
        yield _chunk({"error": error if vllm else {"object": "error", **error}})
    elif isinstance(event, Finished):
        if body.get("return_output_ids_in_sglext") and not vllm:
            yield _chunk({**head, "choices": [], "usage": None, "sglext": {"output_ids": [ids]}})
        usage = {
            "prompt_tokens": event.usage.prompt_tokens,
            "completion_tokens": event.usage.completion_tokens,
            "total_tokens": event.usage.prompt_tokens + event.usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 1},
        }
        yield _chunk({**head, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _choice(
    event: Delta, opening: str, body: Mapping[str, Any], *, vllm: bool, chat: bool
) -> dict[str, Any]:
    text = opening + event.text if event.text else ""
    said: dict[str, Any] = {"delta": {"content": text, "reasoning_content": None}}
    choice = {"index": 0, "finish_reason": None, **(said if chat else {"text": text})}
    if vllm and body.get("return_token_ids"):
        choice["token_ids"] = list(event.token_ids)
    if event.odds:
        form = _odds if chat else _older_odds
        choice["logprobs"] = form(event.odds)
    return choice


def _odds(odds: Sequence[Odds]) -> dict[str, Any]:
    def one(likely: Any) -> dict[str, Any]:
        text = likely.data.decode()
        return {"token": text, "logprob": likely.logprob, "bytes": list(likely.data)}

    steps = [{**one(step.chosen), "top_logprobs": list(map(one, step.likeliest))} for step in odds]
    return {"content": steps}


def _older_odds(odds: Sequence[Odds]) -> dict[str, Any]:
    return {
        "tokens": [step.chosen.data.decode() for step in odds],
        "token_logprobs": [step.chosen.logprob for step in odds],
        "top_logprobs": [
            {one.data.decode() or f"<{one.token_id}>": one.logprob for one in step.likeliest}
            for step in odds
        ],
        "text_offset": [0 for _ in odds],
    }


def _chunk(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _metrics(stub: Stub) -> str:
    labels = '{engine="0",model_name="echo"}' if stub.dialect == "vllm" else '{model_name="echo"}'
    names = {
        "vllm": {
            "vllm:iteration_tokens_total_count": stub.step_count,
            "vllm:num_requests_running": stub.engine.running,
            "vllm:num_requests_waiting": stub.engine.waiting,
            "vllm:kv_cache_usage_perc": 0.25,
            "vllm:generation_tokens_total": stub.generated,
            "vllm:prompt_tokens_total": 7,
        },
        "sglang": {
            "sglang:realtime_tokens_total": stub.generated,
            "sglang:num_running_reqs": stub.engine.running,
            "sglang:num_queue_reqs": stub.engine.waiting,
            "sglang:token_usage": 0.25,
            "sglang:generation_tokens_total": stub.generated,
            "sglang:prompt_tokens_total": 7,
        },
    }[stub.dialect]
    lines = [
        f"# HELP x y\n# TYPE {name} gauge\n{name}{labels} {float(value)}"
        for name, value in names.items()
    ]
    first = f"{stub.dialect}:time_to_first_token_seconds"
    mine = labels.removesuffix("}")
    lines += [
        f'{first}_bucket{mine},le="{bound}"}} {count}'
        for bound, count in (("0.01", 1), ("+Inf", 3))
    ]
    lines.append(f"{first}_sum{labels} 2.5")
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def serving(*options: str | Path) -> AsyncIterator[Stub]:
    """Serve until the block ends; the options are those of the command line."""
    given = _parser().parse_args(list(map(str, options)))
    engine = EchoEngine(slots=given.slots, context_tokens=given.context, says=given.says)
    stub = Stub(engine, given.dialect, given.step_s, given.log, given.key)
    stub.ready = given.load_until is None
    config = uvicorn.Config(app_of(stub), uds=str(given.socket), log_level="warning")
    server = uvicorn.Server(config)
    tasks = [asyncio.create_task(server.serve())]
    if given.load_until is not None:
        tasks.append(asyncio.create_task(_load(stub, given.load_until)))
    try:
        yield stub
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.gather(*tasks)


async def _load(stub: Stub, until: Path) -> None:
    while not until.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.02)
    stub.ready = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--dialect", choices=["vllm", "sglang"], default="vllm")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--step-s", type=float, default=0.0)
    parser.add_argument("--load-until", type=Path, help="loading takes until this is there")
    parser.add_argument("--says", type=Path, help="every answer is what this file holds")
    parser.add_argument("--log", type=Path, help="what comes is written here")
    parser.add_argument("--key", default="")
    return parser


async def _main(options: Sequence[str]) -> None:
    async with serving(*options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
