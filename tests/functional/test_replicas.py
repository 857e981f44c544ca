"""Several real servers behind one gateway: alike in every answer, and gone without anybody's loss.

Each replica is a whole `serve` of its own, at a Unix socket or a port of loopback.
"""

import base64
import contextlib
import io
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from llava_pack.format.errors import IntegrityError, ServeError, UsageError
from llava_pack.serve.run_state import RunState, running
from llava_pack.serve.supervision.control import order
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.ports import quiet_ports
from tests.support.waiting import until

_B, _C = "b" * 64, "c" * 64
_QUICK = "--slots 4"


@dataclass
class Site:
    """Servers below one folder, and the front of them."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def servers(self, **options: Sequence[str]) -> list[Gateway]:
        """Run servers, all at once, each at a Unix socket of its name."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.server, options, options.values()))

    def server(self, name: str, options: Sequence[str] = (), engine: str = _QUICK) -> Gateway:
        """Run a server at a Unix socket of its name."""
        at = ("--socket", str(self.folder / f"{name}.sock"))
        return self.stack.enter_context(gateway(self.folder / name, *at, *options, engine=engine))

    def address(self, name: str) -> str:
        return f"unix:{self.folder}/{name}.sock"

    def front(self, *replicas: str, options: Sequence[str] = ("--models",)) -> Gateway:
        """Run a front of replicas, by default without a model of its own."""
        asked = [word for one in replicas for word in ("--replica", one)]
        return self.stack.enter_context(gateway(self.folder / "front", *options, *asked))

    def order(self, front: Gateway | RunState, do: str, replica: str) -> dict[str, Any]:
        (state,) = [front] if isinstance(front, RunState) else running([front.state_directory])
        return order(state.control, {"do": do, "replica": replica, "key": TOKEN}, lambda _: None)


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="lp-") as short, ExitStack() as stack:
        yield Site(Path(short), stack)


def _chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


def _replicas(front: Gateway) -> dict[str, Any]:
    with front.client() as http:
        told: dict[str, Any] = http.get("/startupz").json()["models"]["echo"]["replicas"]
        return told


def _plain(response: httpx.Response) -> tuple[int, Any]:
    """Return an answer without what each has of its own: ids and times."""
    text = re.sub(
        r'"(id|created|created_at|item_id)":\s*("[^"]*"|[0-9.]+)', r'"\1":0', response.text
    )
    text = re.sub(r'"[a-z_]*duration":\s*[0-9]+', '"duration":0', text)
    return response.status_code, text


def _picture() -> dict[str, Any]:
    """Return a picture with transparency, which decoders could take for another one."""
    image = Image.linear_gradient("L").resize((30, 20))
    shown = Image.merge("RGBA", (image, image.rotate(180), image, image))
    shown.save(file := io.BytesIO(), "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


_PICTURE = _picture()
_ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/v1/chat/completions", _chat("hi there")),
    "stream": (
        "/v1/chat/completions",
        _chat("hi there", stream=True, stream_options={"include_usage": True}),
    ),
    "odds": ("/v1/chat/completions", _chat("hi", logprobs=True, top_logprobs=3)),
    "ids": ("/v1/chat/completions", _chat("hi there", return_token_ids=True)),
    "chosen by a seed": ("/v1/chat/completions", _chat("hi", temperature=1.0, seed=7)),
    "stopped": ("/v1/chat/completions", _chat("one two three", stop=["two"])),
    "cut": ("/v1/chat/completions", _chat("one two three", max_tokens=3)),
    "choices": ("/v1/chat/completions", _chat("hi", n=3, temperature=1.0, seed=1)),
    "a picture": (
        "/v1/chat/completions",
        {
            "model": "echo",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [_PICTURE, {"type": "text", "text": "what is it"}]},
                {"role": "assistant", "content": "a colour"},
                {"role": "user", "content": [{"type": "text", "text": "and it"}, _PICTURE]},
            ],
        },
    ),
    "the rest of an answer": (
        "/v1/chat/completions",
        {
            "model": "echo",
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "well"},
            ],
            "continue_final_message": True,
        },
    ),
    "too long": ("/v1/chat/completions", _chat("word " * 600)),
    "out of range": ("/v1/chat/completions", _chat("hi", temperature=9)),
    "a grammar": ("/v1/chat/completions", _chat("hi", guided_choice=["yes", "no"])),
    "a schema": (
        "/v1/chat/completions",
        _chat("hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}),
    ),
    "a text": ("/v1/completions", {"model": "echo", "prompt": "once upon", "max_tokens": 9}),
    "a text with odds": (
        "/v1/completions",
        {"model": "echo", "prompt": "once upon", "max_tokens": 9, "logprobs": 2},
    ),
    "a response": ("/v1/responses", {"model": "echo", "input": "hi there"}),
    "ollama": ("/api/chat", _chat("hi there", stream=False)),
    "tokens": ("/tokenize", {"model": "echo", "prompt": "hi there you"}),
    "tokens of a conversation": ("/tokenize", _chat("hi there")),
    "another model": ("/v1/chat/completions", {**_chat("hi"), "model": "other"}),
}  # fmt: skip


