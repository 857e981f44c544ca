"""A request as token ids, with the places where pictures go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_pack.checkpoint.chat_template import ChatTemplate
from llava_pack.checkpoint.special_tokens import NO_TOKENS, SpecialTokens
from llava_pack.checkpoint.templates import OWN, RAW, template
from llava_pack.engine.inputs.templates import (
    Item,
    Special,
    render,
    render_own,
    without_taken_spaces,
)
from llava_pack.engine.inputs.tokenizers import Tokenizer
from llava_pack.engine.inputs.turns import conversation
from llava_pack.engine.port import PICTURE_ID, ContextLengthError, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import UsageError

_MAX_TOKEN_CHARS = 64
"""More characters than any token of a vocabulary has."""

Keys = tuple[int | str, ...]
"""What each column of a row holds: a token id, or the digest of the picture that it is part of."""


def keys_of(ids: Sequence[int], pictures: Sequence[tuple[str, int]], placeholder: int) -> Keys:
    """Return the keys of a prompt.

    Args:
        ids: with `placeholder` once for every token of a picture.
        pictures: digest and number of tokens of each picture, in order.
        placeholder: the id that stands where pictures go.

    >>> keys_of((1, -200, -200, 7), [("ab", 2)], -200)
    (1, 'ab', 'ab', 7)
    """
    digests = (digest for digest, count in pictures for _ in range(count))
    return tuple(next(digests) if one == placeholder else one for one in ids)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids with `PICTURE_ID` repeated for every token of a picture, and the pictures in order.

    `spans` is how many tokens each picture takes; `squares` says that each is seen as one padded
    square, and not in tiles. `opened` says that an answer begins a turn, and does not go on with
    what stands there: then the space before its first word is the template's.
    """

    ids: tuple[int, ...]
    pictures: tuple[Picture, ...]
    stops: tuple[str, ...]
    eos_ids: frozenset[int]
    spans: tuple[int, ...] = ()
    salt: str = ""
    squares: bool = False
    opened: bool = True

    def __len__(self) -> int:
        """Return the number of tokens, those of pictures included."""
        return len(self.ids)

    def keys(self) -> Keys:
        """Return what stands for each token when prompts are compared."""
        seen = "square:" if self.squares else ""
        digests = [f"{seen}{picture.digest}" for picture in self.pictures]
        return keys_of(self.ids, list(zip(digests, self.spans, strict=True)), PICTURE_ID)

    def ends(self) -> list[int]:
        """Return the place after the last token of each picture."""
        at, ends = 0, []
        for span in self.spans:
            at = self.ids.index(PICTURE_ID, at) + span
            ends.append(at)
        return ends


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWriter:
    """Writes prompts for one model.

    `picture_tokens` says how many tokens a picture takes, in tiles or as one square; None where the
    model has no tower. `squares` says that of several pictures each is one square.
    `picture_ends` are special tokens before and after each picture, where the model wants them.
    `chat_template` is the checkpoint's own, `tokens` are the special ones of its vocabulary.
    """

    tokenizer: Tokenizer
    conv_mode: str
    context_tokens: int
    eos_ids: frozenset[int]
    picture_tokens: Callable[[Picture, bool], int] | None
    squares: bool = False
    picture_ends: tuple[Special, Special] | None = None
    chat_template: ChatTemplate | None = None
    tokens: SpecialTokens = NO_TOKENS

    def write(self, request: Request) -> Prompt:
        """Return the prompt of a request.

        Raises:
            ContextLengthError: the prompt does not fit the context.
            UsageError: the conversation does not fit the template, or there is a picture for a
                model that sees none.
        """
        prompt = self.read(request)
        if len(prompt) >= self.context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, the model's limit is {self.context_tokens} "
                "including the answer",
                hint="use a shorter text, fewer turns or fewer pictures",
            )
        return prompt

    def read(self, request: Request) -> Prompt:
        """Return the prompt of a request, also one that is longer than the context.

        Raises:
            UsageError: as `write`; or the text is longer than any context.
        """
        conv_mode = request.conv_mode or self.conv_mode
        own = conv_mode == OWN
        items = without_taken_spaces(self._items(request, conv_mode), self.tokens)
        self._check_length(items)
        squares = self.squares and sum(isinstance(item, Picture) for item in items) > 1
        ids = self._begin(items[0] if own and items else None)
        pictures: list[Picture] = []
        spans: list[int] = []
        before: Item | None = None
        for item in items:
            if isinstance(item, Picture):
                spans.append(self._tokens_of(item, square=squares))
                ids += [PICTURE_ID] * spans[-1]
                pictures.append(item)
            elif isinstance(item, Special):
                begins = before is None or isinstance(before, Picture)
                ids += self._special(item.token, begins=begins)
            else:
                # To transformers a picture is a special token; LLaVA begins a new text behind it.
                special = isinstance(before, Special) or (own and isinstance(before, Picture))
                ids += self.tokenizer.encode(item, continued=special)
            before = item
        stops, ends = self._ends(conv_mode, request.sampling)
        return Prompt(
            ids=tuple(ids),
            pictures=tuple(pictures),
            stops=stops,
            eos_ids=ends,
            spans=tuple(spans),
            salt=request.salt,
            squares=squares,
            opened=_opened(request, conv_mode),
        )

    def _items(self, request: Request, conv_mode: str) -> Sequence[Item]:
        if conv_mode != OWN:
            new_turn = None if conv_mode == RAW else request.new_turn
            return self._with_ends(render(request.messages, conv_mode, new_turn=new_turn))
        if self.chat_template is None:
            raise UsageError("this model has no chat template of its own", subject="conv_mode")
        return render_own(
            request.messages, self.chat_template, self.tokens.texts, new_turn=request.new_turn
        )

    def _begin(self, first: Item | None) -> list[int]:
        """Return what begins the ids, unless a chat template has written it already."""
        begin = self.tokenizer.bos_id
        if isinstance(first, Special) and self.tokenizer.special_id(first.token) == begin:
            return []
        return [] if begin is None else [begin]

    def _with_ends(self, items: Sequence[Item]) -> Sequence[Item]:
        if self.picture_ends is None:
            return items
        begin, end = self.picture_ends
        groups = ((begin, one, end) if isinstance(one, Picture) else (one,) for one in items)
        return [item for group in groups for item in group]

    def _check_length(self, items: Sequence[Item]) -> None:
        """Refuse text that no vocabulary could make short enough, before it is tokenized."""
        chars = sum(len(item) for item in items if isinstance(item, str))
        if chars > self.context_tokens * _MAX_TOKEN_CHARS:
            raise ContextLengthError(
                f"the prompt has {chars} characters, too many for the model's limit of "
                f"{self.context_tokens} tokens",
                hint="use a shorter text",
            )

    def _tokens_of(self, picture: Picture, *, square: bool) -> int:
        if self.picture_tokens is None:
            raise UsageError("this model does not accept pictures")
        return self.picture_tokens(picture, square)

    def _special(self, token: str, *, begins: bool) -> list[int]:
        found = self.tokenizer.special_id(token)
        if found is None:
            return self.tokenizer.encode(token, continued=True)
        return [*(self.tokenizer.lead(token) if begins else ()), found]

    def _ends(self, conv_mode: str, sampling: Sampling) -> tuple[tuple[str, ...], frozenset[int]]:
        """Return stop strings, and stop ids: a template's stop is an id where there is one.

        What an answer is held to says where it ends: a template's stop string may be within it.
        """
        asked = frozenset(sampling.stop_token_ids)
        if sampling.ignore_eos:
            return sampling.stop, asked
        if conv_mode == OWN:
            stops = self.tokens.ends(self.chat_template.after if self.chat_template else "")
        else:
            stops = template(conv_mode).stops
        known = {stop: self.tokenizer.special_id(stop) for stop in stops}
        texts = tuple(stop for stop, token_id in known.items() if token_id is None)
        ends = self.eos_ids | {i for i in known.values() if i is not None} | asked
        return sampling.stop if sampling.grammar else (*texts, *sampling.stop), ends


def _opened(request: Request, conv_mode: str) -> bool:
    """Return whether the answer is a turn of its own; a text as it is says so by `new_turn`."""
    if conv_mode == RAW:
        return request.new_turn is not False
    return conversation(request.messages, new_turn=request.new_turn).ending == "opened"
