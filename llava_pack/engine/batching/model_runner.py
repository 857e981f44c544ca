"""LLaVA on transformers' own modules, by rows: what the scheduler drives."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from llava_pack.engine.batching.buckets import Batch, Buckets
from llava_pack.engine.batching.cuda_graphs import CudaCapture, Graphs
from llava_pack.engine.batching.grammars import Grammars
from llava_pack.engine.batching.kv_cache import Decode, Plan, Prefill, SlotCache
from llava_pack.engine.batching.policy import Manner
from llava_pack.engine.batching.sampling import TokenChooser, choose
from llava_pack.engine.batching.token import ChosenToken
from llava_pack.engine.batching.trace import trace
from llava_pack.engine.inputs.prompt import Prompt, PromptWriter
from llava_pack.engine.inputs.vision import Look, Vision
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import PICTURE_ID, EngineInfo, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.engine.stats import Work
from llava_pack.format.errors import SpaceError, UsageError

_NO_MEMORY = ("can't allocate memory", "out of memory")


@dataclass(frozen=True, slots=True)
class Seen:
    """A prompt's embeddings (1, tokens, hidden) from token `begin` on."""

    begin: int
    embeddings: torch.Tensor

    @property
    def end(self) -> int:
        """Return the length of the prompt."""
        return self.begin + self.embeddings.shape[1]

    def chunk(self, begin: int, end: int) -> torch.Tensor:
        """Return the embeddings of some of the prompt's tokens."""
        return self.embeddings[:, begin - self.begin : end - self.begin]


