"""LLaVA's own protocol: what its clients send, recorded from them, and what they make of it."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from llava_pack.serve.access.policy import AccessPolicy
from tests.support.gateway import START_SECRET, TOKEN, Gateway, gateway

_KEYED = AccessPolicy(secrets=(TOKEN,), start_secret=START_SECRET).llava_path
# As test_message and gradio_web_server of llava-torch 1.2.2.post1 sent them to this server;
# `make test-upstream` runs the programs themselves.
_TEST_MESSAGE = {
    "model": "echo",
    "prompt": "A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions. USER: Hello ASSISTANT:",
    "max_new_tokens": 32,
    "temperature": 0.7,
    "stop": "</s>",
}
_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions. "
)
_WEB = {
    "model": "echo",
    "prompt": f"{_SYSTEM}USER: <image>\nWhat is it? ASSISTANT:",
    "temperature": 0.0,
    "top_p": 0.7,
    "max_new_tokens": 512,
    "stop": "</s>",
}


def _picture(colour: str) -> str:
    out = io.BytesIO()
    Image.new("RGB", (8, 4), colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("run"), engine="--step-s 0.005") as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Gateway) -> Iterator[httpx.Client]:
    """Send what LLaVA's programs send: no token, no Content-Type but JSON's, their own agent."""
    headers = {"User-Agent": "LLaVA Client"}
    with httpx.Client(base_url=f"{served.url}{_KEYED}", headers=headers, trust_env=False) as http:
        yield http


def _chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the objects of a stream, cut as `iter_lines(delimiter=b"\\0")` cuts it."""
    assert response.status_code == 200
    assert response.content.endswith(b"\0")
    return [json.loads(chunk) for chunk in response.content.split(b"\0") if chunk]


def _stream(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    return _chunks(client.post("/worker_generate_stream", json=body))


def test_the_controller_knows_the_models_and_where_they_are(client: httpx.Client) -> None:
    assert client.post("/refresh_all_workers").json() is None
    assert client.post("/list_models").json() == {"models": ["echo"]}
    address = client.post("/get_worker_address", json={"model": "echo"}).json()["address"]
    assert address == str(client.base_url).rstrip("/")
    assert client.post("/get_worker_address", json={"model": "x"}).json() == {"address": ""}
    status = client.post("/worker_get_status").json()
    assert status == {"model_names": ["echo"], "speed": 1, "queue_length": 0}


def test_test_message_gets_its_prompt_back_and_the_answer_word_by_word(
    client: httpx.Client,
) -> None:
    chunks = _stream(client, {**_TEST_MESSAGE, "temperature": 0.0})
    prompt = str(_TEST_MESSAGE["prompt"])
    assert chunks[0] == {"text": prompt, "error_code": 0}
    assert all(chunk["text"].startswith(prompt) for chunk in chunks)
    said = [chunk["text"][len(prompt) :] for chunk in chunks]
    assert said[1:3] == ["You ", "You said: "]
    assert said[-1] == f"You said: {prompt}"


def test_the_web_servers_request_brings_its_picture(client: httpx.Client) -> None:
    chunks = _stream(client, {**_WEB, "images": [_picture("red")]})
    assert "Picture 8x4 of 255,0,0." in chunks[-1]["text"]
    assert {chunk["error_code"] for chunk in chunks} == {0}


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"model": "other"}, 2, "there is no model 'other' here"),
        ({"images": []}, 1, "the prompt has <image> 1 times, but 0 pictures came"),
        ({"images": ["%"]}, 1, "not valid base64"),
        ({"images": [base64.b64encode(b"x").decode()]}, 1, "not a picture"),
        ({"prompt": "word " * 600, "images": []}, 0, "Exceeds max token length."),
    ],
)
def test_what_goes_wrong_is_told_as_these_clients_expect(
    client: httpx.Client, change: dict[str, Any], code: int, text: str
) -> None:
    last = _stream(client, {**_WEB, **change})[-1]
    assert last["error_code"] == code
    assert text in last["text"]


def test_stop_may_be_missing_and_ends_an_answer_where_it_is_there(client: httpx.Client) -> None:
    plain = {"model": "echo", "prompt": "one two three", "temperature": 0}
    assert _stream(client, plain)[-1]["text"] == "one two threeYou said: one two three"
    stopped = _stream(client, {**plain, "stop": "two"})[-1]["text"]
    assert stopped == "one two threeYou said: one "
    short = _stream(client, {**plain, "max_new_tokens": 1})[-1]["text"]
    assert short == "one two threeYou "


@pytest.mark.parametrize("route", ["register_worker", "receive_heart_beat"])
def test_no_worker_registers_from_outside(client: httpx.Client, route: str) -> None:
    """CVE-2024-9309 and CVE-2024-10044: a controller that calls what it was told to call."""
    body = {"worker_name": "http://192.0.2.1", "check_heart_beat": True, "queue_length": 1}
    assert client.post(f"/{route}", json=body).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/list_models", 401),
        ("POST", "/worker_generate_stream", 401),
        ("POST", "/llava/wrong/list_models", 401),
        ("POST", f"/llava/{TOKEN}/list_models", 401),
        ("GET", f"{_KEYED}/list_models", 401),
        ("POST", f"{_KEYED}/v1/chat/completions", 401),
        ("GET", f"{_KEYED}/livez", 401),
        ("POST", f"{_KEYED}/../v1/models", 401),
    ],
)
def test_the_key_opens_these_routes_and_nothing_else(
    served: Gateway, method: str, path: str, status: int
) -> None:
    assert httpx.request(method, served.url + path, trust_env=False).status_code == status


def test_the_token_opens_them_without_the_key_too(served: Gateway) -> None:
    with served.client() as http:
        assert http.post("/list_models").json() == {"models": ["echo"]}
        address = http.post("/get_worker_address", json={"model": "echo"}).json()["address"]
        assert address == served.url
        page = {"Origin": "http://evil.example"}
        assert http.post(f"{_KEYED}/list_models", headers=page).status_code == 403
