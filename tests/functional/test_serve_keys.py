"""Keys of people at a server that runs: they come, ask within their bounds, are written down, go."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from llava_pack.serve.access.key_store import KeyStore
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.waiting import until

_HI = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
_SECRET_WORDS = "the patient's name is Ada"


@dataclass(frozen=True)
class Serving:
    """A gateway with its store of keys and its audit log."""

    gateway: Gateway
    keys: Path
    audit: Path

    def ask(self, key: str, path: str = "/v1/models", body: Any = None) -> httpx.Response:
        """Ask with a key; POST where there is a body."""
        headers = {"Authorization": f"Bearer {key}"}
        method = "GET" if body is None else "POST"
        url = self.gateway.url + path
        return httpx.request(method, url, json=body, headers=headers, trust_env=False, timeout=60)

    def lines(self, key: str = "") -> list[dict[str, Any]]:
        """Return what the audit log holds, of one key where it is named."""
        lines = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [line for line in lines if key in {"", line.get("key")}]

    def written(self, key: str, route: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for lines of a key on a route, which come after the answer; return them."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found = [line for line in self.lines(key) if line["route"] == route]
        return found


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("keys")
    keys, audit = folder / "keys" / "keys.json", folder / "logs" / "audit.log"
    options = [
        "--keys",
        str(keys),
        "--audit",
        str(audit),
        "--log",
        str(folder / "logs" / "serve.log"),
    ]
    with gateway(folder / "run", *options, "--web", engine="--slots 4") as running:
        yield Serving(running, keys, audit)


@pytest.fixture
def added(serving: Serving, command_line: Any) -> Callable[..., str]:
    """Add a key as a person does, and return it once the server knows it."""

    def add(name: str, *options: str) -> str:
        done = command_line("keys", "add", name, *options, "--file", serving.keys, "--json")
        assert done.returncode == 0, done.stderr
        key = str(json.loads(done.stdout)["key"])
        until(lambda: serving.ask(key, "/livez").status_code != 401)
        return key

    return add


def test_a_key_is_known_while_the_server_runs_and_not_any_more_when_it_is_revoked(
    serving: Serving, added: Callable[..., str], command_line: Any
) -> None:
    key = added("ann")
    assert serving.ask(key, "/v1/chat/completions", _HI).status_code == 200
    assert command_line("keys", "revoke", "ann", "--file", serving.keys).returncode == 0
    until(lambda: serving.ask(key).status_code == 401)


def test_a_key_opens_its_scopes_and_is_told_which(
    serving: Serving, added: Callable[..., str]
) -> None:
    key = added("prometheus", "--scope", "observe")
    assert serving.ask(key, "/metrics").status_code == 200
    refused = serving.ask(key, "/v1/chat/completions", _HI)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (403, "wrong_scope")
    assert "the key prometheus has the scopes observe; this needs the scope ask" in error["message"]
    assert serving.ask(key, "/nothing").status_code == 404


def test_a_quota_is_429_with_when_to_come_back(serving: Serving, added: Callable[..., str]) -> None:
    key = added("batch", "--quota", "2/min")
    codes = [serving.ask(key, "/v1/chat/completions", _HI).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    refused = serving.ask(key, "/v1/chat/completions", _HI)
    assert refused.json()["error"]["type"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert serving.ask(key).status_code == 200, "a list makes no work"


def test_the_tokens_of_an_answer_are_charged_streamed_or_not(
    serving: Serving, added: Callable[..., str]
) -> None:
    for name, stream in (("whole", False), ("streamed", True)):
        key = added(name, "--quota", "30/day")
        codes = {
            serving.ask(key, "/v1/chat/completions", {**_HI, "stream": stream}).status_code
            for _ in range(9)
        }
        assert codes == {200, 429}


def test_the_audit_log_says_who_and_how_much_and_not_what(
    serving: Serving, added: Callable[..., str]
) -> None:
    key = added("auditor@bank.example", "--scope", "ask")
    body = {"model": "echo", "messages": [{"role": "user", "content": _SECRET_WORDS}]}
    answer = serving.ask(key, "/v1/chat/completions", body)
    serving.ask(key, f"/metrics?{_SECRET_WORDS}")
    serving.ask(key, f"/{_SECRET_WORDS}")
    name = "auditor@bank.example"
    (asked,) = serving.written(name, "POST /v1/chat/completions")
    usage = answer.json()["usage"]
    assert asked["request"] == answer.headers["X-Request-Id"]
    assert (asked["status"], asked["model"], asked["pictures"]) == (200, "echo", 0)
    assert asked["tokens_in"] == usage["prompt_tokens"]
    assert asked["tokens_out"] == usage["completion_tokens"]
    assert serving.written(name, "GET /metrics")[0]["status"] == 403
    assert serving.written(name, "GET -")[0]["status"] == 404
    for word in (_SECRET_WORDS, "Ada", key, TOKEN):
        assert word not in serving.audit.read_text()


def test_strangers_write_nothing(serving: Serving, added: Callable[..., str]) -> None:
    added("before-strangers")
    serving.written("before-strangers", "GET /livez")
    before = len(serving.lines())
    for number in range(50):
        serving.ask(f"wrong {number}", f"/v1/{number}")
    assert len(serving.lines()) <= before + 1, "a number, once a minute at most"


def test_who_logs_in_on_the_page_is_the_key_that_was_shown(
    serving: Serving, added: Callable[..., str], command_line: Any
) -> None:
    key, other = added("page-user"), added("api-user", "--scope", "ask")
    with httpx.Client(base_url=serving.gateway.url, trust_env=False) as browser:
        login = {"Authorization": f"Bearer {other}"}
        assert browser.post("/login", headers=login).status_code == 403
        login = {"Authorization": f"Bearer {key}"}
        assert browser.post("/login", headers=login).status_code == 204
        assert browser.get("/").status_code == 200
        assert browser.post("/v1/chat/completions", json=_HI).status_code == 200
        assert serving.written("page-user", "POST /v1/chat/completions")
        assert browser.get("/page/facts").json()["models"][0]["name"] == "echo"
        assert browser.get("/metrics").status_code == 403
        command_line("keys", "revoke", "page-user", "--file", serving.keys)
        until(lambda: browser.get("/v1/models").status_code == 401)


def test_an_answer_on_the_page_is_charged_and_written_down(
    serving: Serving, added: Callable[..., str]
) -> None:
    """By a key that opens the page alone: its session asks as the page does, a header may not."""
    key = added("painter", "--quota", "1/min", "--scope", "page")
    assert serving.ask(key, "/v1/chat/completions", _HI).status_code == 403
    with httpx.Client(base_url=serving.gateway.url, trust_env=False) as browser:
        assert browser.post("/login", headers={"Authorization": f"Bearer {key}"}).status_code == 204
        told = [browser.post("/v1/chat/completions", json=_HI) for _ in range(2)]
        assert browser.get("/v1/models").status_code == 403
    assert "You said: hi" in told[0].text
    assert "1 requests per minute are used up" in told[1].text
    lines = serving.written("painter", "POST /v1/chat/completions", 3)
    written = [(line["status"], line["tokens_out"] > 0) for line in lines]
    assert written == [(403, False), (200, True), (429, False)]


def test_each_key_has_its_own_address_for_llavas_programs(
    serving: Serving, added: Callable[..., str], command_line: Any
) -> None:
    key = added("llava-user", "--scope", "ask")
    controller = serving.ask(key, "/controller").json()["controller"]
    assert controller.startswith(f"{serving.gateway.url}/llava/")
    assert key not in controller
    listed = httpx.post(f"{controller}/list_models", trust_env=False)
    assert listed.json() == {"models": ["echo"]}
    assert serving.written("llava-user", "POST /llava/{key}/list_models")
    command_line("keys", "revoke", "llava-user", "--file", serving.keys)
    until(lambda: httpx.post(f"{controller}/list_models", trust_env=False).status_code == 401)


def test_keys_are_listed_without_what_they_are(tmp_path: Path, command_line: Any) -> None:
    file = tmp_path / "team.json"
    made = command_line(
        "keys", "add", "ann", "--expires", "90d", "--quota", "60/min", "--file", file
    )
    assert made.returncode == 0
    key = made.stdout.strip()
    assert key.startswith("lp_")
    assert "the only time" in made.stderr
    listed = command_line("keys", "list", "--file", file)
    assert listed.stdout.startswith("ann  ")
    assert "ask,page  quota 60/min" in listed.stdout
    told = json.loads(command_line("keys", "list", "--file", file, "--json").stdout)
    assert told["keys"][0]["name"] == "ann"
    assert told["keys"][0]["expired"] is False
    digest = KeyStore(file).read()[0].digest
    for text in (listed.stdout, json.dumps(told), file.read_text()):
        assert key not in text
    assert digest not in listed.stdout + json.dumps(told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "a b"), "a key's name has letters"),
        (("add", "ann", "--scope", "root"), "expected some of ask, observe, page, admin, got root"),
        (("add", "ann", "--quota", "60"), "N/min for requests"),
        (("add", "ann", "--expires", "soon"), "expected days, hours or a date"),
        (("revoke", "nobody"), "no key has this name"),
    ],
)
def test_what_cannot_be_is_2(
    tmp_path: Path, command_line: Any, arguments: tuple[str, ...], said: str
) -> None:
    done = command_line("keys", *arguments, "--file", tmp_path / "keys.json")
    assert done.returncode == 2
    assert said in done.stderr


def test_without_a_file_the_keys_are_those_of_the_account(
    tmp_path: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert command_line("keys", "add", "ann").returncode == 0
    assert (tmp_path / "llava-pack" / "keys" / "keys.json").is_file()
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    monkeypatch.setenv("LLAVA_PACK_PREFIX", str(prefix))
    assert command_line("keys", "list").stdout == ""
    assert command_line("keys", "add", "ann").returncode == 0
    assert (prefix / "keys" / "keys.json").is_file()


_BEHIND_A_FENCE = """
import socket, sys
from pathlib import Path
from llava_pack.serve.access import audit_sinks
from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.gateway.fencing import enter_gateway_fence