class LlavaModel:
    """One model with its cache; used from one thread (see `model.Model`)."""

    def __init__(
        self,
        network: Any,
        cache: SlotCache,
        writer: PromptWriter,
        vision: Vision,
        info: EngineInfo,
        manner: Manner,
    ) -> None:
        self._network = network
        self._language = network.model.language_model
        self._cache = cache
        self._cache_name = _cache_argument(self._language)
        self._writer = writer
        self._vision = vision
        self.info = info
        """What is served."""
        self.manner = manner
        """How the work is cut."""
        self._device = self._language.embed_tokens.weight.device
        captured = self.manner.captured
        buckets = Buckets(info.slots, info.context_tokens, captured)
        capture = CudaCapture() if captured else None
        self.graphs = Graphs(self._padded_scores, buckets, self._device, capture)
        # Rows that only fill a table up have no words: LLaVA's own code cuts them off.
        self._words = writer.tokenizer.size
        self._grammars = Grammars(writer.tokenizer, sorted(writer.eos_ids))

    @property
    def work(self) -> Work:
        """Return the counters of pictures."""
        cache = self._vision.cache
        return Work(
            picture_queries=cache.queries,
            picture_hits=cache.hits,
            picture_bytes=cache.size_bytes,
        )

    def write(self, request: Request) -> Prompt:
        """Return the request's prompt, or raise what is wrong with it."""
        return self._writer.write(request)

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, whatever its length."""
        return self._writer.read(request).ids

    def trace(self, request: Request) -> Trace:
        """Return what becomes of a question, stage by stage."""
        prompt = self._writer.read(request)
        text = request.messages[-1].text
        words = self._writer.tokenizer.encode(text, continued=False)
        tiles = [
            self._vision.processor.tiles(picture, square=prompt.squares)
            for picture in prompt.pictures[:1]
        ]
        with _memory_errors():
            return trace(self._network, prompt.ids, words, tiles[0] if tiles else None)

    @torch.inference_mode()
    def look(self, prompts: Sequence[Prompt], begins: Sequence[int]) -> list[Seen]:
        """Return each prompt's embeddings from a token on, their pictures seen together.

        Raises:
            SpaceError: out of memory.
        """
        with _memory_errors():
            wanted = [
                _pictures_after(prompt, begin)
                for prompt, begin in zip(prompts, begins, strict=True)
            ]
            features = iter(self._vision.features([one for some in wanted for one in some]))
            return [
                self._embedded(prompt, begin, [next(features) for _ in some])
                for prompt, begin, some in zip(prompts, begins, wanted, strict=True)
            ]

    def _embedded(self, prompt: Prompt, begin: int, features: Sequence[torch.Tensor]) -> Seen:
        ids = torch.tensor([prompt.ids[begin:]], device=self._device)
        pictured = ids == PICTURE_ID
        embeddings: torch.Tensor = self._language.embed_tokens(ids.masked_fill(pictured, 0))
        if features:
            # The first of them may have begun in what is reused.
            needed = torch.cat(list(features))[-int(pictured.sum()) :]
            embeddings[pictured] = needed.to(embeddings.device, embeddings.dtype)
        return Seen(begin, embeddings)

    def prepare(self, request: Request) -> None:
        """Compile what the answer is to be held to."""
        if request.sampling.grammar is not None:
            self._grammars.compile(request.sampling.grammar)

    def chooser(self, prompt: Prompt, sampling: Sampling) -> TokenChooser:
        """Return what chooses the tokens of an answer to a prompt.

        Raises:
            UsageError: a token is named that is not there.
            GrammarError: no answer can be held to the grammar.
        """
        biased = [token_id for token_id, _ in sampling.logit_bias]
        for name, ids in (("logit_bias", biased), ("stop_token_ids", sampling.stop_token_ids)):
            if unknown := [i for i in ids if not 0 <= i < self._words]:
                raise UsageError(
                    f"there is no token {unknown[0]}; expected ids from 0 to {self._words - 1}",
                    subject=name,
                )
        ends = [i for i in prompt.eos_ids if i < self._words]
        held = None
        if sampling.grammar is not None:
            held = self._grammars.hold(sampling.grammar, ends, opened=prompt.opened)
        return TokenChooser(
            sampling,
            prompt=prompt.ids,
            ends=ends,
            words=self._words,
            held=held,
        )

    @torch.inference_mode()
    def prefill(
        self, row: int, seen: Seen, begin: int, chooser: TokenChooser
    ) -> ChosenToken | None:
        """Process a chunk in a row; return the first token when it was the last chunk.

        Raises:
            SpaceError: out of memory.
        """
        end = min(begin + self.manner.chunk_tokens, seen.end)
        positions = torch.arange(begin, end, device=self._device)[None]
        with _memory_errors():
            hidden = self._forward(seen.chunk(begin, end), positions, Prefill(row, begin, end))
            if end < seen.end:
                return None
            return choose(self._scores(hidden), [chooser])[0]

    @torch.inference_mode()
    def decode(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        lengths: Sequence[int],
        choosers: Sequence[TokenChooser],
    ) -> list[ChosenToken]:
        """Give each row its last token, at its length, and return the next ones.

        Raises:
            SpaceError: out of memory.
        """
        with _memory_errors():
            if self.manner.padded:
                return choose(self.graphs.scores(rows, tokens, lengths), choosers)
            plan = Decode.of(rows, lengths, self._device)
            ids = torch.tensor(tokens, device=self._device)[:, None]
            positions = torch.tensor(lengths, device=self._device)[:, None]
            hidden = self._forward(self._language.embed_tokens(ids), positions, plan)
            return choose(self._scores(hidden), choosers)

    def _padded_scores(self, batch: Batch) -> torch.Tensor:
        """Return the scores of a padded decode; it reads nothing but buffers, as a graph must."""
        embeddings = self._language.embed_tokens(batch.ids)
        return self._scores(self._forward(embeddings, batch.positions, batch.plan()))

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""
        self._cache.copy(source, target, length)

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token adds to an answer."""
        return self._writer.tokenizer.token_bytes(token_id)

    def _forward(
        self, embeddings: torch.Tensor, positions: torch.Tensor, plan: Plan
    ) -> torch.Tensor:
        self._cache.follow(plan)
        hidden: torch.Tensor = self._language(
            inputs_embeds=embeddings,
            position_ids=positions,
            use_cache=True,
            slot_plan=plan,
            **{self._cache_name: self._cache},
        ).last_hidden_state
        return hidden

    def _scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the last position's logits, for every word of the tokenizer."""
        scores: torch.Tensor = self._network.lm_head(hidden[:, -1])
        return scores[:, : self._words]


def _pictures_after(prompt: Prompt, begin: int) -> list[Look]:
    """Return the pictures of which something comes after a token."""
    ends = prompt.ends()
    return [
        Look(picture, prompt.salt, prompt.squares)
        for picture, end in zip(prompt.pictures, ends, strict=True)
        if end > begin
    ]


def _cache_argument(language: torch.nn.Module) -> str:
    """Return what the language model calls its cache: transformers renamed it in 5.24."""
    known = inspect.signature(language.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn what torch raises when memory runs out into the error that people get."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(part in text for part in _NO_MEMORY):
            raise
        raise SpaceError(
            "out of memory while answering",
            hint="use a shorter prompt, or serve with fewer slots or a lower precision",
        ) from error
