"""The page: a Gradio chat with pictures. The only module that imports Gradio.

Nothing is loaded from outside and nothing is told outside: no analytics, no share button, no
remote fonts. The guard and its content policy stand in front of every route of it, and behind
them a gate of our own: Gradio hears of nothing but what this page asks for.

The events are wired here and not by Gradio's ChatInterface, which keeps a second copy of the
conversation: a cleared chat came back with the end of a stream, and after an error its box stayed
locked. Here the messages on the screen are the conversation.
"""

import html
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from llava_pack.engine.limits import Limits
from llava_pack.format.text import Language
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.admission.visits import visit_of
from llava_pack.serve.api.inference import Inference
from llava_pack.serve.api.parts import MAX_TEXT_CHARS
from llava_pack.serve.page.assets import (
    BEGIN_SCRIPT,
    CLEAR_SCRIPT,
    CSS,
    END_SCRIPT,
    LOAD_SCRIPT,
    THEME_SCRIPT,
)
from llava_pack.serve.page.events import PICTURE_TYPES, shapes_of
from llava_pack.serve.page.examples import Example, draw_examples, shown_examples
from llava_pack.serve.page.gate import GateFacts, PageGate
from llava_pack.serve.page.half_uploads import note_files_of_forms
from llava_pack.serve.page.status import status_lines
from llava_pack.serve.page.turn import (
    Choices,
    Entry,
    Shown,
    Talk,
    before_the_answer,
    facts,
    said,
    spoken,
    taken_back,
)
from llava_pack.serve.page.words import STATUS, language_of, translations