audit_sinks.SYSLOG = Path(sys.argv[1])
sink = audit_sinks.sink_of(AuditPlan(to="syslog")) if sys.argv[3] == "before" else None
enter_gateway_fence(Path(sys.argv[2]))
sink = sink or audit_sinks.sink_of(AuditPlan(to="syslog"))
for _ in sys.stdin:
    sink.write("{}")
"""


def test_lines_reach_syslog_from_behind_the_fence_also_after_its_restart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    argv = [sys.executable, "-c", _BEHIND_A_FENCE, str(path), str(tmp_path / "home"), "before"]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again,
    ):
        log.bind(str(path))
        log.settimeout(60)
        again.settimeout(60)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, bufsize=0) as fenced:
            assert fenced.stdin is not None
            fenced.stdin.write(b"once\n")
            assert log.recv(100).endswith(b": {}")
            log.close()
            path.unlink()
            again.bind(str(path))
            fenced.stdin.write(b"again\n")
            assert again.recv(100).endswith(b": {}")
            fenced.stdin.close()
        assert fenced.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="there is no fence")
def test_behind_the_fence_no_way_to_syslog_is_opened(tmp_path: Path) -> None:
    """Why it is opened before."""
    path = tmp_path / "log"
    argv = [sys.executable, "-c", _BEHIND_A_FENCE, str(path), str(tmp_path / "home"), "after"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert b"the audit log cannot be written" in done.stderr


def test_whoever_brings_the_gateway_down_gains_no_quota(tmp_path: Path, command_line: Any) -> None:
    keys = tmp_path / "keys" / "keys.json"
    done = command_line("keys", "add", "ann", "--quota", "2/min", "--file", keys, "--json")
    key = json.loads(done.stdout)["key"]
    with gateway(tmp_path / "run", "--keys", str(keys), "--rests-s", "0.1") as served:
        with served.client(key) as http:
            assert [_status(http) for _ in range(3)] == [200, 200, 429]
            first = served.gateway_pid()
            time.sleep(1.5)  # a beat, which tells what is left, comes twice a second
            os.kill(first, signal.SIGKILL)
        with served.client(key) as http:
            assert _status(http) == 429
        assert served.gateway_pid() != first


def _status(http: httpx.Client) -> int:
    return http.post("/v1/chat/completions", json=_HI).status_code
