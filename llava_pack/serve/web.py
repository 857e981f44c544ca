"""The page: a Gradio chat with pictures. The only module that knows Gradio.

Nothing is loaded from outside and nothing is told outside: no analytics, no share button, no
remote fonts. The guard and its content policy stand in front of every route of it.
"""

import html
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from llava_pack.engine.port import Request, Sampling
from llava_pack.format.errors import PackError
from llava_pack.serve.answers import Answer
from llava_pack.serve.conversation import engine_messages
from llava_pack.serve.failures import describe
from llava_pack.serve.models import Served
from llava_pack.serve.pictures import PictureDecoder

_MAX_FILE = "20mb"
_KEEP_S = (600, 24 * 3600)
_AT_ONCE = 64
_TYPES = [".png", ".jpg", ".jpeg", ".webp", ".gif"]
_CSS = """
footer { display: none !important; }
#title h1 { margin: 0; font-size: 1.3rem; }
#status p { margin: 0; opacity: .75; }
#chat .message img { max-height: 14rem; width: auto; }
/* The button beside the download would send the conversation to a public site. */
#chat a.download-link ~ button, #chat button[aria-label="Share"] { display: none !important; }
"""


def mount_page(
    app: FastAPI, models: Mapping[str, Served], decoder: PictureDecoder, uploads: Path
) -> None:
    """Mount the page at the root of the gateway.

    Args:
        app: with every other route already in place.
        models: by name; the first is chosen at the start.
        decoder: for the pictures.
        uploads: the private folder that GRADIO_TEMP_DIR names; GRADIO_ANALYTICS_ENABLED is False.
    """
    import gradio as gr

    page = _page(gr, models, _Chat(gr, models, decoder, uploads))
    page.queue(default_concurrency_limit=_AT_ONCE)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=_MAX_FILE,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        footer_links=[],
        run_history=False,
        mcp_server=False,
        pwa=False,
        css=_CSS,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )


class _Chat:
    """Answers one turn of the page, piece by piece."""

    def __init__(
        self, gr: Any, models: Mapping[str, Served], decoder: PictureDecoder, uploads: Path
    ) -> None:
        self._gr = gr
        self._models = models
        self._decoder = decoder
        self._uploads = uploads

    async def answer(
        self,
        turn: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
        model: str,
        temperature: float,
        max_tokens: float,
    ) -> AsyncGenerator[str, None]:
        """Yield the answer as far as it has come; closing this frees the slot."""
        request_id = f"page-{secrets.token_hex(8)}"
        answer = Answer()
        try:
            messages = await engine_messages(turn, history, self._decoder, self._uploads)
            request = Request(
                request_id=request_id,
                messages=messages,
                sampling=Sampling(temperature=temperature, max_tokens=int(max_tokens)),
            )
            async with aclosing(self._models[model].generate(request)) as events:
                async for event in events:
                    if answer.take(event):
                        yield answer.text
        except PackError as error:
            message = describe(error, request_id)[1].message
            raise self._gr.Error(
                html.escape(message), title="llava-pack", print_exception=False
            ) from error
        if not answer.text:
            yield "…"

    def status(self) -> str:
        """Return the line under the title: what is served, and how."""
        lines = [_status(model) for model in self._models.values()]
        return "  \n".join(lines)


def _status(model: Served) -> str:
    info = model.info
    if info is None or model.status.phase != "ready":
        return f"**{model.name}** · {model.status.phase}"
    return f"**{model.name}** · {info.precision} on {info.device} · {info.context_tokens} tokens"


def _page(gr: Any, models: Mapping[str, Served], chat: _Chat) -> Any:
    names = list(models)
    with gr.Blocks(
        title="llava-pack", analytics_enabled=False, fill_height=True, delete_cache=_KEEP_S
    ) as page:
        gr.Markdown("# llava-pack", elem_id="title")
        status = gr.Markdown(elem_id="status")
        model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
        gr.ChatInterface(
            chat.answer,
            multimodal=True,
            chatbot=_chatbot(gr),
            textbox=_textbox(gr),
            additional_inputs=[
                model,
                gr.Slider(0, 2, value=0.2, step=0.05, label="Temperature", render=False),
                gr.Slider(16, 2048, value=512, step=16, label="Longest answer", render=False),
            ],
            additional_inputs_accordion=gr.Accordion("Parameters", open=False, render=False),
            analytics_enabled=False,
            flagging_mode="never",
            concurrency_limit=_AT_ONCE,
            api_visibility="private",
        )
        page.load(chat.status, None, status, api_visibility="private", show_progress="hidden")
    return page


def _chatbot(gr: Any) -> Any:
    return gr.Chatbot(
        show_label=False,
        height="calc(100dvh - 19rem)",
        min_height="16rem",
        buttons=["copy"],
        allow_tags=False,
        sanitize_html=True,
        latex_delimiters=[],
        placeholder="Add a picture and ask about it.",
        elem_id="chat",
    )


def _textbox(gr: Any) -> Any:
    return gr.MultimodalTextbox(
        file_types=_TYPES,
        file_count="multiple",
        sources=["upload"],
        placeholder="Ask about a picture: paste it, drop it here, or use the clip",
        show_label=False,
        autofocus=True,
        stop_btn=True,
        elem_id="ask",
    )
