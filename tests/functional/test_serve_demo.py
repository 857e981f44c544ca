"""The demo model in 4 bits behind the real gateway: what it sees, by the API and on the page."""

import base64
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, Field

from llava_pack.assemble.manifest import known_answers
from llava_pack.health.recordings import black_like
from llava_pack.health.server import Address, ServerProbe
from llava_pack.health.suite import AnswerSuite, Subject
from llava_pack.recipe import read_recipe
from tests.support.fences import landlock_abi

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "bundles" / "demo-model"
RECIPE = tomllib.loads((ROOT / "bundles" / "demo.toml").read_text())
KNOWN = RECIPE["known_answers"][0]
PICTURE = ROOT / "bundles" / KNOWN["picture"]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "llava_pack", "serve", "--port", "0", "--load-4bit", "--json"]
    command += ["--model-path", str(DEMO / "llava-v1-demo")]
    command += ["--vision-tower", str(DEMO / "clip-demo")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            assert process.wait(timeout=400) == 0


def test_a_fence_stands_around_the_engine(served: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {served['token']}"}
    with httpx.Client(base_url=served["url"], headers=headers, trust_env=False) as http:
        fence = http.get("/startupz").json()["models"]["llava-v1-demo"]["fence"]
    assert fence["whole"] == (landlock_abi() > 0), fence["said"]


def _knows(text: str) -> bool:
    return all(word in text for word in KNOWN["contains"])


def test_the_api_sees_the_picture(served: dict[str, Any]) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    content: Any = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": KNOWN["prompt"]},
    ]
    with openai.OpenAI(
        base_url=f"{served['url']}/v1",
        api_key=served["token"],
        http_client=httpx.Client(trust_env=False),
    ) as client:
        whole = client.chat.completions.create(
            model="llava-v1-demo", messages=[{"role": "user", "content": content}]
        )
        stream = client.chat.completions.create(
            model="llava-v1-demo", messages=[{"role": "user", "content": content}], stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    answer = whole.choices[0].message.content or ""
    assert _knows(answer), answer
    assert "".join(pieces) == answer
    assert len([piece for piece in pieces if piece]) > 2


@contextmanager
def _client(served: dict[str, Any]) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False)
    base_url, token = f"{served['url']}/v1", served["token"]
    with openai.OpenAI(base_url=base_url, api_key=token, max_retries=0, http_client=http) as client:
        yield client


def _question(text: str = KNOWN["prompt"]) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def test_an_answer_that_was_cut_goes_on_where_it_ended(served: dict[str, Any]) -> None:
    """Whatever stands at the seam: what is sent and what comes are one text."""
    with _client(served) as client:
        whole = client.chat.completions.create(model="llava-v1-demo", messages=_question())
        answer = whole.choices[0].message.content or ""
        words = answer.split(" ")
        for count in range(1, len(words)):
            begun = {"role": "assistant", "content": " ".join(words[:count])}
            rest = client.chat.completions.create(
                model="llava-v1-demo", messages=[*_question(), begun]
            )
            assert begun["content"] + (rest.choices[0].message.content or "") == answer
        held = client.chat.completions.create(
            model="llava-v1-demo",
            messages=[*_question(), {"role": "assistant", "content": "The colour is"}],
            extra_body={"regex": " (red|blue)"},
        )
        assert held.choices[0].message.content in {" red", " blue"}
        text = client.completions.create(
            model="llava-v1-demo", prompt="USER: Hi ASSISTANT: A red circle on a", max_tokens=1
        )
        assert text.choices[0].text.startswith(" ")


class Seen(BaseModel):
    """What a client wants to know of a picture."""

    colour: Literal["red", "green", "blue"]
    count: Annotated[int, Field(ge=0, le=9)]
    parts: Annotated[list[Literal["circle", "square"]], Field(max_length=2)]


def test_an_answer_is_held_to_a_schema_whole_and_as_a_stream(served: dict[str, Any]) -> None:
    with _client(served) as client:
        parsed = client.chat.completions.parse(
            model="llava-v1-demo", messages=_question(), response_format=Seen
        )
        with client.chat.completions.stream(
            model="llava-v1-demo", messages=_question(), response_format=Seen
        ) as stream:
            streamed = stream.get_final_completion()
        cut = client.chat.completions.create(
            model="llava-v1-demo",
            messages=_question(),
            max_tokens=2,
            response_format={"type": "json_object"},
        )
    assert parsed.choices[0].message.parsed == streamed.choices[0].message.parsed
    assert isinstance(parsed.choices[0].message.parsed, Seen)
    assert parsed.choices[0].finish_reason == "stop"
    assert cut.choices[0].finish_reason == "length"


def test_other_servers_words_for_a_grammar_are_understood(served: dict[str, Any]) -> None:
    forms: dict[str, Any] = {
        "guided_choice": ["left", "right"],
        "structured_outputs": {"choice": ["left", "right"]},
        "regex": "(left|right)",
        "ebnf": 'root ::= "left" | "right"',
        "grammar": 'root ::= "left" | "right"',
        "guided_json": {"enum": ["left", "right"]},
    }
    with _client(served) as client:
        answers = {
            name: client.chat.completions.create(
                model="llava-v1-demo", messages=_question(), extra_body={name: value}
            )
            for name, value in forms.items()
        }
        texts = {name: one.choices[0].message.content or "" for name, one in answers.items()}
        assert json.loads(texts.pop("guided_json")) in {"left", "right"}
        assert set(texts.values()) <= {"left", "right"}
        with pytest.raises(openai.BadRequestError, match="look-around") as caught:
            client.chat.completions.create(
                model="llava-v1-demo", messages=_question(), extra_body={"regex": "(?=a)b"}
            )
    assert caught.value.param == "regex"


TOOL = {
    "type": "function",
    "function": {
        "name": "point_at",
        "description": "Points at a thing.",
        "parameters": Seen.model_json_schema(),
    },
}
OTHER = {"type": "function", "function": {"name": "give-up"}}
NAMED = {"type": "function", "function": {"name": "point_at"}}


@pytest.mark.parametrize(
    ("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")], ids=["required", "named"]
)
def test_a_forced_call_is_a_call(served: dict[str, Any], choice: Any, reason: str) -> None:
    asked: Any = {
        "model": "llava-v1-demo",
        "messages": _question(),
        "tools": [TOOL, OTHER],
        "tool_choice": choice,
    }
    with _client(served) as client:
        whole = client.chat.completions.create(**asked).choices[0]
        with client.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0]
    (call,) = whole.message.tool_calls or ()
    (same,) = streamed.message.tool_calls or ()
    assert whole.message.content is None
    assert {whole.finish_reason, streamed.finish_reason} == {reason}
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, call.function.arguments) == (
        same.function.name,
        same.function.arguments,
    )
    if call.function.name == "point_at":
        Seen.model_validate_json(call.function.arguments)
    else:
        assert isinstance(json.loads(call.function.arguments), dict)
        assert choice == "required"


