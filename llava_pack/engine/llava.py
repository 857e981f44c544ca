"""LLaVA on transformers' own modules, by rows: what the scheduler drives."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from llava_pack.engine import sampling
from llava_pack.engine.choice import Choice
from llava_pack.engine.features import packed
from llava_pack.engine.images import PictureProcessor
from llava_pack.engine.port import EngineInfo, Picture, Request, Sampling
from llava_pack.engine.prompt import PICTURE_ID, Prompt, PromptWriter
from llava_pack.engine.sampling import TokenChooser
from llava_pack.engine.slots import Plan, SlotCache
from llava_pack.format.errors import SpaceError

_CPU_CHUNK, _GPU_CHUNK = 512, 1024
"""A prompt that fits into one chunk is computed as transformers does, to the last bit; shorter
chunks would let others go on sooner, and change a word now and then in 4 bits."""
_GPU_PICTURES = 8
_NO_MEMORY = ("can't allocate memory", "out of memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the work is cut: what is best on the device, and what keeps answers the same.

    Attributes:
        chunk_tokens: prompt tokens that one prefill takes.
        padded: decode in a few fixed shapes, or every row at its own length.
        pictures_at_once: pictures that go through the tower together.
    """

    chunk_tokens: int
    padded: bool
    pictures_at_once: int


def manner(device: str, precision: str, context_tokens: int) -> Manner:
    """Return how work is cut on a device.

    On a CPU pictures go one by one and rows at their true lengths: nothing is lost there, and an
    answer does not depend on its neighbours. int8 decides over a whole prompt which columns stay
    in 16 bits, so its prompts are not cut.
    """
    whole = precision == "int8"
    if device == "cuda":
        chunk = context_tokens if whole else _GPU_CHUNK
        return Manner(chunk_tokens=chunk, padded=True, pictures_at_once=_GPU_PICTURES)
    chunk = context_tokens if whole else _CPU_CHUNK
    return Manner(chunk_tokens=chunk, padded=False, pictures_at_once=1)


class LlavaModel:
    """One model with its cache; used from one thread (see `scheduler.Model`)."""

    def __init__(
        self,
        network: Any,
        cache: SlotCache,
        writer: PromptWriter,
        processor: PictureProcessor,
        info: EngineInfo,
    ) -> None:
        self._network = network
        self._language = network.model.language_model
        self._cache = cache
        self._cache_name = _cache_argument(self._language)
        self._writer = writer
        self._processor = processor
        self._info = info
        self._device = self._language.embed_tokens.weight.device
        self._manner = manner(self._device.type, info.precision, info.context_tokens)
        # Rows that only fill a table up have no words: LLaVA's own code cuts them off.
        self._words = writer.tokenizer.size

    @property
    def info(self) -> EngineInfo:
        """Return what is served."""
        return self._info

    @property
    def chunk_tokens(self) -> int:
        """Return how many prompt tokens one prefill takes at most."""
        return self._manner.chunk_tokens

    def write(self, request: Request) -> Prompt:
        """Return the request's prompt, or raise what is wrong with it."""
        return self._writer.write(request)

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, whatever its length."""
        return self._writer.read(request).ids

    @torch.inference_mode()
    def look(self, prompt: Prompt) -> torch.Tensor:
        """Return the prompt's embeddings (1, tokens, hidden), with its pictures seen.

        Raises:
            SpaceError: out of memory.
        """
        with _memory_errors():
            ids = torch.tensor([prompt.ids], device=self._device)
            pictured = ids == PICTURE_ID
            embeddings: torch.Tensor = self._language.embed_tokens(ids.masked_fill(pictured, 0))
            if prompt.pictures:
                features = self._features(prompt.pictures).to(embeddings.dtype)
                embeddings[pictured] = features
            return embeddings

    def chooser(self, given: Sampling) -> TokenChooser:
        """Return what chooses the request's tokens."""
        return sampling.chooser(given)

    @torch.inference_mode()
    def prefill(
        self, row: int, embeddings: torch.Tensor, begin: int, chooser: TokenChooser
    ) -> Choice | None:
        """Process a chunk in a row; return the first token when it was the last chunk.

        Raises:
            SpaceError: out of memory.
        """
        length = embeddings.shape[1]
        end = min(begin + self.chunk_tokens, length)
        positions = torch.arange(begin, end, device=self._device)[None]
        with _memory_errors():
            plan = Plan(row=row, begin=begin, end=end)
            hidden = self._forward(embeddings[:, begin:end], positions, plan)
            if end < length:
                return None
            return sampling.choose(self._scores(hidden), [chooser])[0]

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], lengths: Sequence[int], choosers: Sequence[TokenChooser]
    ) -> list[Choice]:
        """Give each row its last token, at its length, and return the next ones.

        Raises:
            SpaceError: out of memory.
        """
        with _memory_errors():
            plan = self._decode_plan(lengths)
            padding = [0] * (len(plan.lengths) - len(tokens))
            ids = torch.tensor([*tokens, *padding], device=self._device)[:, None]
            positions = torch.tensor([*lengths, *padding], device=self._device)[:, None]
            hidden = self._forward(self._language.embed_tokens(ids), positions, plan)
            return sampling.choose(self._scores(hidden), choosers)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""
        self._cache.move(source, target, length)

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token adds to an answer."""
        return self._writer.tokenizer.token_bytes(token_id)

    def _decode_plan(self, lengths: Sequence[int]) -> Plan:
        if not self._manner.padded:
            return Plan.decode(lengths, self._device)
        info = self._info
        return Plan.padded_decode(lengths, self._device, info.slots, info.context_tokens)

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

    def _features(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Return the features of all pictures, one after the other, as (tokens, hidden)."""
        count = self._manner.pictures_at_once
        groups = [pictures[at : at + count] for at in range(0, len(pictures), count)]
        return torch.cat([seen for group in groups for seen in self._seen(group)])

    def _seen(self, pictures: Sequence[Picture]) -> Iterator[torch.Tensor]:
        """Yield the features of pictures that go through the tower together."""
        tiles = [torch.from_numpy(self._processor.tiles(picture)) for picture in pictures]
        config = self._network.config
        features = self._network.model.get_image_features(
            pixel_values=torch.cat(tiles).to(self._device, self._network.dtype),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        ).pooler_output
        stacked = features if isinstance(features, torch.Tensor) else torch.stack(list(features))
        parts = torch.split(stacked, [len(one) for one in tiles])
        newline = getattr(self._network.model, "image_newline", None)
        for picture, part in zip(pictures, parts, strict=True):
            yield packed(part, picture.size, self._processor.tiling, newline)


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
        if isinstance(error, RuntimeError) and not any(part in text for part in _NO_MEMORY):
            raise
        raise SpaceError(
            "out of memory while answering",
            hint="ask with a shorter prompt, or serve with fewer slots or a lower precision",
        ) from error
