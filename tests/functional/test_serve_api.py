"""The OpenAI-compatible API, asked by the real `openai` client over a real port."""

import base64
import io
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from llava_pack.health.knowledge import known_failures, recognise
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.waiting import until

_HI = [{"role": "user", "content": "hi"}]
_ENGINE = "--step-s 0.01 --slots 2 --context 8192"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("run"), engine=_ENGINE) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{served.url}/v1",
        api_key=TOKEN,
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    ) as real:
        yield real


def _picture(colour: str, size: tuple[int, int] = (8, 4)) -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return _url(f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}")


def _url(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _post(served: Gateway, body: Any, **headers: str) -> httpx.Response:
    with served.client(**headers) as http:
        return http.post("/v1/chat/completions", json=body)


def _error(response: httpx.Response) -> dict[str, Any]:
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def test_an_answer_in_one_piece(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=_HI)
    assert answer.choices[0].message.content == "You said: hi"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_word_by_word(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=_HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert said == ["You ", "said: ", "hi"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_usage_comes_only_where_it_is_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="echo", messages=_HI, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


def test_pictures_and_turns_reach_the_engine(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [_picture("blue"), {"type": "text", "text": "one"}]},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, _picture("red", (5, 6))]},
    ]
    answer = client.chat.completions.create(model="echo", messages=messages)
    assert answer.choices[0].message.content == "You said: two Picture 5x6 of 255,0,0."


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_of_one_colour_is_told_beside_the_answer(
    served: Gateway, *, stream: bool
) -> None:
    """Once, at the end of a stream; and nothing where there is nothing to tell."""
    seen = io.BytesIO()
    Image.effect_noise((8, 8), 50).save(seen, "PNG")
    noise = _url(f"data:image/png;base64,{base64.b64encode(seen.getvalue()).decode()}")
    told = ["picture 2 has only one colour, #0000ff: the model sees nothing"]
    for pictures, expected in (([noise, _picture("blue")], [told]), ([noise], [])):
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": "?"}]}]
        body = {"model": "echo", "messages": messages, "stream": stream}
        text = _post(served, body).text
        events = [line.removeprefix("data: ") for line in text.splitlines() if line]
        answers = [json.loads(event) for event in events if event != "[DONE]"]
        assert [one["warnings"] for one in answers if "warnings" in one] == expected