def test_tools_that_are_only_offered_change_nothing(served: dict[str, Any]) -> None:
    with _client(served) as client:
        texts = {
            client.chat.completions.create(
                model="llava-v1-demo", messages=_question(), **extra
            ).choices[0].message.content
            for extra in ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "auto"})
        }  # fmt: skip
    assert len(texts) == 1


def test_several_choices_have_one_prompt_and_seeds_of_their_own(served: dict[str, Any]) -> None:
    asked: Any = {
        "model": "llava-v1-demo",
        "messages": _question("Tell me about the picture."),
        "temperature": 1.5,
        "seed": 7,
        "max_tokens": 12,
    }
    with _client(served) as client:
        several = client.chat.completions.create(**asked, n=3)
        alone = client.chat.completions.create(**{**asked, "seed": 9})
        pieces = list(
            client.chat.completions.create(
                **asked, n=3, stream=True, stream_options={"include_usage": True}
            )
        )
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert texts[2] == alone.choices[0].message.content
    streamed = ["", "", ""]
    for piece in pieces:
        for choice in piece.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert several.usage == pieces[-1].usage
    assert several.usage is not None
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens  # type: ignore[union-attr]


def test_llavas_own_clients_get_the_same_answer(served: dict[str, Any]) -> None:
    """The prompt as LLaVA's own code renders it, and what the API says to the same question."""
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    prompt = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions. "
        f"USER: <image>\n{KNOWN['prompt']} ASSISTANT:"
    )
    raw = {"model": "llava-v1-demo", "prompt": prompt, "images": [picture], "stop": "</s>"}
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": KNOWN["prompt"]},
    ]
    asked = {"model": "llava-v1-demo", "messages": [{"role": "user", "content": content}]}
    headers = {"Authorization": f"Bearer {served['token']}"}
    with httpx.Client(base_url=served["url"], headers=headers, trust_env=False) as http:
        said = http.post("/worker_generate_stream", json={**raw, "temperature": 0}, timeout=600)
        api = http.post("/v1/chat/completions", json=asked, timeout=600).json()
    last = json.loads(said.content.split(b"\0")[-2])
    assert last["error_code"] == 0
    assert last["text"].removeprefix(prompt) == api["choices"][0]["message"]["content"]
    assert _knows(last["text"])


@pytest.mark.browser
def test_the_page_sees_the_picture_remembers_it_and_forgets_it(served: dict[str, Any]) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from tests.support.page import chromium, opened_tab

    with chromium() as browser, opened_tab(browser) as tab:
        tab.open(served["url"], served["token"])
        tab.ask(KNOWN["prompt"], PICTURE)
        tab.answered()
        answer = tab.answers.last.locator(".body").inner_text()
        assert _knows(answer.lower()), answer
        tab.ask("What colour is it?")
        tab.answered()
        assert "red" in tab.answers.last.inner_text(), "the next turn knows the picture"
        tab.fresh()
        tab.ask("What colour is it?")
        tab.answered()
        assert tab.answers.last.locator(".body").inner_text() == "I see no picture."
        assert tab.complaints == []


def test_the_deep_test_of_a_model_that_is_well(served: dict[str, Any]) -> None:
    known = known_answers(read_recipe(ROOT / "bundles/demo.toml"))
    address = Address(url=served["url"], socket=None, token=served["token"], pid=served["pid"])
    with ServerProbe(address) as probe:
        recorded = tuple(probe.observe("llava-v1-demo", one) for one in known)
        subject = Subject(
            name="llava-v1-demo", known=known, references=recorded, slots=8, context_tokens=1024
        )
        suite = AnswerSuite(probe, subject, black_like, "llava-pack")
        found = list(suite.run())
    assert [one.text for one in found if one.level != "ok"] == []
    assert [one.level for one in suite.judgements] == ["exact"] * 3
    assert len(found) == 3 + 5