_KEEP_S = (600, 24 * 3600)
_AT_ONCE = 64
_STATUS_EVERY_S = 3.0
# Source: haotian-liu/LLaVA, llava/serve/gradio_web_server.py: the sliders of its page.
_TEMPERATURE, _TOP_P, _MAX_TOKENS = 0.2, 0.7, 512
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def mount_page(app: FastAPI, inference: Inference, uploads: Path) -> Any:
    """Mount the page at the root of the gateway and return it.

    Args:
        app: with every other route already in place.
        inference: what asks the models; the first is chosen at the start.
        uploads: the private folder that GRADIO_TEMP_DIR names; GRADIO_ANALYTICS_ENABLED is False.
    """
    examples = draw_examples(uploads / "examples")
    # Served from where they are: a copy in Gradio's cache would be deleted after _KEEP_S.
    gr.set_static_paths([example.picture for example in examples])
    page = _Page(inference.models, Talk(inference, uploads), examples).blocks()
    page.queue(default_concurrency_limit=_AT_ONCE, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=Limits().size_bytes,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        footer_links=[],
        run_history=False,
        mcp_server=False,
        pwa=False,
        css=CSS,
        i18n=gr.I18n(**translations()),
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    # Only `launch` sets it, and without it Gradio copies any file that an event names.
    page.has_launched = True
    _put_the_gate_before(app, page, uploads, examples)
    return page


def _put_the_gate_before(
    app: FastAPI, page: Any, uploads: Path, examples: Sequence[Example]
) -> None:
    """Mount what was mounted last once more, behind the gate."""
    facts = GateFacts(
        events=shapes_of(page),
        uploads=uploads,
        known=page.upload_file_set,
        examples=frozenset(str(example.picture) for example in examples),
        waits=lambda session: session in page._queue.pending_messages_per_session,  # noqa: SLF001
    )
    note_files_of_forms(gr.route_utils)
    library: Any = app.router.routes.pop()
    app.mount("/", PageGate(library.app, facts))


class _Page:
    """The page's parts, and what happens to them."""

    def __init__(
        self, models: Mapping[str, Shared], talk: Talk, examples: Sequence[Example]
    ) -> None:
        self._models = models
        self._talk = talk
        self._examples = examples
        self._say = gr.I18n(**translations())

    def blocks(self) -> Any:
        """Return the whole page."""
        with gr.Blocks(
            title="llava-pack", analytics_enabled=False, fill_height=True, delete_cache=_KEEP_S
        ) as page:
            with gr.Row(elem_id="head"):
                gr.Markdown("# llava-pack", elem_id="title")
                theme = gr.Button(self._say("theme"), elem_id="theme", size="sm", scale=0)
            status = gr.Markdown(elem_id="status")
            model = self._model()
            chat = self._chat()
            box = self._box()
            speed = gr.Markdown(elem_id="speed")
            choices = [model, *self._parameters()]
            self._wire_answers(chat, box, speed, choices)
            self._wire_status(page, status)
            page.load(lambda: gr.update(**self._served_now()), None, model, queue=False, **_QUIET)
            self._wire_language(page, chat)
            theme.click(None, None, None, js=THEME_SCRIPT, api_visibility="private")
        return page

    def _model(self) -> Any:
        return gr.Dropdown(**self._served_now(), label=self._say("model"), elem_id="model")

    def _served_now(self) -> dict[str, Any]:
        names = list(self._models)
        return {"choices": names, "value": next(iter(names), None), "visible": len(names) > 1}

    def _chat(self) -> Any:
        return gr.Chatbot(
            show_label=False,
            min_height="16rem",
            buttons=["copy"],
            allow_tags=False,
            sanitize_html=True,
            latex_delimiters=[],
            placeholder=self._say("empty"),
            examples=shown_examples(self._examples, "en"),
            elem_id="chat",
        )

    def _box(self) -> Any:
        return gr.MultimodalTextbox(
            file_types=list(PICTURE_TYPES),
            file_count="multiple",
            sources=["upload"],
            placeholder=self._say("ask"),
            label=self._say("question"),
            show_label=False,
            autofocus=True,
            submit_btn=True,
            stop_btn=False,
            max_plain_text_length=MAX_TEXT_CHARS,
            elem_id="ask",
        )

    def _parameters(self) -> list[Any]:
        say = self._say
        with gr.Accordion(say("parameters"), open=False, elem_id="parameters"):
            return [
                gr.Slider(0, 2, value=_TEMPERATURE, step=0.05, label=say("temperature")),
                gr.Slider(0.05, 1, value=_TOP_P, step=0.05, label=say("top_p")),
                gr.Slider(16, 2048, value=_MAX_TOKENS, step=16, label=say("max_tokens")),
            ]

    def _wire_status(self, page: Any, status: Any) -> None:
        def told(request: gr.Request) -> str:
            return status_lines(self._models.values(), _language(request))

        timer = gr.Timer(_STATUS_EVERY_S)
        for event in (page.load, timer.tick):
            event(told, None, status, queue=False, **_QUIET)

    def _wire_language(self, page: Any, chat: Any) -> None:
        def examples(request: gr.Request) -> Any:
            language = _language(request)
            if language == "en":
                return gr.skip()
            return gr.Chatbot(examples=shown_examples(self._examples, language))

        page.load(None, None, None, js=LOAD_SCRIPT, api_visibility="private")
        page.load(examples, None, chat, queue=False, **_QUIET)

    def _wire_answers(self, chat: Any, box: Any, speed: Any, choices: Sequence[Any]) -> None:
        async def answer(
            conversation: list[Entry],
            model: str,
            temperature: float,
            top_p: float,
            max_tokens: float,
            request: gr.Request,
        ) -> AsyncGenerator[Any, None]:
            chosen = Choices(
                model=model, temperature=temperature, top_p=top_p, max_tokens=int(max_tokens)
            )
            turn = self._answered(conversation, chosen, request)
            async with aclosing(turn) as shown:
                async for outputs in shown:
                    yield outputs

        def picked(clicked: gr.SelectData) -> Any:
            if not 0 <= clicked.index < len(self._examples):
                return gr.skip()
            example = self._examples[clicked.index]
            return {"text": example.question, "files": [str(example.picture)]}

        asking = {
            "fn": answer,
            "inputs": [chat, *choices],
            "outputs": [chat, box, speed],
            "concurrency_limit": _AT_ONCE,
            "js": BEGIN_SCRIPT,
            **_QUIET,
        }
        asked = box.submit(self._taken, [box, chat], [box, chat], queue=False, **_QUIET)
        again = chat.retry(self._again, [chat], [box, chat], queue=False, **_QUIET)
        answers = [asked.success(**asking), again.success(**asking)]
        box.stop(self._open_box, None, box, cancels=answers, queue=False, **_QUIET)
        for ended in answers:
            ended.then(None, None, chat, js=END_SCRIPT, api_visibility="private")
        clearing = {"js": CLEAR_SCRIPT, "cancels": answers, "queue": False, **_QUIET}
        chat.clear(self._cleared, None, [box, speed], **clearing)
        chat.undo(self._undone, [chat], [chat, box], queue=False, **_QUIET)
        chat.example_select(picked, None, box, queue=False, **_QUIET)

    async def _answered(
        self, conversation: list[Entry], chosen: Choices, request: Any
    ) -> AsyncGenerator[tuple[Any, Any, Any], None]:
        """Yield conversation, box and speed while an answer comes."""
        skip, language = gr.skip(), _language(request)
        if not conversation or conversation[-1].get("role") != "user":
            yield skip, self._open_box(), skip  # cleared meanwhile, or nothing was asked
            return
        shown = Shown()
        page = visit_of(request.request.scope)
        async with aclosing(self._talk.answer(conversation, chosen, page)) as pieces:
            async for shown in pieces:
                if shown.failure is None and shown.text:
                    yield [*conversation, said(shown.text)], skip, facts(shown, language)
        if shown.failure is not None:
            gr.Warning(html.escape(shown.failure), title="llava-pack", duration=20)
            if not shown.text:
                before, box = taken_back(conversation)
                yield before, self._open_box(box), ""
                return
        text = shown.text or STATUS[language]["nothing"]
        yield [*conversation, said(text)], self._open_box(), facts(shown, language)

    def _taken(self, box: Mapping[str, Any], conversation: list[Entry]) -> tuple[Any, Any]:
        """Put what is in the box on the screen, and lock the box until the answer is there."""
        message = spoken(box)
        if message is None:
            return self._open_box(), gr.skip()
        return self._locked_box(value=None), [*conversation, message]

    def _again(self, conversation: list[Entry]) -> tuple[Any, Any]:
        return self._locked_box(), before_the_answer(conversation)

    def _undone(self, conversation: list[Entry]) -> tuple[Any, Any]:
        before, box = taken_back(conversation)
        return before, self._open_box(box)

    def _cleared(self) -> tuple[Any, Any]:
        return self._open_box(), ""

    def _open_box(self, value: Mapping[str, Any] | None = None) -> Any:
        given = {} if value is None else {"value": value}
        return gr.update(interactive=True, submit_btn=True, stop_btn=False, **given)

    def _locked_box(self, **given: Any) -> Any:
        return gr.update(interactive=False, submit_btn=False, stop_btn=True, **given)


def _language(request: Any) -> Language:
    return language_of(request.headers.get("accept-language", ""))
