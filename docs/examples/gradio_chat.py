"""A Gradio interface in front of the API: an example, for those who build their own pages with it.

Run it on the laptop, with the tunnel open:

    pip install 'gradio>=6,<7' 'openai>=2'
    OPENAI_BASE_URL=http://localhost:7860/v1 OPENAI_API_KEY=TOKEN python gradio_chat.py

Gradio listens on this machine only, and asks the server as any client does; the server's own page
needs none of this.
"""

import base64
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from openai import OpenAI


def content_of(text: str, files: list[str]) -> list[dict[str, Any]]:
    """Return a question as the API takes it: its pictures as data: URLs, then its text."""
    parts: list[dict[str, Any]] = []
    for file in files:
        kind = mimetypes.guess_type(file)[0] or "image/png"
        data = base64.b64encode(Path(file).read_bytes()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}})
    return [*parts, {"type": "text", "text": text}]


def messages_of(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Gradio's history as messages: one for each turn, whatever it consists of."""
    messages: list[dict[str, Any]] = []
    for entry in history:
        parts = entry["content"] if isinstance(entry["content"], list) else [entry["content"]]
        texts = [part if isinstance(part, str) else part.get("text") or "" for part in parts]
        given = [part["file"] for part in parts if isinstance(part, dict) and "file" in part]
        said: Any = "\n".join(filter(None, texts))
        if entry["role"] == "user":
            said = content_of(said, [file["path"] for file in given])
        messages.append({"role": entry["role"], "content": said})
    return messages


def chat(client: OpenAI) -> gr.ChatInterface:
    """Return the interface over the first model that a server has."""
    model = client.models.list().data[0].id

    def answer(question: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[str]:
        asked = {"role": "user", "content": content_of(question["text"], question["files"])}
        stream = client.chat.completions.create(
            model=model,
            messages=[*messages_of(history), asked],
            stream=True,  # type: ignore[list-item]
        )
        said = ""
        for chunk in stream:
            said += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            yield said

    return gr.ChatInterface(answer, multimodal=True, title=model)


if __name__ == "__main__":
    chat(OpenAI()).launch(server_name="127.0.0.1", share=False)
