"""Messages as real clients send them: each form is understood, or refused in words of ours."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from llava_pack.engine.inputs.templates import Item, Special, render
from llava_pack.engine.port import Picture
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.api.messages import MessagesBody
from llava_pack.serve.api.translation import engine_messages, picture_urls
from llava_pack.serve.api.wire import ChatRequest
from llava_pack.serve.errors import install_handlers
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from llava_pack.serve.validation import problem

PNG = base64.b64encode(b"\x89PNG and so on, as long as a real one").decode()
URL = f"data:image/png;base64,{PNG}"
DOT = Picture(1, 1, b"abc")
JARGON = re.compile(
    r"Input should|union_tag|validat|Value error|pydantic|function-|tuple|\bdict\b|NoneType|Part\b"
    r"|is not valid here|\bnan\b.*constraint"
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def prompt(messages: list[Any], **more: Any) -> str:
    """Return what LLaVA's template makes of it, behind its system text."""
    asked = MessagesBody.model_validate({"messages": messages, **more})
    pictures = [DOT for _ in picture_urls(asked.messages)]
    items = render(engine_messages(asked.messages, pictures), "plain", new_turn=asked.new_turn)
    return flat(items)


def flat(items: tuple[Item, ...]) -> str:
    return "".join(
        "<image>" if isinstance(i, Picture) else i.token if isinstance(i, Special) else i
        for i in items
    )