def test_a_front_answers_as_its_replicas_do(site: Site) -> None:
    one, other = site.servers(a=(), b=())
    with (
        site.front(site.address("a"), site.address("b")).client() as far,
        one.client() as near,
        other.client() as near_too,
    ):
        for name, (path, body) in _ASKED.items():
            expected = _plain(near.post(path, json=body))
            assert _plain(near_too.post(path, json=body)) == expected, name
            assert _plain(far.post(path, json=body)) == expected, name
        assert far.get("/v1/models").json()["data"][0]["max_model_len"] == 512
        ready = far.get("/readyz").json()
        assert (ready["status"], ready["replicas"]) == ("ready", 2)


def test_pictures_and_conversations_stay_where_they_were_seen(site: Site) -> None:
    servers = site.servers(a=(), b=(), c=())
    front = site.front(*map(site.address, "abc"))

    def asked(server: Gateway) -> int:
        with server.client() as http:
            text = http.get("/metrics").text
        found = re.findall(r"^vllm:request_success_total\{.*\} (\d+)$", text, re.MULTILINE)
        return sum(map(int, found))

    with front.client() as http:
        turns = [{"role": "user", "content": "hello"}]
        for turn in ("and", "then", "what"):
            body = {"model": "echo", "messages": turns}
            said = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
            turns += [
                {"role": "assistant", "content": said["content"]},
                {"role": "user", "content": turn},
            ]
        assert sorted(map(asked, servers)) == [0, 0, 3]
        for number in range(40):
            http.post("/v1/chat/completions", json=_chat(f"other {number}"))
        counts = [asked(server) for server in servers]
        assert sum(counts) == 43
        assert min(counts) >= 4
        told = {address: one["answered"] for address, one in _replicas(front).items()}
        assert list(told.values()) == counts
        metrics = http.get("/metrics").text
        for address, count in told.items():
            labels = f'model_name="echo",replica="{address}"'
            assert (
                f'llava_pack:replica_requests_total{{{labels},finished_reason="stop"}} {count}'
                in metrics
            )
            assert f"llava_pack:replica_ready{{{labels}}} 1" in metrics
        assert (
            'vllm:request_success_total{model_name="echo",engine="0",finished_reason="stop"} 43'
            in metrics
        )


def test_a_killed_replica_fails_only_what_it_had_begun_to_answer(site: Site) -> None:
    slow = "--slots 4 --step-s 0.02"
    with ThreadPoolExecutor() as pool:
        begun = pool.map(lambda name: site.server(name, engine=slow), "abc")
        servers = dict(zip(map(site.address, "abc"), begun, strict=True))
    front = site.front(*servers)
    began, over = threading.Event(), threading.Event()
    ended: Counter[str] = Counter()

    def ask(client: int) -> None:
        with front.client() as http:
            number = 0
            while not over.is_set():
                number += 1
                body = _chat(f"word {client} {number} " + "word " * 20, stream=True)
                text, failed = "", False
                with http.stream("POST", "/v1/chat/completions", json=body) as stream:
                    for line in stream.iter_lines():
                        failed = failed or '"error"' in line
                        text += line
                        began.set()
                if stream.status_code != 200 or failed:
                    ended["begun" if '"content":"You ' in text else "not begun"] += 1
                else:
                    ended["whole"] += text.count("[DONE]")

    with ThreadPoolExecutor(10) as pool:
        asking = [pool.submit(ask, number) for number in range(10)]
        assert began.wait(30)
        until(lambda: ended["whole"] > 20)
        gone = max(_replicas(front).items(), key=lambda one: one[1]["in_flight"])[0]
        _kill(servers[gone])
        before = ended["whole"]
        until(lambda: ended["whole"] > before + 30)
        over.set()
        for one in asking:
            one.result()
    assert ended["not begun"] == 0
    assert ended["begun"] <= 4  # what ran there
    told = _replicas(front)
    assert told[gone]["phase"] != "ready"
    with front.client() as http:
        assert http.get("/readyz").status_code == 200
        assert http.get("/livez").status_code == 200


def _kill(server: Gateway) -> None:
    """Kill a server with everything that it started, as a power cut does."""
    family = [
        server.process.pid,
        *(one.pid for one in psutil.Process(server.process.pid).children(recursive=True)),
    ]
    for pid in family:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()


