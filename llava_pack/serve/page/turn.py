"""One turn of the page: from the conversation on the screen to the answer, piece by piece.

The conversation on the screen is the only one there is: every turn hands it over whole, so that
what a person cleared, stopped or took back is gone for the model too. Without Gradio; messages are
the plain values that it hands over: `role`, and `content` as a list of texts and files.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.engine.port import Event, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import PackError, UsageError
from llava_pack.format.text import Language
from llava_pack.serve.admission.visits import Visit
from llava_pack.serve.api.inference import Inference, Question
from llava_pack.serve.api.translation import Answer
from llava_pack.serve.errors import describe
from llava_pack.serve.page.conversation import contents, engine_messages, picture_files, turns
from llava_pack.serve.page.status import Speed, answer_lines
from llava_pack.serve.page.text import disarmed

ROUTE = "page answer"
"""How the audit log names an answer on the page."""
Entry = Mapping[str, Any]
_SHOW_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the person chose for an answer."""

    model: str
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An answer as far as it has come, or why there is none."""

    text: str = ""
    speed: Speed | None = None
    only_colours: tuple[str, ...] = ()
    """For each picture, the one colour that it has; empty where it has more."""
    failure: str | None = None
    """What went wrong, for the person."""


class Talk:
    """Answers turns of the page.

    Args:
        inference: what asks the models.
        uploads: the only folder that a picture may come from.
    """

    def __init__(self, inference: Inference, uploads: Path) -> None:
        self._inference = inference
        self._uploads = uploads

    async def answer(
        self, conversation: Sequence[Entry], choices: Choices, page: Visit | None = None
    ) -> AsyncGenerator[Shown, None]:
        """Yield the answer to the last message as far as it has come; closing frees the slot.

        Args:
            conversation: all of it.
            choices: for this answer.
            page: the request that began it, which has ended; the answer is a visit of its own.
                None counts it for nobody.
        """
        request_id = f"page-{secrets.token_hex(8)}"
        visit = (page or Visit()).another(request_id, ROUTE)
        answer, began_s, first_s, shown_s = Answer(), time.monotonic(), 0.0, 0.0
        status, colours = 499, list[str]()
        try:
            async with aclosing(self._events(visit, conversation, choices, colours)) as events:
                async for event in events:
                    now_s = time.monotonic()
                    if answer.take(event):
                        first_s = first_s or now_s
                    if answer.text and now_s - shown_s >= _SHOW_EVERY_S:
                        shown_s = now_s
                        yield _shown(answer, began_s, first_s, colours)
            status = 200
        except PackError as error:
            status, told = describe(error, request_id)
            yield Shown(text=answer.text, failure=told.message)
            return
        finally:
            visit.close(status)
        yield _shown(answer, began_s, first_s, colours)

    def _events(
        self,
        visit: Visit,
        conversation: Sequence[Entry],
        choices: Choices,
        colours: list[str],
    ) -> AsyncGenerator[Event, None]:
        """Return the events of the answer; `colours` is filled once the pictures are decoded."""
        visit.admit()
        model = self._inference.models.get(choices.model)
        if model is None:
            raise UsageError(f"{choices.model} is no longer served; reload the page")
        told = turns(conversation)
        wanted = Request(
            request_id=visit.request_id,
            messages=(),
            salt=visit.caller.salt,
            sampling=Sampling(
                temperature=choices.temperature,
                top_p=choices.top_p,
                max_tokens=choices.max_tokens,
            ),
        )

        def messages(pictures: Sequence[Picture]) -> tuple[Message, ...]:
            colours.extend(picture.only_colour for picture in pictures)
            return engine_messages(told, pictures)

        question = Question(
            wanted, pictures=lambda: picture_files(told, self._uploads), messages=messages
        )
        return self._inference.answer(model, visit, question)


def _shown(answer: Answer, began_s: float, first_s: float, colours: Sequence[str]) -> Shown:
    now_s = time.monotonic()
    speed = Speed(
        tokens=len(answer.token_ids),
        first_s=(first_s or now_s) - began_s,
        rest_s=now_s - (first_s or now_s),
    )
    return Shown(text=answer.text, speed=speed, only_colours=tuple(colours))


def facts(shown: Shown, language: Language) -> str:
    """Return what a person should know of an answer beside its text."""
    return answer_lines(shown.speed, shown.only_colours, language)


def spoken(box: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the message for what is in the box, None where nothing is.

    Args:
        box: `text`, and `files` as paths of uploads.
    """
    files = [str(path) for path in box.get("files") or ()]
    text = disarmed(str(box.get("text") or "").strip())
    if not (text or files):
        return None
    content: list[Any] = [{"path": path} for path in files]
    return {"role": "user", "content": [*content, *([text] if text else [])]}


def said(text: str) -> dict[str, Any]:
    """Return the message of an answer."""
    return {"role": "assistant", "content": disarmed(text)}


def taken_back(conversation: Sequence[Entry]) -> tuple[list[Entry], dict[str, Any]]:
    """Return the conversation before the person's last message, and that message for the box."""
    last = next(
        (n for n in reversed(range(len(conversation))) if conversation[n].get("role") == "user"),
        None,
    )
    if last is None:
        return [], {"text": "", "files": []}
    parts = contents(conversation[last])
    box = {
        "text": "\n".join(value for is_file, value in parts if not is_file),
        "files": [value for is_file, value in parts if is_file],
    }
    return list(conversation[:last]), box


def before_the_answer(conversation: Sequence[Entry]) -> list[Entry]:
    """Return the conversation up to the person's last message, to answer it again."""
    kept = list(conversation)
    while kept and kept[-1].get("role") != "user":
        kept.pop()
    return kept
