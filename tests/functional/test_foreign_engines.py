"""Engines of others behind the real gateway and its fence: asked, killed, and ended with the run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llava_pack.format.manifest import Engine
from tests.support import engine_program
from tests.support.engine_program import ANSWER, seen
from tests.support.gateway import Gateway, gateway
from tests.support.waiting import until

ENGINES: tuple[Engine, ...] = ("vllm", "sglang")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Engine, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {engine: engine_program.model(folder / engine) for engine in ENGINES}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, models: dict[Engine, Path]
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("engines")
    options = ["--models", "echo"]
    for engine in ENGINES:
        python = engine_program.environment(folder / engine, engine)
        options += ["--foreign", engine, str(python), str(models[engine])]
    with gateway(tmp_path_factory.mktemp("state"), *options) as running:
        yield running
    for model in models.values():
        for process in seen(model):
            assert not Path(f"/proc/{process['pid']}").exists()
            assert not Path(f"/proc/{process['child']}").exists()


def asked(client: httpx.Client, model: str) -> httpx.Response:
    message = {"role": "user", "content": "What is it?"}
    return client.post("/v1/chat/completions", json={"model": model, "messages": [message]})


@pytest.mark.parametrize("model", ["echo", *ENGINES])
def test_each_is_asked_by_its_name(server: Gateway, model: str) -> None:
    with server.client() as client:
        answer = asked(client, model)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["message"]["content"]
        assert (text == ANSWER) is (model != "echo")


def test_what_each_is_and_that_it_has_no_fence_is_told(server: Gateway) -> None:
    with server.client() as client:
        startup: dict[str, Any] = client.get("/startupz").json()
    told = {name: one["engine"] for name, one in startup["models"].items()}
    assert told == {"echo": "llava-pack", "vllm": "vLLM 1.2.3", "sglang": "SGLang 1.2.3"}
    for engine in ENGINES:
        fence = startup["models"][engine]["fence"]
        assert not fence["whole"]
        assert fence["said"].startswith("none: engines other than llava-pack's own")


@pytest.mark.parametrize("engine", ENGINES)
def test_one_that_is_killed_answers_again(
    server: Gateway, models: dict[Engine, Path], engine: Engine
) -> None:
    before = seen(models[engine])
    os.kill(before[-1]["pid"], signal.SIGKILL)
    with server.client() as client:
        until(lambda: len(seen(models[engine])) > len(before))
        until(lambda: asked(client, engine).status_code == 200)
        assert asked(client, "echo").status_code == 200