PICTURES: Mapping[str, Any] = {
    "OpenAI, and what follows it": {"type": "image_url", "image_url": {"url": URL}},
    "with a detail, as Continue sends": {
        "type": "image_url", "image_url": {"url": URL, "detail": "original"},
    },
    "an URL where an object belongs": {"type": "image_url", "image_url": URL},
    "base64 where a URL belongs": {"type": "image_url", "image_url": {"url": PNG}},
    "no type, as vLLM takes it": {"image_url": URL},
    "OpenAI's Responses": {"type": "input_image", "detail": "auto", "image_url": URL},
    "Anthropic": {
        "type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    },
    "Anthropic, by URL": {"type": "image", "source": {"type": "url", "url": URL}},
    "transformers": {"type": "image", "image": URL},
    "transformers, by URL": {"type": "image", "url": URL},
    "transformers, base64": {"type": "image", "base64": PNG},
    "LangChain 0.3": {
        "type": "image", "source_type": "base64", "mime_type": "image/png", "data": PNG,
    },
    "LangChain 1": {"type": "image", "base64": PNG, "mime_type": "image/png"},
    "Vercel's ImagePart": {"type": "image", "image": PNG, "mediaType": "image/png"},
    "Vercel's FilePart": {"type": "file", "mediaType": "image/png", "data": PNG},
    "Vercel's message of the page": {"type": "file", "mediaType": "image/png", "url": URL},
    "OpenAI's file": {"type": "file", "file": {"filename": "a.png", "file_data": URL}},
    "Qwen": {"image": URL},
}  # fmt: skip


@pytest.mark.parametrize("form", PICTURES)
def test_a_picture_in_every_form(form: str) -> None:
    body = [user(PICTURES[form], {"type": "text", "text": "What is it?"})]
    [sent] = picture_urls(MessagesBody.model_validate({"messages": body}).messages)
    assert sent.url in {URL, PNG}
    place = sent.place.removeprefix("messages.0.content.0.")
    assert place in PICTURES[form]
    assert prompt(body) == "<image>\nWhat is it?\n"


CONVERSATIONS: Mapping[str, tuple[list[Any], str]] = {
    "openai-python, langchain-openai, llm: a text": ([{"role": "user", "content": "hi"}], "hi\n"),
    "a text in parts": ([user({"type": "text", "text": "a"}, {"type": "text", "text": "b"})], "a\nb\n"),
    "texts without an object": ([user("a", "b")], "a\nb\n"),
    "one part without its list": ([{"role": "user", "content": {"type": "text", "text": "a"}}], "a\n"),
    "OpenAI's Responses": (
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
         {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
         {"role": "user", "content": [{"type": "input_text", "text": "c"}]}],
        "a\nb\nc\n",
    ),
    "LiteLLM: a system message in parts, to be cached": (
        [{"role": "system", "content": [
            {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
         {"role": "user", "content": "a"}],
        "sa\n",
    ),
    "Ollama: images beside the text": (
        [{"role": "user", "content": "What is it?", "images": [PNG, URL]}],
        "<image>\n<image>\nWhat is it?\n",
    ),
    "Open WebUI: an answer that came to nothing": (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""},
         {"role": "user", "content": "b"}],
        "a\n\nb\n",
    ),
    "an assistant that only called": (
        [{"role": "user", "content": "a"},
         {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None},
         {"role": "tool", "tool_call_id": "call_1", "content": "2"}],
        f"a\n{CALLED}\n<tool_response>\n2\n</tool_response>\n",
    ),
    "Vercel: an assistant that said something and called": (
        [{"role": "user", "content": "a"},
         {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
         {"role": "tool", "tool_call_id": "call_1", "content": '{"sum":2}'},
         {"role": "user", "content": "b"}],
        (f"a\nLet me see.\n{CALLED}\n<tool_response>\n"
        '{"sum":2}\n</tool_response>\nb\n'),
    ),
    "the older functions": (
        [{"role": "user", "content": "a"},
         {"role": "assistant", "content": None,
          "function_call": {"name": "add", "arguments": '{"a": 1}'}},
         {"role": "function", "name": "add", "content": "2"}],
        f"a\n{CALLED}\n<tool_response>\n2\n</tool_response>\n",
    ),
    "Ollama: arguments as an object": (
        [{"role": "user", "content": "a"},
         {"role": "assistant", "content": "",
          "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
         {"role": "tool", "tool_name": "add", "content": "2"}],
        f"a\n\n{CALLED}\n<tool_response>\n2\n</tool_response>\n",
    ),
    "a tool that answers with a picture": (
        [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [CALL]},
         {"role": "tool", "content": [PICTURES["Anthropic"]]}],
        f"a\n{CALLED}\n<image>\n<tool_response>\n</tool_response>\n",
    ),
    "a refusal in parts, and as a field": (
        [{"role": "user", "content": "a"},
         {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
         {"role": "user", "content": "b"},
         {"role": "assistant", "content": None, "refusal": "No!"},
         {"role": "user", "content": "c"}],
        "a\nNo.\nb\nNo!\nc\n",
    ),
    "what another model thought": (
        [{"role": "user", "content": "a"},
         {"role": "assistant", "reasoning_content": "hm", "content": [
             {"type": "thinking", "thinking": "hm", "signature": "x"},
             {"type": "redacted_thinking", "data": "x"},
             {"type": "reasoning", "text": "hm"},
             {"type": "text", "text": "b"}]},
         {"role": "user", "content": "c"}],
        "a\nb\nc\n",
    ),
    "developer, late, and several": (
        [{"role": "developer", "content": "s"}, {"role": "system", "content": "t"},
         {"role": "user", "content": "a"}, {"role": "system", "content": "u"}],
        "s\nta\nu\n",
    ),
    "a greeting first": (
        [{"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "a"}], "Hi!\na\n",
    ),
    "an answer that was begun": (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is"}], "a\nIt is",
    ),
    "an answer that was not": (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}], "a\n",
    ),
    "nothing": ([{"role": "user", "content": None}], "\n"),
    "fields that nobody knows": (
        [{"role": "user", "content": "a", "name": "ann", "id": "x", "files": [],
          "provider_specific_fields": None, "audio": None, "refusal": None, "images": None}],
        "a\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", CONVERSATIONS)
def test_a_conversation_in_every_form(form: str) -> None:
    messages, written = CONVERSATIONS[form]
    assert prompt(messages) == written


def test_half_a_character_in_a_calls_arguments_is_no_bug() -> None:
    """JSON in JSON is not looked at by what reads the body."""
    arguments: Any
    for arguments in ('{"a": "\\ud800"}', {"a": "\ud800"}):
        call = {"function": {"name": "add", "arguments": arguments}}
        prompt([{"role": "assistant", "tool_calls": [call]}]).encode()


BEGUN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_who_continues_is_said_as_in_vllm() -> None:
    assert prompt(BEGUN) == "a\nb"
    assert prompt(BEGUN, continue_final_message=True) == "a\nb"
    assert prompt(BEGUN, continue_final_message=True, add_generation_prompt=False) == "a\nb"
    assert prompt(BEGUN, add_generation_prompt=True) == "a\nb\n"
    assert prompt(BEGUN, continue_final_message=False) == "a\nb\n"
    assert prompt(BEGUN, continue_final_message=False, add_generation_prompt=False) == "a\nb\n"


WRONG: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "no messages": ({}, "messages", "messages: is missing"),
    "none": ({"messages": []}, "messages", "messages: expected a list of 1 or more"),
    "an object": ({"messages": {}}, "messages", "messages: expected a list, got an object"),
    "a text for one": ({"messages": ["hi"]}, "messages.0", 'messages.0: expected an object, got "hi"'),
    "no role": ({"messages": [{"content": "a"}]}, "messages.0.role", "messages.0.role: is missing"),
    "another role": (
        {"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role",
        ("messages.0.role: expected 'system', 'developer', 'user', 'assistant', 'tool' or 'function', "
        'got "robot"'),
    ),
    "a number": (
        {"messages": [{"role": "user", "content": 5}]}, "messages.0.content",
        "messages.0.content: expected a list, got 5",
    ),
    "a number in a list": (
        {"messages": [user("a", 5)]}, "messages.0.content.1",
        "messages.0.content.1: expected a text or an object with a type, got a number",
    ),
    "another kind of part": (
        {"messages": [user({"type": "input_audio", "input_audio": {}})]},
        "messages.0.content.0.type",
        "messages.0.content.0.type: expected text or image_url, got 'input_audio'",
    ),
    "a part without a type": (
        {"messages": [user({})]}, "messages.0.content.0.type",
        "messages.0.content.0.type: expected text or image_url, got nothing",
    ),
    "a kind that is a list": (
        {"messages": [user({"type": ["text"], "text": "a"})]}, "messages.0.content.0.type",
        "messages.0.content.0.type: expected text or image_url, got a list",
    ),
    "a text that is a number": (
        {"messages": [user({"type": "text", "text": 5})]}, "messages.0.content.0.text",
        "messages.0.content.0.text: expected a text, got 5",
    ),
    "a text that is missing": (
        {"messages": [user({"type": "text"})]}, "messages.0.content.0.text",
        "messages.0.content.0.text: is missing",
    ),
    "a picture that is a number": (
        {"messages": [user({"type": "image_url", "image_url": {"url": 5}})]},
        "messages.0.content.0.image_url.url",
        "messages.0.content.0.image_url.url: expected a data: URL as text, got a number",
    ),
    "an empty picture": (
        {"messages": [user({"type": "image_url", "image_url": {}})]},
        "messages.0.content.0.image_url",
        "messages.0.content.0.image_url: expected a picture as image_url, with a data: URL",
    ),
    "a file that was uploaded elsewhere": (
        {"messages": [user({"type": "file", "file": {"file_id": "file-1"}})]},
        "messages.0.content.0.file",
        ("messages.0.content.0.file: files are not kept here; expected a picture as image_url, "
        "with a data: URL"),
    ),
    "Ollama's images as an object": (
        {"messages": [{"role": "user", "content": "a", "images": [5]}]}, "messages.0.images.0",
        "messages.0.images.0: expected an object, got 5",
    ),
    "both": (
        {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "continue_final_message: it contradicts add_generation_prompt; set one of them to true",
    ),
    "nothing to continue": (
        {"messages": BEGUN[:1], "continue_final_message": True}, "continue_final_message",
        "continue_final_message: it needs a last message of role assistant",
    ),
    "nobody says anything": (
        {"messages": [{"role": "assistant", "content": None}]}, "messages",
        "messages: no message says anything; expected a question",
    ),
    "a picture of the assistant's": (
        {"messages": [{"role": "assistant", "content": [PICTURES["Anthropic"]]}]},
        "messages.0.content.0.source",
        ("messages.0.content.0.source: a picture in a message of role assistant; expected role "
        "user or tool (send it in a message of role user: models are trained with it there)"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    install_handlers(app)

    @app.post("/chat")
    async def chat(body: ChatRequest) -> str:
        pictures = [DOT for _ in picture_urls(body.messages)]
        messages = engine_messages(body.messages, pictures)
        return flat(render(messages, "llava_v1", new_turn=body.new_turn))

    @app.middleware("http")
    async def name(request: Any, call_next: Any) -> Any:
        request.state.request_id = "1"
        return await call_next(request)

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named_once_and_in_words(client: TestClient, mistake: str) -> None:
    body, param, message = WRONG[mistake]
    answer = client.post("/chat", json={"model": "m", **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"], error["param"]) == (message, param)
    assert not JARGON.search(message)


SECRET = "hunter2-" * 30
SCALARS = st.sampled_from([None, True, 5, -1.5, "", "text", "user", "tool", URL, SECRET, "\ud800"])
_KEYS = ("type", "text", "image_url", "url", "source", "data", "file", "refusal", "x", "file_id")
KEYS = st.sampled_from(_KEYS)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["text", "image_url", "image", "thinking", "input_text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("images", "tool_calls", "function_call", "refusal", "name")
PARTS = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(_KEYS, VALUES)), max_size=3)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", "function"]) | VALUES,
        "content": PARTS | VALUES,
    },
    optional=dict.fromkeys(FIELDS, VALUES),
)


@settings(max_examples=150)
@given(
    messages=st.lists(MESSAGES, max_size=4) | VALUES,
    flags=st.dictionaries(
        st.sampled_from(["add_generation_prompt", "continue_final_message"]), VALUES, max_size=2
    ),
)
def test_whatever_comes_is_answered_or_refused_in_words(
    client: TestClient, messages: Any, flags: dict[str, Any]
) -> None:
    body = json.dumps({"model": "m", "messages": messages, **flags})
    answer = client.post("/chat", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {200, 400}, body
    if answer.status_code == 400:
        error = answer.json()["error"]
        assert not JARGON.search(error["message"]), error
        assert SECRET[:60] not in answer.text
        if param := error["param"]:
            assert error["message"].startswith(f"{param}: ")
            assert error["message"].count(param) == 1
            assert _leads_somewhere(json.loads(body), param)


def _leads_somewhere(value: Any, param: str) -> bool:
    """Return whether a path is one of what was sent, but for a last step that is missing."""
    *steps, _last = param.split(".")
    for step in steps:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return isinstance(value, (dict, list))


def _routes(part: Any) -> Iterator[Any]:
    for route in getattr(part, "original_router", part).routes:
        if hasattr(route, "original_router"):
            yield from _routes(route)
        else:
            yield route


def _bodies() -> dict[str, type[BaseModel]]:
    """Return what every route reads."""
    app = create_app({}, GatewaySettings(policy=AccessPolicy(secrets=None), web=False))
    fields = [one.body_field for one in _routes(app) if getattr(one, "body_field", None)]
    return {one.field_info.annotation.__name__: one.field_info.annotation for one in fields}


def test_the_routes_that_read_a_body_are_seen() -> None:
    assert {"ChatRequest", "TokenizeRequest", "StreamRequest"} <= _bodies().keys()


@pytest.mark.parametrize("name", _bodies())
def test_every_field_of_every_body_is_refused_in_words(name: str) -> None:
    """Whoever adds a field whose check has no words in `validation` yet adds them there."""
    body = _bodies()[name]
    for field in body.model_fields:
        for value in (
            [],
            {},
            [[]],
            [{}],
            {"a": 5},
            "x",
            True,
            -(10**40),
            1e300,
            float("nan"),
            None,
        ):
            sent = {field: value}
            try:
                TypeAdapter(body).validate_python(sent)
            except ValidationError as error:
                for one in error.errors():
                    place, words = problem({**one, "loc": ("body", *one["loc"])}, sent)
                    assert not JARGON.search(words), (one["type"], field, value)
                    assert place.partition(".")[0] in {"", *body.model_fields}
