"""The gateway before an engine of others, which a stub speaks for: real processes and a real port."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from llava_pack.format.known_answers import KnownAnswer
from llava_pack.health.server import Address, ServerProbe
from llava_pack.health.suite import AnswerSuite, Subject
from llava_pack.serve.access.policy import AccessPolicy
from tests.support.gateway import START_SECRET, TOKEN, Gateway, gateway
from tests.support.waiting import until

_HI = [{"role": "user", "content": "hi"}]
_LONG = [{"role": "user", "content": "word " * 2000}]
_KEYED = AccessPolicy(secrets=(TOKEN,), start_secret=START_SECRET).llava_path


@dataclass
class Served:
    """A gateway, and what its engine was asked."""

    gateway: Gateway
    log: Path

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def post(self, path: str, body: Any) -> httpx.Response:
        with self.gateway.client() as http:
            return http.post(path, json=body)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("run")
    engine = f"--step-s 0.01 --slots 2 --context 8192 --log {folder / 'log'}"
    options = ("--dialect", "vllm", "--proof", "You said")
    with gateway(folder, *options, engine=engine) as running:
        yield Served(running, folder / "log")


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False)
    url = f"{served.gateway.url}/v1"
    with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0, http_client=http) as real:
        yield real


def _png(colour: str, size: tuple[int, int] = (8, 4)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def _asked(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def _picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_it_was_asked_its_known_answer_before_it_was_ready(served: Served) -> None:
    first = next(one for one in served.seen() if one["path"] == "/v1/chat/completions")
    assert first["body"]["messages"][0]["content"][0]["text"] == "hi"


def test_a_picture_is_seen_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    parts = _asked(_picture(f"data:image/png;base64,{_png('red')}"), {"type": "text", "text": "?"})
    whole = client.chat.completions.create(model="echo", messages=parts, logprobs=True)
    assert whole.choices[0].message.content == "You said: ? Picture 8x4 of 255,0,0."
    assert whole.choices[0].logprobs.content[0].token == "You "
    assert whole.usage.prompt_tokens_details.cached_tokens == 1
    stream = client.chat.completions.create(
        model="echo", messages=parts, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(said) == whole.choices[0].message.content
    assert len(said) > 5
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_every_other_way_to_ask_has_its_answer(served: Served, client: openai.OpenAI) -> None:
    text = client.completions.create(model="echo", prompt="hi", max_tokens=20)
    assert text.choices[0].text.strip() == "You said: hi"
    assert client.responses.create(model="echo", input="hi").output_text == "You said: hi"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with ollama.Client(host=served.gateway.url, headers=headers, trust_env=False) as llama:
        assert llama.chat("echo", messages=_HI).message.content == "You said: hi"
    told = served.post("/tokenize", {"model": "echo", "messages": _HI}).json()
    assert told["count"] == len(told["tokens"]) > 20
    with httpx.Client(base_url=f"{served.gateway.url}{_KEYED}", trust_env=False) as llava:
        body = {"model": "echo", "prompt": "USER: hi ASSISTANT:", "temperature": 0.0}
        said = llava.post("/worker_generate_stream", json=body).content.split(b"\0")
        assert json.loads(said[-2])["text"].endswith("You said: USER: hi ASSISTANT:")


def test_metrics_keep_their_names(served: Served) -> None:
    def counted() -> dict[str, float] | None:
        with served.gateway.client() as http:
            families = text_string_to_metric_families(http.get("/metrics").text)
        found = {one.name: one.value for family in families for one in family.samples}
        done = found["vllm:generation_tokens_total"] and found["llava_pack:engine_steps_total"]
        return found if done else None

    served.post("/v1/chat/completions", {"model": "echo", "messages": _HI})
    found = until(counted)
    assert found["vllm:kv_cache_usage_perc"] == 0.25
    assert found["vllm:time_to_first_token_seconds_count"] == 3
    with served.gateway.client() as http:
        assert http.get("/livez").status_code == http.get("/readyz").status_code == 200


def test_a_client_that_leaves_is_seen_to_leave_by_the_engine(served: Served) -> None:
    def left() -> int:
        return sum("left" in one for one in served.seen())

    before = left()
    body = {"model": "echo", "messages": _LONG, "stream": True, "max_tokens": 3000}
    with (
        served.gateway.client() as http,
        http.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        for line in stream.iter_lines():
            if "said" in line:
                break
    until(lambda: left() > before)


def test_sixty_four_at_once_of_which_some_leave(served: Served) -> None:
    """Nobody gets another's words, and nothing is left running."""
    go = threading.Barrier(32)

    def ask(number: int) -> bool:
        if number < 32:
            go.wait()
        body = {"model": "echo", "messages": [{"role": "user", "content": f"number {number} " * 9}]}
        with served.gateway.client() as http:
            if number % 4 == 0:
                with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}):
                    return True
            answer = http.post("/v1/chat/completions", json=body).json()
        text = answer["choices"][0]["message"]["content"]
        return text.split() == f"You said: {f'number {number} ' * 9}".split()

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(64)))

    def running() -> float:
        with served.gateway.client() as http:
            return http.get("/livez").json()["models"]["echo"]["running"]

    until(lambda: running() == 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 100_000},
        {"messages": _asked(_picture("http://127.0.0.1:9/x.png"))},
        {"messages": _asked(_picture("file:///etc/hostname"))},
        {"messages": _asked(_picture("/etc/hostname"))},
        {"chat_template": "{{ 7*7 }}"},
        {"chat_template_kwargs": {"a": 1}},
        {"prompt_logprobs": 3},
        {"conv_mode": "llava_v0"},
    ],
    ids=str,
)
def test_what_is_refused_never_reaches_the_engine(served: Served, fields: dict[str, Any]) -> None:
    before = len(served.seen())
    answer = served.post("/v1/chat/completions", {"model": "echo", "messages": _HI, **fields})
    assert answer.status_code == 400, answer.text
    assert len(served.seen()) == before


