"""A request as an OpenAI-compatible engine takes it: nothing is sent that was not written here.

Whatever an engine cannot honour is refused by the name that the client gave it. Text of people is
text: where it spells one of the model's special tokens, or what stands for a picture, a space of no
width is put into it. Pictures go along as they were decoded: as PPM, at which
Pillow is fifty times as fast as at PNG.

Source: OpenAI API reference, "Create chat completion" and "Create completion".
"""

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llava_pack.checkpoint.templates import OWN, RAW, TEMPLATES, template
from llava_pack.engine.inputs.turns import Dialogue, conversation
from llava_pack.engine.port import ContextLengthError, EngineInfo, Part, Picture, Request
from llava_pack.engine.sampling import Grammar, GrammarError
from llava_pack.format.errors import UsageError
from llava_pack.profiles.profile import Dialect
from llava_pack.serve.engines.http_body import PPM_URL, Body, PictureText

CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"
_ALWAYS = ("temperature", "top_p", "max_tokens")
"""Sent as they are, since engines have other defaults."""
_NO_WIDTH = "\u200b"
_MAX_TOKEN_CHARS = 64
"""More characters than any token of a vocabulary has."""


@dataclass(frozen=True)
class RequestWriter:
    """Writes what one engine is asked.

    Attributes:
        dialect: of the engine.
        info: what it serves.
        model: what it calls the model.
        tokens: the special tokens of the model, as texts.
    """

    dialect: Dialect
    info: EngineInfo
    model: str
    tokens: Collection[str] = ()

    def generation(self, request: Request, most_tokens: int | None = None) -> tuple[str, Body]:
        """Return the path and the body that ask for an answer.

        Args:
            request: what is asked.
            most_tokens: of the answer, where the engine has said how many there is room for.

        Raises:
            UsageError: the engine cannot do what is asked; its subject is the setting.
        """
        path, fields = self._asked(request)
        fields |= self._sampling(request, chat=path == CHAT)
        if most_tokens is not None:
            fields[self.dialect.sampling["max_tokens"]] = most_tokens
        if request.salt and self.dialect.salt:
            fields[self.dialect.salt] = request.salt
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return path, self._body({**fields, **stream}, request)

    def tokens_of(self, request: Request) -> Body:
        """Return the body that asks for the tokens of a prompt.

        Raises:
            UsageError: as `generation`.
        """
        return self._body(self._asked(request)[1], request)

    def tokens_of_text(self, text: str) -> Body:
        """Return the body that asks for the tokens of a text that stands alone."""
        fields = {"model": self.model, "prompt": text, "add_special_tokens": False}
        return Body((json.dumps(fields).encode(),))

    def safe(self, text: str) -> str:
        """Return a text of a person's, in which nothing is a token but text."""
        return self._breaking(text)

    def _asked(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Return the path and the fields that say what the prompt is."""
        own = self.info.conv_mode
        common = {"model": self.model, **self.dialect.request}
        self._check_length(request)
        if request.conv_mode == RAW:
            return TEXTS, {**common, "prompt": self._raw(request)}
        if request.conv_mode not in {None, own}:
            raise UsageError(
                f"the engine of this model has one conversation template, {own or 'its own'}",
                subject="conv_mode",
                hint="leave it out",
            )
        dialogue = _dialogue(request, own)
        if dialogue.ending not in self.dialect.endings:
            raise UsageError(
                f"the engine of this model cannot be given a prompt that ends {dialogue.ending}",
                subject="new_turn",
                hint="let the last message be the user's, and leave the option out",
            )
        ending = self.dialect.endings[dialogue.ending]
        return CHAT, {**common, "messages": self._messages(dialogue), **ending}

    def _messages(self, dialogue: Dialogue) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if dialogue.system is not None:
            messages.append({"role": "system", "content": self._content([dialogue.system])})
        messages += [
            {"role": role, "content": self._content(parts)} for role, parts in dialogue.turns
        ]
        if dialogue.ending == "continued":  # some go on with a text only
            messages[-1]["content"] = self.safe(str(dialogue.turns[-1][1][0]))
        return messages

    def _content(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        texts = iter(apart([one for one in parts if isinstance(one, str)], self.safe))
        picture = {"type": "image_url", "image_url": {"url": self._place}}
        return [
            picture if isinstance(part, Picture) else {"type": "text", "text": next(texts)}
            for part in parts
        ]

    def _body(self, fields: Mapping[str, Any], request: Request) -> Body:
        """Return fields as JSON, with the pictures in their places."""
        first, *others = json.dumps(fields).encode().split(self._place.encode())
        parts: list[bytes | PictureText] = [first]
        pictures = [picture for message in request.messages for picture in message.pictures]
        for picture, text in zip(pictures, others, strict=True):
            parts += [PPM_URL, PictureText(picture), text]
        return Body(parts)

    def _raw(self, request: Request) -> str:
        """Return a text that is taken as it is, with the two tokens that may stand in it."""
        if not self.dialect.texts:
            raise UsageError(
                "the engine of this model takes conversations only, and no text as it is",
                hint="send the conversation to /v1/chat/completions",
            )
        if any(message.pictures for message in request.messages):
            raise UsageError(
                "the engine of this model takes pictures in a conversation only, and none in a "
                "text as it is",
                hint="send the conversation to /v1/chat/completions",
            )
        texts = (part for message in request.messages for part in message.parts)
        return self._breaking_raw("".join(map(str, texts)))

    def _check_length(self, request: Request) -> None:
        """Refuse text that no vocabulary could make short enough, before anything is done."""
        texts = (part for one in request.messages for part in one.parts if isinstance(part, str))
        if (chars := sum(map(len, texts))) > self.info.context_tokens * _MAX_TOKEN_CHARS:
            raise ContextLengthError(
                f"the prompt has {chars} characters, too many for the model's limit of "
                f"{self.info.context_tokens} tokens",
                hint="use a shorter text",
            )

    def _sampling(self, request: Request, *, chat: bool) -> dict[str, Any]:
        names, sampling = self.dialect.sampling, request.sampling
        given = {name: value for name, value in sampling.given.items() if name != "grammar"}
        if lacking := [name for name in given if name not in names]:
            raise UsageError(
                f"the engine of this model has no {lacking[0]}",
                subject=lacking[0],
                hint="leave it out",
            )
        values = {**{name: getattr(sampling, name) for name in _ALWAYS}, **given}
        # An answer ends where the context does; some engines refuse to be asked for more.
        values["max_tokens"] = max(1, min(sampling.max_tokens, self.info.context_tokens - 1))
        if sampling.logit_bias:
            values["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
        fields = {names[name]: value for name, value in values.items()}
        if sampling.logprobs is not None and chat:
            fields |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        held = {} if sampling.grammar is None else self._grammar(sampling.grammar)
        return {**fields, **held}

    def _grammar(self, grammar: Grammar) -> dict[str, Any]:
        field = self.dialect.grammars.get(grammar.kind)
        if field is None:
            kind = grammar.kind.replace("_", " ")
            raise GrammarError(f"the engine of this model cannot hold an answer to a {kind}")
        value: Any = grammar.text
        if grammar.kind in {"json_schema", "choice"}:
            value = _read(grammar)
        if field == "response_format":
            schema = {"name": "answer", "schema": value}
            return {field: {"type": "json_schema", "json_schema": schema}}
        outer, _, inner = field.partition(".")
        return {outer: {inner: value} if inner else value}

    @cached_property
    def _place(self) -> str:
        """What stands in JSON where a picture goes; nobody else can write it."""
        return secrets.token_hex(16)

    @cached_property
    def _breaking(self) -> Callable[[str], str]:
        return breaking((*self.dialect.placeholders, *self.tokens))

    @cached_property
    def _breaking_raw(self) -> Callable[[str], str]:
        return breaking({*self.dialect.placeholders, *self.tokens} - {*template(RAW).specials})


def breaking(tokens: Collection[str]) -> Callable[[str], str]:
    r"""Return what puts a space of no width into each of some tokens, wherever a text has it.

    Tokens of one character, and those of white space alone, are left as they are.

    >>> breaking(["<s>", "<image>"])("a <<s> <image")
    'a <<\u200bs> <image'
    """
    rests: dict[str, list[str]] = {}
    for token in sorted(set(tokens)):
        if len(token) > 1 and token.strip():
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
    if not rests:
        return str
    begins = (f"{re.escape(first)}(?={'|'.join(some)})" for first, some in rests.items())
    pattern = re.compile("|".join(begins))
    return lambda text: pattern.sub(rf"\g<0>{_NO_WIDTH}", text)


def apart(texts: Iterable[str], safe: Callable[[str], str]) -> list[str]:
    r"""Return texts of one turn, in which nothing is a token if a template joins or trims them.

    Args:
        texts: in their order.
        safe: as `breaking` returns it.

    >>> apart(["<im", "", "age> <s>"], breaking(["<s>", "<image>"]))
    ['<im', '', '\u200bage> <\u200bs>']
    """
    found: list[str] = []
    before = ""
    for text in map(safe, texts):
        joined = (before + text, before.rstrip() + text.lstrip())
        parted = text if all(safe(one) == one for one in joined) else _NO_WIDTH + text
        found.append(parted)
        before = (before + parted)[-_MAX_TOKEN_CHARS:]
    return found


def _dialogue(request: Request, conv_mode: str) -> Dialogue:
    """Return the turns as a chat template takes them: system text first, or in a person's turn."""
    given = conversation(request.messages, new_turn=request.new_turn).with_late_systems_asked()
    return given.begun_by_user() if _wants_question(conv_mode) else given


def _wants_question(conv_mode: str) -> bool:
    """Return whether a template is written for conversations that a person begins."""
    chosen = TEMPLATES.get(conv_mode)
    if chosen is None or conv_mode == OWN:
        return True
    return chosen.style == "llama_2" or (chosen.style == "turns" and not chosen.head)


def _read(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the {grammar.kind.replace('_', ' ')} is not JSON") from error