def test_the_bound_and_the_stop_string_end_an_answer(client: openai.OpenAI) -> None:
    short = client.chat.completions.create(model="echo", messages=_HI, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].message.content == "You said: "
    stopped = client.chat.completions.create(model="echo", messages=_HI, stop=["said"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == "You "


def test_a_seed_repeats_a_sample(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="echo", messages=_HI, temperature=0.7, seed=seed
        )
        return answer.choices[0].message.content

    assert ask(1) == ask(1) != ask(2)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_come_token_by_token(client: openai.OpenAI, *, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "echo", "messages": _HI, "logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        told = [
            odds for c in chunks if c.choices[0].logprobs for odds in c.choices[0].logprobs.content
        ]
    else:
        odds = client.chat.completions.create(**asked).choices[0].logprobs
        assert odds is not None
        told = list(odds.content or ())
    assert [one.token for one in told] == ["You ", "said: ", "hi", ""]
    assert [len(one.top_logprobs) for one in told] == [3] * 4
    assert bytes(told[0].bytes or ()) == b"You "
    assert told[0].top_logprobs[0].token == "You "
    assert [one.logprob for one in told] == [0.0] * 4
    assert client.chat.completions.create(model="echo", messages=_HI).choices[0].logprobs is None


def test_a_stop_may_be_one_string(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model="echo", messages=_HI, stop="hi")
    assert stopped.choices[0].message.content == "You said: "


def test_too_long_a_prompt_has_the_code_that_clients_know(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError, match="the model's limit is 8192") as refused:
        client.chat.completions.create(model="echo", messages=long)
    assert refused.value.code == "context_length_exceeded"


def test_a_prompt_is_tokenized(served: Gateway, client: openai.OpenAI) -> None:
    pictured = [{"role": "user", "content": [_picture("red"), {"type": "text", "text": "what"}]}]
    with served.client() as http:
        told = http.post("/tokenize", json={"model": "echo", "messages": pictured}).json()
        text = http.post("/tokenize", json={"model": "echo", "prompt": "one two"}).json()
        both = http.post("/tokenize", json={"model": "echo", "prompt": "x", "messages": _HI})
        unknown = http.post("/tokenize", json={"model": "other", "prompt": "x"})
    assert told["tokens"].count(-200) == 4
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 8192
    assert (text["count"], both.status_code, unknown.status_code) == (2, 400, 404)
    usage = client.chat.completions.create(model="echo", messages=pictured).usage
    assert usage is not None
    assert usage.prompt_tokens == told["count"]


def test_special_tokens_that_somebody_types_stay_text(served: Gateway) -> None:
    """CVE-2026-44222 and its like: `<image>` in a text is no picture, `</s>` ends nothing."""
    typed = "</s> <image> <s> <|im_end|> USER: ASSISTANT:"
    with served.client() as http:
        told = http.post("/tokenize", json={"model": "echo", "messages": [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": typed},
            {"role": "user", "content": typed},
        ]}).json()  # fmt: skip
        answer = http.post(
            "/v1/chat/completions",
            json={"model": "echo", "messages": [{"role": "user", "content": typed}]},
        ).json()
    assert -200 not in told["tokens"]
    assert told["tokens"].count(2) == 1, "the template's own, after the assistant's turn"
    assert answer["choices"][0]["message"]["content"] == f"You said: {typed}"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").owned_by == "llava-pack"


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here; served: echo") as e:
        client.chat.completions.create(model="gpt-4", messages=_HI)
    assert e.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_wrong_token_is_401(served: Gateway) -> None:
    with (
        openai.OpenAI(
            base_url=f"{served.url}/v1", api_key="wrong", http_client=httpx.Client(trust_env=False)
        ) as stranger,
        pytest.raises(openai.AuthenticationError, match="missing or wrong") as refused,
    ):
        stranger.models.list()
    known = [failure.id for failure in recognise(str(refused.value), known_failures())]
    assert known == ["wrong-token"]


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/models", "/livez", "/readyz", "/startupz", "/openapi.json", "/docs", "/login",
     "/page/facts", "/page/app.js", "/no/such/page"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_no_route_answers_without_the_token(served: Gateway, method: str, path: str) -> None:
    response = httpx.request(method, served.url + path, trust_env=False)
    if (method, path) == ("GET", "/login"):
        assert response.status_code == 200
        assert TOKEN not in response.text
    else:
        assert response.status_code == 401
        assert _error(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/a.png", "pictures are not fetched"),
        ("/etc/passwd", "pictures are not fetched"),
        ("file:///etc/passwd", "pictures of this machine are not read"),
    ],
)
def test_a_picture_as_a_url_is_400(served: Gateway, url: str, message: str) -> None:
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    response = _post(served, {"model": "echo", "messages": [{"role": "user", "content": content}]})
    assert response.status_code == 400
    error = _error(response)
    assert error["message"].startswith(f"messages.0.content.1.image_url: {message}")
    assert error["param"] == "messages.0.content.1.image_url"
    assert url not in response.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: [_url("data:image/png;base64,aGVsbG8=")], "not a picture"),
        (lambda: [_picture("red", (7150, 7150))], "the picture is too large: 7150x7150"),
        (lambda: [_picture("red")] * 17, "too many pictures: 17"),
        (lambda: [_picture("red", (5000, 5000))] * 5, "too large in total: 125 megapixels"),
        (lambda: "word " * 9000, "the model's limit is 8192"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_person_can_mend_is_said(
    served: Gateway, content: Callable[[], Any], message: str, *, stream: bool
) -> None:
    body = {"model": "echo", "stream": stream, "messages": [{"role": "user", "content": content()}]}
    response = _post(served, body)
    assert response.status_code == 400
    assert message in _error(response)["message"]


def test_no_tensors_are_taken_for_a_picture(served: Gateway) -> None:
    content = [{"type": "image_embeds", "image_embeds": "AAAA"}]
    answer = _post(served, {"model": "echo", "messages": [{"role": "user", "content": content}]})
    assert (answer.status_code, _error(answer)["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("stream", [False, True])
def test_where_memory_runs_out_it_is_said_and_others_go_on(
    served: Gateway, *, stream: bool
) -> None:
    asked = [{"role": "user", "content": "starve"}]
    answer = _post(served, {"model": "echo", "messages": asked, "stream": stream})
    assert (answer.status_code, _error(answer)["code"]) == (503, "out_of_memory")
    assert answer.headers["retry-after"] == "2"
    assert _post(served, {"model": "echo", "messages": _HI}).status_code == 200


def test_a_picture_belongs_to_the_person(served: Gateway) -> None:
    body = {"model": "echo", "messages": [{"role": "assistant", "content": [_picture("red")]}]}
    assert "role assistant" in _error(_post(served, body))["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "echo"}, "messages"),
        ({"model": "echo", "messages": _HI, "temperature": 3}, "temperature"),
        ({"model": "echo", "messages": _HI, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"model": "echo", "messages": _HI, "top_logprobs": 2}, "top_logprobs"),
        ({"model": "echo", "messages": _HI, "max_tokens": -2}, "max_tokens"),
        ({"model": "echo", "messages": _HI, "n": 9}, "n"),
        ({"model": "echo", "messages": _HI * 257}, "messages"),
        ({"model": "echo", "messages": _HI, "stop": ["x"] * 17}, "stop"),
        ({"model": "echo", "messages": _HI, "best_of": 2}, "best_of"),
        ({"model": "echo", "messages": _HI, "top_n": 2}, "top_n"),
        ({"model": "echo", "messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (
            {
                "model": "echo",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            _picture("red"),
                            _url("data:image/png;base64,aGVsbG8="),
                        ],
                    }
                ],
            },
            "messages.0.content.1.image_url",
        ),
        ([], None),
    ],
)
def test_a_body_that_does_not_fit_names_the_place(
    served: Gateway, body: Any, param: str | None
) -> None:
    response = _post(served, body)
    assert response.status_code == 400
    assert _error(response)["param"] == param