def test_only_fields_of_ours_reach_the_engine(served: Served) -> None:
    typed = "<image></s> file:///etc/hostname"
    fields = {"user": "somebody", "metadata": {"a": "b"}, "mm_processor_kwargs": None}
    body = {"model": "echo", "messages": [{"role": "user", "content": typed}], **fields}
    assert served.post("/v1/chat/completions", body).status_code == 200
    *_, last = (one for one in served.seen() if "body" in one)
    assert last["body"].keys() == {
        "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stream_options",
        "add_special_tokens", "return_token_ids", "add_generation_prompt", "cache_salt",
    }  # fmt: skip
    assert last["body"]["messages"][0]["content"][0]["text"] == typed.replace("<", "<\u200b")
    assert TOKEN not in json.dumps(last)


def test_an_error_is_in_our_words(served: Served) -> None:
    starve = [{"role": "user", "content": "starve"}]
    failed = served.post("/v1/chat/completions", {"model": "echo", "messages": starve})
    assert failed.status_code == 503
    assert "EngineCore" not in failed.text
    long = [{"role": "user", "content": "word " * 9000}]
    refused = served.post("/v1/chat/completions", {"model": "echo", "messages": long}).json()
    assert refused["error"]["code"] == "context_length_exceeded"


def test_health_grades_it_by_its_words_and_ids(served: Served) -> None:
    known = tuple(
        KnownAnswer(name=name, picture_png=_png(name), prompt=f"what {name}", contains=(name,))
        for name in ("red", "blue")
    )
    address = Address(url=served.gateway.url, socket=None, token=TOKEN, pid=0)
    with ServerProbe(address) as probe:
        references = tuple(probe.observe("echo", one) for one in known)
        subject = Subject(
            name="echo", known=known, references=references, slots=2, context_tokens=8192
        )
        found = list(AnswerSuite(probe, subject, lambda _: _png("black"), "llava-pack").run())
    assert [one.level for one in found] == ["ok"] * 7, found
    assert "equivalent" in found[0].text
    assert references[0].prompt
    assert references[0].tower == ()