def test_replicas_are_replaced_one_by_one_without_an_error(site: Site) -> None:
    engine = "--slots 8 --step-s 0.1"
    held = {name: ExitStack() for name in "ab"}

    def begin(name: str) -> None:
        at = ("--socket", str(site.folder / f"{name}.sock"))
        held[name].enter_context(gateway(site.folder / name, *at, engine=engine))

    for name in "ab":
        site.stack.callback(held[name].close)
        begin(name)
    front = site.front(site.address("a"), site.address("b"))
    over = threading.Event()
    answered: Counter[int] = Counter()

    def ask(client: int) -> None:
        with front.client() as http:
            while not over.is_set():
                body = _chat(f"client {client} {answered[client]}", stream=client % 2 == 0)
                answer = http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert '"error"' not in answer.text
                assert "DONE" in answer.text or client % 2
                answered[client] += 1

    with ThreadPoolExecutor(64) as pool:
        asking = [pool.submit(ask, number) for number in range(64)]
        try:
            for name in "ab":
                until(lambda: len(answered) == 64 or any(one.done() for one in asking))
                assert list(site.order(front, "drain", site.address(name))["replicas"]) == [
                    address for address in map(site.address, "ab") if address != site.address(name)
                ]
                held[name].close()
                begin(name)
                site.order(front, "join", site.address(name))
                answered.clear()
            until(lambda: len(answered) == 64 or any(one.done() for one in asking))
        finally:
            over.set()
        for one in asking:
            one.result()
    assert {one["phase"] for one in _replicas(front).values()} == {"ready"}
    assert {one["lost"] for one in _replicas(front).values()} == {0}


def test_an_engine_here_and_a_server_elsewhere_answer_together(site: Site) -> None:
    (port,) = quiet_ports(1)
    site.stack.enter_context(gateway(site.folder / "a", "--port", str(port), engine="--slots 4"))
    front = site.front(f"127.0.0.1:{port}", options=("--models", "echo"))
    with front.client() as http:
        for number in range(24):
            assert http.post("/v1/chat/completions", json=_chat(f"ask {number}")).is_success
    told = _replicas(front)
    assert list(told) == ["local", f"127.0.0.1:{port}"]
    assert all(one["answered"] >= 2 for one in told.values())


def test_no_replica_at_the_start_is_waited_for_and_the_last_one_stays(site: Site) -> None:
    server = site.server("a")
    front = site.front(site.address("a"), site.address("late"))
    late = _replicas(front)[site.address("late")]
    assert late["phase"] == "restarting"
    site.server("late")
    until(lambda: _replicas(front)[site.address("late")]["phase"] == "ready")
    site.order(front, "drain", site.address("late"))
    with pytest.raises(UsageError, match="the only replica"):
        site.order(front, "drain", site.address("a"))
    with pytest.raises(UsageError, match="no replica"):
        site.order(front, "drain", site.address("late"))
    _kill(server)
    with front.client() as http:
        until(lambda: http.get("/readyz").status_code == 503)
        assert http.post("/v1/chat/completions", json=_chat("hi")).status_code == 503
        site.server("a")
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/v1/chat/completions", json=_chat("hi")).status_code == 200


def test_what_is_no_replica_is_refused_when_it_comes(site: Site) -> None:
    id_of = ("--bundle-id", _B)
    site.servers(
        a=id_of,
        other=("--bundle-id", _C),
        named=("--models", "vicuna", *id_of),
        two=("--models", "echo", "second", *id_of),
        plain=id_of,
    )
    front = site.front(site.address("a"), options=("--models", "--bundle-id", _B))
    expected: dict[str, tuple[type[Exception], str]] = {
        site.address("a"): (UsageError, "is a replica already"),
        f"unix:{site.folder}/./a.sock": (UsageError, "is a replica already"),
        f"127.0.0.1:{front.port}": (UsageError, "this server itself"),
        site.address("other"): (IntegrityError, f"{_B}.*{_C}"),
        site.address("named"): (UsageError, "expected the model echo, got vicuna"),
        site.address("two"): (UsageError, "one model, got echo, second"),
        site.address("nobody"): (ServeError, "cannot be reached"),
        "http://gpu1:7860": (UsageError, "HOST:PORT"),
    }
    for replica, (kind, words) in expected.items():
        with pytest.raises(kind, match=words):
            site.order(front, "join", replica)
        assert list(_replicas(front)) == [site.address("a")], replica
    (plain,) = running([site.folder / "plain"])
    with pytest.raises(UsageError, match="with replicas itself"):
        site.order(plain, "join", f"127.0.0.1:{front.port}")
    assert list(_replicas(front)) == [site.address("a")]
