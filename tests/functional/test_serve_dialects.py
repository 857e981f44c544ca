"""Every other way to ask, by the real `openai` and `ollama` clients over a real port."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from PIL import Image

from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.unit.serve.access.test_scopes import routes_of

_ENGINE = "--step-s 0.01 --slots 2 --context 8192"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[Gateway]:
    options = ("--alias", "gpt-4o", "vision", "--log", str(log))
    with gateway(tmp_path_factory.mktemp("run"), *options, engine=_ENGINE) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with _openai(f"{served.url}/v1") as real:
        yield real


def _openai(url: str) -> openai.OpenAI:
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0, http_client=http)


@pytest.fixture(scope="module")
def llama(served: Gateway) -> Iterator[ollama.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with ollama.Client(host=served.url, headers=headers, trust_env=False) as real:
        yield real


def _png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 4), colour).save(out, "PNG")
    return out.getvalue()


def _url(colour: str) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(colour)).decode()}"


# --- completions


def test_prompts_are_continued_as_they_are(client: openai.OpenAI) -> None:
    both = client.completions.create(model="echo", prompt=["a b", "c"], max_tokens=9)
    assert [(one.index, one.text) for one in both.choices] == [
        (0, "You said: a b"),
        (1, "You said: c"),
    ]
    assert both.usage is not None
    assert both.usage.completion_tokens == 9
    assert both.choices[0].finish_reason == "stop"
    echoed = client.completions.create(model="echo", prompt="a b", echo=True, max_tokens=2)
    assert echoed.choices[0].text == "a bYou said: "
    assert echoed.choices[0].finish_reason == "length"


def test_a_completion_is_streamed_with_its_odds(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="echo", prompt=["a", "b"], logprobs=1, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    texts = {0: "", 1: ""}
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for one in (choice for chunk in chunks for choice in chunk.choices):
        texts[one.index] += one.text
        offsets[one.index] += (one.logprobs and one.logprobs.text_offset) or []
    assert texts == {0: "You said: a", 1: "You said: b"}
    assert offsets[0][:3] == [0, 4, 10]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    whole = client.completions.create(model="echo", prompt="a", logprobs=1).choices[0].logprobs
    assert whole is not None
    assert whole.tokens is not None
    assert whole.tokens[:2] == ["You ", "said: "]
    assert whole.top_logprobs is not None
    assert whole.top_logprobs[0] == {"You ": 0.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": [1, 2]}, "token ids are not supported"),
        ({"prompt": [[1], [2]]}, "token ids are not supported"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix: is not supported"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo: with logprobs"),
        ({"prompt": "x", "temperature": 9}, "temperature"),
    ],
)
def test_what_a_completion_cannot_be_is_refused(
    served: Gateway, fields: dict[str, Any], message: str
) -> None:
    with served.client() as http:
        answer = http.post("/v1/completions", json={"model": "echo", **fields})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


# --- responses


def test_a_response_to_text_and_pictures(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="echo", input="hi", instructions="Be brief.", store=True)
    assert plain.output_text == "You said: hi"
    assert (plain.status, plain.store) == ("completed", False)
    assert plain.usage is not None
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens
    pictured = client.responses.create(model="echo", input=[
        {"role": "user", "content": "one"},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "two", "annotations": []}]},
        {"role": "user", "content": [
            {"type": "input_text", "text": "what"},
            {"type": "input_image", "image_url": _url("red"), "detail": "auto"},
        ]},
    ])  # fmt: skip
    assert pictured.output_text == "You said: what Picture 8x4 of 255,0,0."
    cut = client.responses.create(model="echo", input="hi", max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_the_events_of_a_response_are_those_of_the_real_client(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="echo", input="hi", stream=True))
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.delta", "response.output_text.delta",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(11))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "You said: hi"
    with client.responses.stream(model="echo", input="hi") as stream:
        assert stream.get_final_response().output_text == "You said: hi"
    cut = client.responses.create(model="echo", input="hi", max_output_tokens=2, stream=True)
    assert [event.type for event in cut][-1] == "response.incomplete"


def test_the_odds_of_a_response(client: openai.OpenAI) -> None:
    told = client.responses.create(
        model="echo", input="hi", include=["message.output_text.logprobs"], top_logprobs=1
    )
    [item] = told.output
    assert item.type == "message"
    [part] = item.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert part.logprobs[0].token == "You "
    assert part.logprobs[0].top_logprobs[0].token == "You "


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id: is not supported"),
        ({"input": "x", "conversation": "conv_1"}, "conversation: is not supported"),
        ({"input": "x", "background": True}, "background: is not supported"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "image_url"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"input": "x", "max_output_tokens": -7}, "max_output_tokens"),
        ({"input": []}, "input"),
        ({}, "input"),
    ],
)  # fmt: skip
def test_what_a_response_cannot_be_is_refused(
    served: Gateway, fields: dict[str, Any], message: str
) -> None:
    with served.client() as http:
        answer = http.post("/v1/responses", json={"model": "echo", **fields})
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


# --- ollama


def test_ollama_sees_the_models(llama: ollama.Client, served: Gateway) -> None:
    names = [one.model for one in llama.list().models]
    assert names == ["gpt-4o:latest", "vision:latest", "echo:latest"]
    assert [one.name for one in llama.ps().models] == names
    shown = llama.show("echo:latest")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llava.context_length"] == 8192
    with served.client() as http:
        assert "version" in http.get("/api/version").json()


def test_ollama_talks(llama: ollama.Client) -> None:
    messages = [{"role": "user", "content": "what", "images": [_png("red")]}]
    whole = llama.chat("vision", messages)
    assert whole.message.content == "You said: what Picture 8x4 of 255,0,0."
    assert (whole.model, whole.done, whole.done_reason) == ("vision", True, "stop")
    assert whole.eval_count == 8
    assert (whole.total_duration or 0) > (whole.eval_duration or 0) > 0
    pieces = list(llama.chat("echo:latest", [{"role": "user", "content": "hi"}], stream=True))
    assert [piece.message.content for piece in pieces] == ["You ", "said: ", "hi", ""]
    assert [piece.done for piece in pieces] == [False, False, False, True]
    cut = llama.generate("echo", "hi", options={"num_predict": 2, "num_ctx": 9, "no_such": 1})
    assert (cut.response, cut.done_reason) == ("You said: ", "length")
    assert llama.generate("echo", "hi", raw=True, stream=False).response == "You said: hi"
    seen = llama.generate("echo", "what", images=[_png("blue")], keep_alive=0)
    assert seen.response == "You said: what Picture 8x4 of 0,0,255."
    assert llama.generate("echo", keep_alive=-1).done_reason == "load"


def test_ollama_is_refused_in_its_own_shape(llama: ollama.Client, served: Gateway) -> None:
    with pytest.raises(ollama.ResponseError, match="'other' is not served here") as absent:
        llama.chat("other", [{"role": "user", "content": "hi"}])
    assert absent.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        llama.chat("echo", [{"role": "user", "content": "hi"}], think=True)
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        llama.generate("echo", "x", options={"mirostat": 2})
    with pytest.raises(ollama.ResponseError, match="models come in bundles") as managed:
        llama.pull("llava")
    assert managed.value.status_code == 501
    with pytest.raises(ollama.ResponseError, match="embed is not available"):
        llama.embed("echo", "x")
    with served.client() as http:
        for method, path, status in (
            ("GET", "/api/blobs/sha256:1", 404), ("GET", "/api/chat", 405), ("POST", "/api/chat", 400),
        ):  # fmt: skip
            answer = http.request(method, path)
            assert (answer.status_code, set(answer.json())) == (status, {"error"})
            assert isinstance(answer.json()["error"], str)
    with served.client(key="wrong") as stranger:
        assert stranger.get("/api/tags").status_code == 401


def test_a_body_that_curl_calls_a_form_is_read_as_ollama_does(served: Gateway) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with served.client(**form) as http:
        answer = http.post("/api/generate", content=b'{"model": "echo", "prompt": "hi"}')
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["response"] for line in lines) == "You said: hi"
    assert answer.headers["content-type"] == "application/x-ndjson"


# --- what is wrong, under the name that the client has for it

_NO_PICTURE = "data:image/png;base64,AAAA"
_LONG_SCHEMA = {"enum": ["x" * 70_000]}


@pytest.mark.parametrize(
    ("path", "fields", "place"),
    [
        ("responses", {"instructions": "x", "input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ("responses", {"input": [{"type": "reasoning"}, {"role": "robot", "content": "x"}]}, "input.1.role"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]},
            "input.0.content.0.text"),
        ("responses", {"input": [{"type": "reasoning"}, {"role": "user", "content": [
            {"type": "input_image", "image_url": _NO_PICTURE}]}]}, "input.1.content.0.image_url"),
        ("responses", {"input": [{"type": "function_call", "call_id": "1", "name": 5}]}, "input.0.name"),
        ("responses", {"input": [{"type": "function_call_output", "output": [{"type": "audio"}]}]},
            "input.0.output.0.type"),
        ("responses", {"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ("responses", {"input": "x", "text": {"format": {
            "type": "json_schema", "name": "x", "schema": _LONG_SCHEMA}}}, "text.format"),
        ("responses", {"input": "x " * 9000}, "input"),
        ("responses", {"input": "x", "max_output_tokens": -7}, "max_output_tokens"),
        ("completions", {"prompt": "x " * 9000}, "prompt"),
        ("completions", {"prompt": "x", "response_format": {"type": "xml"}}, "response_format.type"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x " * 9000}]}, "messages"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_the_client_s_name(
    served: Gateway, path: str, fields: dict[str, Any], place: str
) -> None:
    with served.client() as http:
        answer = http.post(f"/v1/{path}", json={"model": "echo", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, place), answer.text


@pytest.mark.parametrize(
    ("path", "fields", "place"),
    [
        ("generate", {"prompt": "x", "system": "y", "images": ["AAAA"]}, "images.0"),
        ("generate", {"prompt": "x", "format": _LONG_SCHEMA}, "format"),
        ("generate", {"prompt": "x", "options": {"temperature": 9}}, "options.temperature"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ],
)
def test_ollama_s_fields_have_their_own_names(
    served: Gateway, path: str, fields: dict[str, Any], place: str
) -> None:
    with served.client() as http:
        answer = http.post(f"/api/{path}", json={"model": "echo", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{place}: ")


# --- names and paths


def test_a_model_answers_by_all_its_names(client: openai.OpenAI) -> None:
    cards = client.models.list().data
    assert [card.id for card in cards] == ["gpt-4o", "vision", "echo"]
    for card in cards:
        assert (card.model_dump()["root"], card.model_dump()["max_model_len"]) == ("echo", 8192)
        assert client.models.retrieve(card.id).id == card.id
        answer = client.chat.completions.create(
            model=card.id, messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.model == "gpt-4o"


@pytest.mark.parametrize("base", ["", "/v1/v1", "/v1/v1/v1", "/v1/"])
def test_a_base_url_with_v1_forgotten_or_doubled_works(served: Gateway, base: str) -> None:
    with _openai(f"{served.url}{base}") as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        answer = client.chat.completions.create(model="echo", messages=messages)
        assert answer.choices[0].message.content == "You said: hi"
        assert client.completions.create(model="echo", prompt="hi").choices[0].text
        assert client.responses.create(model="echo", input="hi").output_text
        assert len(client.models.list().data) == 3
        assert client.models.retrieve("echo").id == "echo"


def test_what_is_not_there_says_what_is_and_is_logged(served: Gateway, log: Path) -> None:
    with served.client() as http:
        for method, path in (
            ("POST", "/v1/embeddings"),
            ("GET", "/nothing\u200b"),
            ("GET", f"/{TOKEN}/x"),
        ):
            answer = http.request(method, path)
            assert answer.status_code == 404
            assert "/v1/chat/completions" in answer.json()["error"]["message"]
    with served.client(key="wrong") as stranger:
        answer = stranger.get("/v1/embeddings-of-a-stranger")
        assert answer.status_code == 401
        assert "/v1/" not in answer.text
    written = log.read_text()
    assert "there is no POST /v1/embeddings" in written
    assert "there is no GET /nothing" in written
    assert "there is no GET /…/x" in written
    assert TOKEN not in written
    assert "stranger" not in written


def _methods(app: Any) -> dict[str, set[str]]:
    """Return the methods of every route without a name in it."""
    found: dict[str, set[str]] = {}
    for path, route in routes_of(app):
        if "{" not in path:
            found.setdefault(path, set()).update(route.methods or ())
    return found


def test_head_is_get_without_a_body_and_another_method_is_405(served: Gateway) -> None:
    methods = _methods(
        create_app({}, GatewaySettings(policy=AccessPolicy(secrets=None), web=False))
    )
    assert {"/v1/models", "/v1/responses", "/metrics", "/api/tags", "/livez"} <= methods.keys()
    with served.client() as http:
        for path, known in methods.items():
            for method in {"GET", "POST", "PUT", "DELETE"} - known:
                refused = http.request(method, path)
                allowed = set(refused.headers["allow"].split(", "))
                assert refused.status_code == 405, (method, path)
                assert allowed == known | ({"HEAD"} if "GET" in known else set())
                assert "error" in refused.json()
            head = http.head(path)
            if "GET" in known:
                whole = http.get(path)
                assert (head.status_code, head.content) == (whole.status_code, b""), path
                assert head.headers["content-type"] == whole.headers["content-type"]
                assert "content-length" in head.headers
            else:
                assert head.status_code == 405
            with_slash = http.request(next(iter(known)), f"{path}/")
            assert with_slash.status_code == http.request(next(iter(known)), path).status_code
