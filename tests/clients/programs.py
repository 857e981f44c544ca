"""Clients from PyPI and Debian, as the page configures them."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import (
    MODEL,
    Server,
    answers,
    client,
    running,
    serving,
    shown,
)
from tests.support.waiting import until

_PAGE = "clients.md"
_MASTER = "sk-a-key-of-the-proxy-s-own-that-is-long-enough"
Plain = tuple[Server, Mapping[str, str]]


def _run(command: list[str], environment: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _shell(line: str, name: str, environment: Mapping[str, str], cwd: Path) -> str:
    """Run a line of the page with the programs of a client's environment."""
    path = f"{client(name)}:{os.environ['PATH']}"
    return _run(["sh", "-euc", line], {**environment, "PATH": path}, cwd)


def test_langchain(plain: Plain, picture: Path) -> None:
    [program] = shown(_PAGE, "LangChain")
    said = _run([str(client("langchain") / "python"), "-c", program], plain[1], picture.parent)
    whole, _, streamed = said.partition("\n")
    assert whole
    assert streamed == whole


def test_llm(plain: Plain, picture: Path) -> None:
    models, commands = shown(_PAGE, "llm")
    environment = {**plain[1], "LLM_USER_PATH": str(picture.parent)}
    folder = _shell('dirname "$(llm logs path)"', "llm", environment, picture.parent).strip()
    Path(folder, "extra-openai-models.yaml").write_text(models)
    assert _shell(commands, "llm", environment, picture.parent).strip()


def test_litellm(plain: Plain, tmp_path: Path) -> None:
    configuration, commands = shown(_PAGE, "LiteLLM")
    made, line = commands.strip().splitlines()
    assert made.startswith("export LITELLM_MASTER_KEY=")
    (tmp_path / "litellm.yaml").write_text(configuration)
    environment = {
        **plain[1], "PATH": f"{client('litellm')}:{os.environ['PATH']}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": _MASTER,
    }  # fmt: skip
    log = tmp_path / "litellm.log"
    with running(shlex.split(line), environment, log, cwd=tmp_path) as process:
        answers("http://127.0.0.1:4000/health/liveliness", process, log)
        body = {"model": "llava", "messages": [{"role": "user", "content": "hi"}]}
        url = "http://127.0.0.1:4000/v1/chat/completions"
        shows = {"Authorization": f"Bearer {_MASTER}"}
        answer = httpx.post(url, json=body, headers=shows, trust_env=False, timeout=200)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        streamed = {**body, "stream": True}
        with httpx.stream("POST", url, json=streamed, headers=shows, timeout=200) as stream:
            lines = [one for one in stream.iter_lines() if one]
        assert lines[-1] == "data: [DONE]"


def test_prometheus(plain: Plain, tmp_path: Path) -> None:
    command, configuration = shown(_PAGE, "Prometheus")
    words, _, path = command.strip().partition(" > ")
    Path(path).write_text(plain[0].program(*shlex.split(words)[1:]))
    place = Path("/etc/prometheus/prometheus.yml")
    place.write_text(configuration + "global: {scrape_interval: 1s}\n")
    log = tmp_path / "prometheus.log"
    start = ["prometheus", f"--config.file={place}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with running([*start, "--web.listen-address=127.0.0.1:9090"], plain[1], log) as process:
        answers("http://127.0.0.1:9090/", process, log)

        def of(query: str) -> list[dict[str, object]]:
            url = "http://127.0.0.1:9090/api/v1/query"
            asked = httpx.get(url, params={"query": query}, trust_env=False)
            result: list[dict[str, object]] = asked.json()["data"]["result"]
            return result

        until(lambda: [one for one in of('up{job="llava"}') if one["value"][1] == "1"], within_s=60)  # type: ignore[index]
        assert of(f'vllm:num_requests_running{{model_name="{MODEL}"}}')


@pytest.fixture
def container(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Make a namespace that stands for a container; return what runs a program in it.

    Docker's bridge is one end of a pair here, with its usual address; the name is in /etc/hosts, as
    `--add-host` puts it there.
    """
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n172.17.0.1 host.docker.internal\n")
    inside = 'mount --bind "$0" /etc/hosts && ip link set lo up && echo here && exec sleep 600'
    command = ["unshare", "--net", "--mount", "sh", "-c", inside, str(hosts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        into = ("nsenter", "--target", str(child.pid), "--net", "--mount", "--")
        for line in (
            "ip link add docker0 type veth peer name eth0",
            f"ip link set eth0 netns {child.pid}",
            "ip addr add 172.17.0.1/16 dev docker0",
            "ip link set docker0 up",
        ):
            subprocess.run(line.split(), check=True)
        for line in ("ip addr add 172.17.0.2/16 dev eth0", "ip link set eth0 up"):
            subprocess.run([*into, *line.split()], check=True)
        yield into
        child.kill()


def test_a_container_reaches_the_server_of_its_host(
    container: tuple[str, ...], model: Path, tmp_path: Path
) -> None:
    served, docker = shown(_PAGE, "From a Docker container")
    words = shlex.split(docker.replace("\\\n", ""))
    asked = words[words.index("curlimages/curl") + 1 :]
    with serving(served, model, tmp_path) as (_, key):
        line = ["curl", "-sS", *(word.replace("$LLAVA_KEY", key) for word in asked)]
        said = _run([*container, *line], os.environ, tmp_path)
        assert json.loads(said)["data"][0]["id"] == MODEL
        refused = [*line, "-H", "Host: host.example"]
        assert json.loads(_run([*container, *refused], os.environ, tmp_path))["error"]["code"] == (
            "wrong_host"
        )


@pytest.fixture(scope="module")
def open_webui(plain: Plain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Run Open WebUI, and return somebody who has signed up there."""
    [line] = shown(_PAGE, "Open WebUI")
    folder = tmp_path_factory.mktemp("open-webui")
    environment = {
        **plain[1], "PATH": f"{client('open-webui')}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1",
        "DATA_DIR": str(folder), "WEBUI_SECRET_KEY": "of this test", "OFFLINE_MODE": "true",
        "RAG_EMBEDDING_ENGINE": "openai",  # its own is left out, see environments/
    }  # fmt: skip
    log = folder / "open-webui.log"
    with running(["sh", "-c", f"exec env {line}"], environment, log, cwd=folder) as process:
        url = "http://127.0.0.1:8080"
        answers(f"{url}/health", process, log)
        with httpx.Client(base_url=url, trust_env=False, timeout=200) as http:
            person = {"name": "ann", "email": "ann@corp.example", "password": "correct horse 9!"}
            signed = http.post("/api/v1/auths/signup", json=person)
            assert signed.status_code == 200, signed.text
            http.headers["Authorization"] = f"Bearer {signed.json()['token']}"
            yield http


def test_open_webui(open_webui: httpx.Client) -> None:
    assert MODEL in [model["id"] for model in open_webui.get("/api/models").json()["data"]]
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    answer = open_webui.post("/api/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]


def test_open_webui_asks_with_the_tools_of_its_own_page(open_webui: httpx.Client) -> None:
    """A message of its page belongs to a session, and with that it sends `tools` along."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with open_webui.stream(
        "POST", "/api/chat/completions", json={**body, "session_id": "of this test"}
    ) as stream:
        lines = [one for one in stream.iter_lines() if one]
    assert lines[-1] == "data: [DONE]", lines[-3:]
    assert not [one for one in lines if '"error"' in one]