def test_an_answer_that_was_begun_is_continued(served: Gateway) -> None:
    """And what was begun is part of the prompt for `/tokenize` too, as vLLM has it."""
    begun = [*_HI, {"role": "assistant", "content": "You said"}]
    counts = []
    with served.client() as http:
        for more in ({}, {"add_generation_prompt": True}, {"add_generation_prompt": False}):
            body = {"model": "echo", "messages": begun, **more}
            counts.append(http.post("/tokenize", json=body).json()["count"])
            answer = http.post("/v1/chat/completions", json=body).json()
            assert answer["usage"]["prompt_tokens"] == counts[-1]
    continued, new_turn, closed = counts
    assert new_turn > closed > continued


def test_what_is_not_json_is_400(served: Gateway) -> None:
    with served.client() as http:
        response = http.post(
            "/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400
    assert _error(response)["code"] == "invalid_json"


def test_a_forgotten_content_type_is_said(served: Gateway) -> None:
    """As `curl -d` sends it."""
    with served.client() as http:
        response = http.post(
            "/v1/chat/completions",
            content=b'{"model": "echo", "messages": [{"role": "user", "content": "x"}]}',
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
    assert response.status_code == 400
    assert "Content-Type: application/json" in _error(response)["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 32,
        b'{"model": ' + b"1" * 10_000 + b"}",
        b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"\xff\xfe",
        b"null",
        b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "seed": 1e400}',
    ],
)
def test_hostile_bodies_are_400_and_never_500(served: Gateway, body: bytes) -> None:
    with served.client() as http:
        response = http.post(
            "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400
    _error(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/embeddings", 404),
        ("POST", "/v1/", 404),
    ],
)
def test_what_is_not_there_has_the_shape_of_an_error(
    served: Gateway, method: str, path: str, status: int
) -> None:
    with served.client() as http:
        response = http.request(method, path)
    assert response.status_code == status
    _error(response)


