"""LLaVA's three programs as values: their order, their ports, and what they may not do."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.engine.fence.value import OFF, Standing
from llava_pack.format.errors import UsageError
from llava_pack.llava_serve.bounds import FENCE_VARIABLE, Bounds, tell, told
from llava_pack.llava_serve.launcher import guarded, reaches_out, without_foreign
from llava_pack.llava_serve.programs import TOKEN_VARIABLE, Ports, private_environment, programs
from llava_pack.serve.supervision.plans import EnginePlan

PORTS = Ports(controller=21001, worker=21002, page=7860)


FILES = (Path("/m/llava-x"), Path("/m/clip"))


def started(precision="fp16", device="cpu", environment=None, fence="on"):
    model = EnginePlan(
        name="llava-x", model_dir=Path("/m/llava-x"), precision=precision, device=device,
        slots=3, python=Path("/venv/bin/python"), vision_tower=None, model_base=None,
        context_tokens=None, conv_mode=None,
    )  # fmt: skip
    given = environment or {}
    home = Path("/run/x")
    return programs(
        model, PORTS, files=FILES, token="secret", environment=given, home=home, fence=fence
    )


def bounds(program):
    return Bounds.parse(program.environment[FENCE_VARIABLE])


def option(program, name):
    return program.argv[program.argv.index(name) + 1]


def test_the_controller_is_first_and_the_page_last():
    assert [one.role for one in started()] == ["controller", "worker", "page"]


@pytest.mark.parametrize("room", ["llava_serve", "engine.upstream"])
def test_the_launcher_is_found_by_its_name_and_by_the_one_of_earlier_versions(room):
    argv = [sys.executable, "-I", "-m", f"llava_pack.{room}.launcher", "page"]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, check=False)
    assert done.stderr.endswith(f"KeyError: '{FENCE_VARIABLE}'\n")  # it asks for its bounds first


def test_ports_agree_and_all_are_on_loopback():
    controller, worker, page = started()
    assert [option(one, "--host") for one in (controller, worker, page)] == ["127.0.0.1"] * 3
    assert [option(one, "--port") for one in (controller, worker, page)] == [
        "21001",
        "21002",
        "7860",
    ]
    assert option(worker, "--controller-address") == "http://127.0.0.1:21001"
    assert option(worker, "--worker-address") == "http://127.0.0.1:21002"
    assert option(page, "--controller-url") == "http://127.0.0.1:21001"
    assert "--share" not in page.argv


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp16", set()), ("int8", {"--load-8bit"}), ("nf4", {"--load-4bit"})]
)
def test_precisions_are_llavas_own_flags(precision, flags):
    worker = started(precision, "cuda")[1]
    assert {word for word in worker.argv if word.startswith("--load")} == flags


@pytest.mark.parametrize(
    ("precision", "device"), [("bf16", "cuda"), ("nf4", "cpu"), ("int8", "cpu")]
)
def test_what_its_loader_cannot_do_is_2(precision, device):
    with pytest.raises(UsageError, match="LLaVA's own loader"):
        started(precision, device)


def test_no_proxy_no_token_and_nobody_told():
    given = {"HTTPS_PROXY": "http://p", "HF_TOKEN": "t", "GRADIO_SHARE": "True", "HOME": "/h"}
    kept = private_environment(given, Path("/run/x"))
    assert not {"HTTPS_PROXY", "HF_TOKEN"} & set(kept)
    assert (kept["GRADIO_SHARE"], kept["GRADIO_ANALYTICS_ENABLED"]) == ("False", "False")
    assert (kept["HF_HUB_OFFLINE"], kept["HOME"]) == ("1", "/h")
    assert started(environment=given)[0].environment[TOKEN_VARIABLE] == "secret"


@pytest.mark.parametrize("fence", ["on", "off", "required"])
def test_each_is_told_its_fence_and_the_worker_alone_gets_the_model(fence):
    controller, worker, page = map(bounds, started(device="cuda", fence=fence))
    assert controller == page == Bounds(mode=fence, ports=(21001, 21002, 7860))
    assert (worker.mode, worker.ports) == (controller.mode, controller.ports)
    assert (worker.files, worker.gpu) == (FILES, True)
    assert not bounds(started(device="cpu")[1]).gpu


def test_none_writes_where_another_one_does():
    folders = [one.directory for one in started()]
    assert folders == [Path("/run/x", role) for role in ("controller", "worker", "page")]
    for program in started():
        assert Path(program.environment["GRADIO_TEMP_DIR"]).is_relative_to(program.directory)


def test_what_stands_is_read_of_who_has_told_and_of_a_plain_file_alone(tmp_path):
    lost = ('{"landlock": []}', '{"landlock": 1e999}', "[" * 4096)
    names = ("whole", "off", "silent", "linked", *map(str, range(len(lost))))
    folders = {name: tmp_path / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    tell(Standing(landlock=7, seccomp=True), folders["whole"])
    tell(OFF, folders["off"])
    for number, text in enumerate(lost):
        (folders[str(number)] / "standing.json").write_text(text)
    (folders["linked"] / "standing.json").symlink_to(folders["whole"] / "standing.json")
    whole = Standing(landlock=7, seccomp=True)
    assert told(folders.items()) == {"whole": whole, "off": OFF}


@pytest.mark.parametrize(
    ("event", "arguments", "host"),
    [
        ("socket.getaddrinfo", ("huggingface.co", 443, 0, 0, 0), "huggingface.co"),
        ("socket.connect", (None, ("192.0.2.1", 80)), "192.0.2.1"),
        ("socket.connect", (None, ("127.0.0.1", 80)), None),
        ("socket.connect", (None, "/run/x.sock"), None),
        ("socket.getaddrinfo", (b"localhost", 80, 0, 0, 0), None),
        ("open", ("/etc/passwd", "r", 0), None),
    ],
)
def test_reaching_for_another_host_is_seen(event, arguments, host):
    assert reaches_out(event, arguments) == host


def test_the_page_names_no_other_host():
    page = (
        '<link rel="preconnect" href="https://fonts.googleapis.com" /><link href="./a.css" />'
        '<script src="https://cdn.example/a.js" async></script><script src="./b.js"></script>'
    )
    assert without_foreign(page) == '<link href="./a.css" /><script src="./b.js"></script>'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([(b"authorization", b"Bearer wrong")], 401),
        ([(b"authorization", b"Bearer secret")], 200),
    ],
)
def test_who_has_no_token_gets_401(headers, status):
    assert answered(guarded(app, "secret"), headers) == status
    assert answered(guarded(app, ""), headers) == 200


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


def answered(application, headers):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(application({"type": "http", "headers": headers}, None, send))
    return sent[0]["status"]
