"""A client of LLaVA's own protocol: what the controller knows, and answers through it.

Source: llava-torch 1.2.2.post1, llava/serve/controller.py and model_worker.py.
"""

import json
from collections.abc import Iterator
from typing import Any, Self

import httpx

from llava_pack.checkpoint.templates import template
from llava_pack.client.discovery import connection
from llava_pack.engine.inputs.templates import Special, render
from llava_pack.engine.port import Message, Picture
from llava_pack.format.errors import ServeError, reason_of
from llava_pack.llava_serve.programs import USER

_QUICK_S = 5.0
_ANSWER_S = 600.0
_PAGE_SIGN = "gradio"
_SOME_PICTURE = Picture(1, 1, bytes(3))


class UpstreamClient:
    """Asks one server of `llava.serve`; use it as a context manager.

    Args:
        controller: URL of the controller.
        token: of the start, empty where none is asked for.
    """

    def __init__(self, controller: str, token: str) -> None:
        self._token = token
        self._http = connection(controller, token=token, timeout_s=_QUICK_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def models(self) -> tuple[str, ...]:
        """Return the models whose workers answer now.

        Raises:
            ServeError: the controller does not answer.
        """
        self._post("/refresh_all_workers")
        return tuple(str(name) for name in self._post("/list_models").get("models", ()))

    def stream(
        self, model: str, prompt: str, picture_png: str, conv_mode: str, *, tokens: int
    ) -> Iterator[str]:
        """Yield a greedy answer piece by piece.

        Args:
            model: the worker's name for it.
            prompt: the question.
            picture_png: base64, empty for a question without a picture.
            conv_mode: conversation template.
            tokens: longest answer.

        Raises:
            ServeError: the server gives none; with what it said.
        """
        whole = flat_prompt(prompt, conv_mode, picture=bool(picture_png))
        body: dict[str, Any] = {"model": model, "prompt": whole, "temperature": 0.0, "top_p": 1.0}
        body |= {"max_new_tokens": tokens, "stop": template(conv_mode).stops[0]}
        body |= {"images": [picture_png] if picture_png else []}
        told = whole  # every event repeats the prompt and all that was answered so far
        path = "/worker_generate_stream"
        try:
            with self._http.stream("POST", path, json=body, timeout=_ANSWER_S) as answer:
                for event in _events(answer):
                    text = str(event.get("text", ""))
                    if event.get("error_code"):
                        raise ServeError(f"{text} (error_code: {event['error_code']})")
                    yield text[len(told) :]
                    told = max(told, text, key=len)
        except httpx.HTTPError as error:
            raise ServeError(reason_of(error)) from error

    def page(self, url: str) -> tuple[int, bool]:
        """Return what the page answers to a person who has logged in: status, and whether it is it.

        Raises:
            ServeError: it does not answer.
        """
        with connection(url, token="", timeout_s=_QUICK_S) as browser:
            try:
                if self._token:
                    browser.post("/login", data={"username": USER, "password": self._token})
                answer, config = browser.get("/"), browser.get("/config")
            except httpx.HTTPError as error:
                raise ServeError(reason_of(error)) from error
        told = config.status_code == 200 and "components" in config.text
        return answer.status_code, told and _PAGE_SIGN in answer.text

    def _post(self, path: str) -> dict[str, Any]:
        try:
            answer = self._http.post(path)
            if answer.status_code != 200:
                raise ServeError(f"{path}: HTTP {answer.status_code}")
            value = answer.json()
        except httpx.HTTPError as error:
            raise ServeError(reason_of(error)) from error
        except ValueError as error:
            raise ServeError(f"{path}: the answer is not from LLaVA's controller") from error
        return value if isinstance(value, dict) else {}


def flat_prompt(prompt: str, conv_mode: str, *, picture: bool) -> str:
    r"""Return a question as LLaVA's page writes it.

    >>> flat_prompt("What is it?", "mistral_instruct", picture=True)
    '[INST] <image>\nWhat is it? [/INST]'
    """
    parts = (_SOME_PICTURE, prompt) if picture else (prompt,)
    return "".join(
        "<image>"
        if isinstance(item, Picture)
        else item.token
        if isinstance(item, Special)
        else item
        for item in render([Message("user", parts)], conv_mode)
    )


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the objects of a stream, each ended by NUL."""
    rest = b""
    for data in answer.iter_bytes():
        *whole, rest = (rest + data).split(b"\0")
        for part in whole:
            try:
                yield json.loads(part)
            except ValueError as error:
                raise ServeError("the answer is not from LLaVA's worker") from error