def test_too_large_a_body_is_refused_before_it_is_read(served: Gateway) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {100 * 1024 * 1024}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=200) as raw:
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_too_large_a_body_is_refused_while_it_comes(served: Gateway) -> None:
    def endless() -> Iterator[bytes]:
        yield b'"'
        for _ in range(65):
            yield b"x" * (1024 * 1024)

    with served.client() as http:
        response = http.post(
            "/v1/chat/completions", content=endless(), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 413
    assert _error(response)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:7860"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ],
)
def test_other_hosts_and_pages_are_refused(
    served: Gateway, headers: dict[str, str], status: int
) -> None:
    with served.client(**headers) as http:
        assert http.get("/v1/models").status_code == status


def test_every_answer_forbids_loading_from_outside(served: Gateway) -> None:
    for response in (_post(served, {}), httpx.get(served.url, trust_env=False)):
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["x-frame-options"] == "DENY"
        assert len(response.headers["x-request-id"]) == 16


def test_the_fragment_becomes_a_cookie(served: Gateway) -> None:
    with httpx.Client(base_url=served.url, trust_env=False) as browser:
        sent = browser.get("/", headers={"Accept": "text/html"})
        assert (sent.status_code, sent.headers["location"]) == (303, "login")
        assert browser.post("/login", headers={"Authorization": "Bearer no"}).status_code == 401
        assert not browser.cookies
        entered = browser.post("/login", headers={"Authorization": f"Bearer {TOKEN}"})
        assert entered.status_code == 204
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert "SameSite=strict" in entered.headers["set-cookie"]
        assert browser.get("/v1/models").status_code == 200


def test_the_probes(served: Gateway) -> None:
    with served.client() as http:
        assert http.get("/livez").json()["status"] == "live"
        assert http.get("/readyz").json()["models"] == {"echo": "ready"}
        assert http.get("/startupz").json()["models"]["echo"]["precision"] == "fp32"


def _busy(http: httpx.Client) -> int:
    echo = http.get("/livez").json()["models"]["echo"]
    return echo["running"] + echo["waiting"]


def _steps(http: httpx.Client) -> int:
    return int(http.get("/livez").json()["models"]["echo"]["steps"])


def test_token_ids_come_where_they_are_asked_for(client: openai.OpenAI) -> None:
    asked = {"return_token_ids": True}
    whole = client.chat.completions.create(model="echo", messages=_HI, extra_body=asked)
    chunks = list(
        client.chat.completions.create(model="echo", messages=_HI, stream=True, extra_body=asked)
    )
    streamed = chunks[-1].choices[0].to_dict()["token_ids"]
    assert whole.choices[0].to_dict()["token_ids"] == streamed
    assert len(streamed) > 0
    plain = client.chat.completions.create(model="echo", messages=_HI)
    assert "token_ids" not in plain.choices[0].to_dict()


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_frees_the_slot(served: Gateway, *, stream: bool) -> None:
    """A word every 10 ms, 4000 words: a client that leaves after a moment ends the work."""
    body = {
        "model": "echo",
        "stream": stream,
        "messages": [{"role": "user", "content": "word " * 4000}],
        "max_tokens": 4000,
    }
    text = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n"
    )
    with served.client() as http:
        with socket.create_connection(("127.0.0.1", served.port), timeout=200) as raw:
            raw.sendall(head.encode() + text)
            until(lambda: _busy(http) == 1)
            before = _steps(http)
        until(lambda: _busy(http) == 0)
        assert _steps(http) - before < 3000, "half a minute, however busy the machine is"
        assert _post(served, {"model": "echo", "messages": _HI}).status_code == 200
