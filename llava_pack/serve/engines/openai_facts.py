"""What an OpenAI-compatible engine tells beside answers: its model, its counters, its tokens.

Nothing here has it generate anything.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from llava_pack.engine.measures import Trace, token_digest
from llava_pack.engine.port import PICTURE_ID, EngineInfo, Request
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.profiles.profile import Dialect, MetricNames
from llava_pack.serve.engines.engine_metrics import stats_of
from llava_pack.serve.engines.http_body import NO_BODY, Body
from llava_pack.serve.engines.http_exchange import HttpEndpoint
from llava_pack.serve.engines.openai_errors import refusal
from llava_pack.serve.engines.openai_events import payload_of
from llava_pack.serve.engines.openai_request import RequestWriter

ERROR_BYTES = 1 << 16
_CARD_BYTES, _METRICS_BYTES, _TOKENS_BYTES = 1 << 20, 8 << 20, 32 << 20
_METRICS_EVERY_S = 1.0
"""Counting is work for an engine too: 46 ms of SGLang's API server, 11 of vLLM's."""
_UNKNOWN = EngineInfo(
    model="", precision="", device="", context_tokens=0, slots=1, conv_mode="", image_tokens=0
)


class EngineFacts:
    """What one engine tells of itself and of requests.

    Args:
        endpoint: where it is asked.
        dialect: how it is asked.
        metrics: what its counters are called; None where they are not read.
        ready_path: answers 200 once it serves.
        info: what is known of it beside what it tells.
        tokens: the special tokens of its model, as texts.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        endpoint: HttpEndpoint,
        dialect: Dialect,
        *,
        metrics: MetricNames | None = None,
        ready_path: str = "/v1/models",
        info: EngineInfo | None = None,
        tokens: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        """Where it is asked."""
        self.dialect = dialect
        """How it is asked."""
        self.tokens = frozenset(tokens)
        """The special tokens of its model."""
        self._metrics = metrics
        self._ready_path = ready_path
        self._info = info or _UNKNOWN
        self._clock = clock
        self._writer: RequestWriter | None = None
        self._picture_id: int | None = None
        self._stats = Stats()
        self._counted_s = self._moved_s = clock() - _METRICS_EVERY_S

    async def serves(self) -> bool:
        """Return whether it answers as one that has loaded.

        Raises:
            ServeError: it does not answer.
        """
        async with self.endpoint.asked("GET", self._ready_path) as response:
            await response.whole(ERROR_BYTES)
            return response.status == 200

    async def writer(self) -> RequestWriter:
        """Return what writes requests, once the engine has told what it serves.

        Raises:
            ServeError: it does not tell.
        """
        if self._writer is None:
            card = payload_of(await self._got("GET", "/v1/models", most_bytes=_CARD_BYTES))
            try:
                first = card["data"][0]
                name = str(first["id"])
                context = int(first.get("max_model_len") or self._info.context_tokens)
            except (LookupError, AttributeError, TypeError, ValueError) as error:
                raise ServeError("the engine does not tell what it serves") from error
            if context < 1:
                raise ServeError("the engine does not tell how long a prompt may be")
            info = replace(self._info, model=self._info.model or name, context_tokens=context)
            self._writer = RequestWriter(self.dialect, info, name, self.tokens)
        return self._writer

    async def stats(self) -> Stats:
        """Return its counters; the last ones where they were looked at just before.

        Raises:
            ServeError: it does not answer.
        """
        if self._clock() - self._counted_s >= _METRICS_EVERY_S:
            path = self._ready_path if self._metrics is None else "/metrics"
            told = await self._got("GET", path, most_bytes=_METRICS_BYTES)
            before = self._stats
            if self._metrics is not None:
                self._stats = stats_of(told.decode(errors="replace"), self._metrics, before)
            self._counted_s = self._clock()
            counts = self._metrics is not None and self._metrics.steps
            if not (counts and self._stats.running) or self._stats.steps != before.steps:
                self._moved_s = self._counted_s
        return replace(self._stats, last_step_age_s=max(0.0, self._counted_s - self._moved_s))

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; a picture is -200, once for each of its tokens.

        Where another token stands for a picture in the model, it stays as it is.

        Raises:
            UsageError: it does not tell, or the request is not usable.
            ServeError: it does not answer.
        """
        if not self.dialect.tokenize:
            raise UsageError("the engine of this model does not tell the tokens of a prompt")
        writer = await self.writer()
        ids = await self._token_ids(writer.tokens_of(request), request)
        placeholder = self.dialect.placeholders[0]
        foreign = self.tokens and placeholder not in self.tokens
        if foreign or not any(message.pictures for message in request.messages):
            return ids
        if self._picture_id is None:
            alone = writer.tokens_of_text(placeholder)
            self._picture_id = (await self._token_ids(alone, request))[-1]
        return tuple(PICTURE_ID if one == self._picture_id else one for one in ids)

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question as far as it tells: nothing of its picture.

        Raises:
            PackError: the request is not usable.
            ServeError: it does not answer.
        """
        if not self.dialect.tokenize:
            return Trace(prompt="", words="")
        writer = await self.writer()
        own = writer.tokens_of_text(writer.safe(request.messages[-1].text))
        words = await self._token_ids(own, request)
        return Trace(prompt=token_digest(await self.tokenize(request)), words=token_digest(words))

    async def _token_ids(self, body: Body, request: Request) -> tuple[int, ...]:
        told = payload_of(
            await self._got("POST", self.dialect.tokenize, body, request, _TOKENS_BYTES)
        )
        try:
            return tuple(map(int, told["tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ServeError("the engine's answer is malformed") from error

    async def _got(
        self,
        method: str,
        path: str,
        body: Body = NO_BODY,
        request: Request | None = None,
        most_bytes: int = ERROR_BYTES,
    ) -> bytes:
        """Return the body of an answer that is whole.

        Raises:
            PackError: the engine refuses, or does not answer.
        """
        async with self.endpoint.asked(method, path, body) as response:
            told = await response.whole(most_bytes)
        if response.status != 200 and request is not None:
            raise refusal(response.status, told, request, self.dialect)
        if response.status != 200:
            raise ServeError(f"the engine answered {response.status} at {path}")
        return told
