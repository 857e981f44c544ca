"""A bundle of LLaVA's own code, installed and serving in a namespace without a route.

Run by tests/upstream/serving.py, which builds the bundle first; outside the default run.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from llava_pack.cli.laptop.silence import has_route
from llava_pack.llava_serve.bounds import FENCE_VARIABLE, Bounds
from tests.conftest import ROOT
from tests.support.fences import PORTS_SINCE, landlock_abi

pytestmark = pytest.mark.upstream
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
RED_CIRCLE = ROOT / "bundles" / "known-answers" / "red-circle.png"
MODEL = "llava-v1-demo"
ROLES = ("controller", "worker", "page")
LONG_MS = 120_000
FENCED = ["--require-fence"] if landlock_abi() >= PORTS_SINCE else []
fenced = pytest.mark.skipif(not FENCED, reason="this kernel's Landlock holds no ports")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Install the bundle as a person does."""
    assert not has_route(), "this test belongs where no network is"
    bundle, root = Path(os.environ["UPSTREAM_BUNDLE"]), tmp_path_factory.mktemp("upstream")
    expect = hashlib.sha256((bundle / "SHA256SUMS").read_bytes()).hexdigest()
    command = ["sh", str(bundle / "install.sh"), "--bundle", str(bundle), "--expect", expect]
    done = subprocess.run(
        [*command, "--prefix", str(root / "prefix")],
        env={"PATH": "/usr/bin:/bin", "HOME": str(root)},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root / "prefix"


AS_ROOT = {"LLAVA_PACK_AS_ROOT": "1"}
"""In a namespace of its own it is root, and means it."""


def llava_pack(prefix, *arguments, **more):
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(prefix.parent), **AS_ROOT, **more}
    return subprocess.run(
        [prefix / "bin" / "llava-pack", *arguments],
        env=environ, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(prefix):
    """Serve it behind a fence, with a proxy in the environment that nobody answers at."""
    environ = {
        **AS_ROOT,
        "PATH": "/usr/bin:/bin",
        "HOME": str(prefix.parent),
        "http_proxy": "http://127.0.0.1:9",
    }
    command = [prefix / "bin" / "llava-pack", "serve", "--port", "0", "--json", *FENCED]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert line, "it ended before it served"
            yield json.loads(line)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
            assert programs(prefix) == {}, "a program outlived the server"
        finally:
            server.kill()


def programs(prefix):
    """Return the running programs of this installation, by role."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0].startswith(str(prefix)) and "llava_pack.llava_serve.launcher" in words:
            found[words[4]] = (int(entry.parent.name), words)
    return found


def test_the_receipt_says_that_llavas_own_code_answered(prefix):
    generation = prefix / "models/demo/current"
    smoke = json.loads((generation / "receipt.json").read_text())["smoke"]
    known = json.loads((generation / "MANIFEST.json").read_text())["known_answers"]
    assert smoke["page"] == {"status": 200, "ok": True, "error": ""}
    assert [(one["name"], one["ok"]) for one in smoke["answers"]] == [
        (one["name"], True) for one in known
    ]
    assert known
    assert (smoke["precision"], smoke["device"]) == ("fp16", "cpu")


def test_three_programs_run_on_loopback_and_one_tunnel_line_is_told(prefix, served):
    running = programs(prefix)
    assert sorted(running) == sorted(ROLES)
    for _, words in running.values():
        assert words[words.index("--host") + 1] == "127.0.0.1"
    assert served["runtime"] == "upstream"
    assert f"-L {served['port']}:127.0.0.1:{served['port']}" in served["tunnel"]
    for pid, _ in running.values():
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        assert "no_proxy=localhost,127.0.0.1" in environ
        assert "GRADIO_ANALYTICS_ENABLED=False" in environ
        assert not [line for line in environ if line.startswith("http_proxy")]


def test_controller_and_worker_answer_whoever_has_the_token(served):
    letter = {"Authorization": f"Bearer {served['token']}"}
    with httpx.Client(base_url=served["controller"], trust_env=False) as client:
        assert client.post("/list_models").status_code == 401
        fake = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": False}
        assert client.post("/register_worker", json=fake).status_code == 401
        listed = client.post("/list_models", headers=letter).json()
        worker = client.post("/get_worker_address", json={"model": MODEL}, headers=letter).json()[
            "address"
        ]
    assert listed == {"models": [MODEL]}
    assert httpx.post(f"{worker}/worker_get_status", trust_env=False).status_code == 401
    status = httpx.post(f"{worker}/worker_get_status", headers=letter, trust_env=False).json()
    assert status["model_names"] == [MODEL]


def test_the_page_answers_in_a_browser_and_asks_nobody_else(served):
    hosts, complaints = set(), []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{served['port']}/", timeout=LONG_MS)
        page.get_by_label("username").fill("llava")
        page.get_by_label("password").fill(served["token"])
        page.get_by_role("button", name="Login").click()
        page.set_input_files("input[type=file]", str(RED_CIRCLE), timeout=LONG_MS)
        box = page.get_by_placeholder("Enter text and press ENTER")
        playwright.expect(page.get_by_role("button", name="Remove Image").first).to_be_visible(
            timeout=LONG_MS
        )
        box.fill("What is in the picture?")
        page.get_by_role("button", name="Send").click()
        answer = page.locator("[data-testid=bot]").get_by_text("red circle")
        playwright.expect(answer.first).to_be_visible(timeout=LONG_MS)
        chromium.close()
    assert hosts - {""} == {f"127.0.0.1:{served['port']}"}
    assert complaints == []


def test_health_looks_at_programs_page_and_answer(prefix, served):
    done = llava_pack(prefix, "health", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    layers = {one["layer"]: one["level"] for one in found["findings"]}
    assert (layers["engine"], layers["page"], layers["api"]) == ("ok", "ok", "ok"), found
    assert layers["environment"] == "ok"


@fenced
def test_health_tells_the_fence_of_each_program_and_the_kernel_says_the_same(prefix, served):
    done = llava_pack(prefix, "health", "--json")
    found = json.loads(done.stdout.splitlines()[-1])["findings"]
    said = f"Landlock ABI {landlock_abi()} and seccomp"
    told = {(one["level"], one["text"]) for one in found if one["layer"] == "fence"}
    assert told == {("ok", f"{role}: {said}") for role in ROLES}
    for pid, _ in programs(prefix).values():
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")


ATTEMPTS = """
import json, os, socket, sys
from pathlib import Path

secret, model, other, within = json.loads(Path("parts.json").read_text())

def connect(port, protocol=0):
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).connect(("127.0.0.1", port))

ways = {
    "read a file": lambda: open(secret).close(),
    "read the model": lambda: open(model).close(),
    "write a file": lambda: open(secret, "a").close(),
    "write at home": lambda: Path(os.environ["HOME"], "kept").touch(),
    "connect elsewhere": lambda: connect(other),
    "connect elsewhere by MPTCP": lambda: connect(other, 262),
    "connect elsewhere by sending": lambda: socket.socket().sendto(
        b"x", 0x20000000, ("127.0.0.1", other)
    ),
    "listen elsewhere": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "start a program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "connect within the run": lambda: connect(within),
}
found = {}
for name, way in ways.items():
    try:
        way()
        found[name] = "done"
    except PermissionError:
        found[name] = "refused"
sys.stdout.write(json.dumps(found))
sys.stdout.flush()
"""
LAUNCHED = """
import os, sys
from llava_pack.llava_serve import launcher

sys.path.insert(0, os.getcwd())
launcher._MODULES = dict.fromkeys(launcher._MODULES, "attempts")
launcher.main([sys.argv[1]])
"""


@fenced
@pytest.mark.parametrize("fence", ["required", "off"])
@pytest.mark.parametrize("role", ROLES)
def test_nothing_gets_out_of_a_program_and_without_a_fence_everything_does(
    prefix, served, tmp_path, role, fence
):
    """In place of LLaVA's code the launcher runs an attacker's, with all that it was handed."""
    pid, words = programs(prefix)[role]
    environ = dict(
        line.split("=", 1)
        for line in Path(f"/proc/{pid}/environ").read_text().split("\0")
        if "=" in line
    )
    bounds = Bounds.parse(environ[FENCE_VARIABLE])
    environ[FENCE_VARIABLE] = str(replace(bounds, mode=fence))
    own, secret = tmp_path / "own", tmp_path / "secret"
    own.mkdir()
    secret.touch()
    (own / "attempts.py").write_text(ATTEMPTS)
    model = prefix / "models/demo/current/model" / MODEL / "config.json"
    with socket.create_server(("127.0.0.1", 0)) as other:
        parts = [str(secret), str(model), other.getsockname()[1], bounds.ports[0]]
        (own / "parts.json").write_text(json.dumps(parts))
        done = subprocess.run(
            [words[0], "-I", "-c", LAUNCHED, role],
            env=environ, cwd=own, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    allowed = {"write at home", "connect within the run"}
    allowed |= {"read the model"} if role == "worker" else set()
    refused = set() if fence == "off" else set(found) - allowed
    assert {name for name, outcome in found.items() if outcome == "refused"} == refused


def test_a_deep_check_hashes_and_imports_what_this_runtime_has(prefix, served):
    done = llava_pack(prefix, "health", "--deep", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    layers = {one["layer"]: one["level"] for one in found["findings"]}
    assert (layers["integrity"], layers["environment"]) == ("ok", "ok"), found


def test_chat_says_that_there_is_no_such_api(prefix, served):
    done = llava_pack(prefix, "chat", "--prompt", "Hello")
    assert done.returncode == 15, done.stderr
    assert "no OpenAI-compatible API" in done.stderr


def test_a_worker_that_dies_is_started_again(prefix, served):
    before = programs(prefix)["worker"][0]
    os.kill(before, signal.SIGKILL)
    done = llava_pack(prefix, "health", "--wait-ready", "150")
    while done.returncode == 0 and programs(prefix).get("worker", (before,))[0] == before:
        done = llava_pack(prefix, "health", "--wait-ready", "150")  # its death was not seen yet
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--socket", "x.sock"], 2),
        (["--context", "64"], 2),
        (["--no-web"], 2),
        (["--host", "0.0.0.0"], 2),
        (["--load-4bit"], 2),
        (["--precision", "bf16"], 2),
    ],
)
def test_what_llavas_own_code_cannot_do_is_refused(prefix, options, code):
    done = llava_pack(prefix, "serve", *options, "--port", "0", "--json")
    assert done.returncode == code, done.stderr


def test_the_port_of_a_running_server_is_15(prefix, served):
    done = llava_pack(prefix, "serve", "--port", str(served["port"]), "--json")
    assert done.returncode == 15, done.stderr


def test_pins_are_the_ones_that_work(prefix):
    python = prefix / "models/demo/current/venv/bin/python"
    names = ["fastapi", "starlette", "gradio", "transformers", "llava-torch", "llava-pack"]
    code = "import sys, importlib.metadata as m; print(*[m.version(n) for n in sys.argv[1:]])"
    said = subprocess.run(
        [python, "-I", "-c", code, *names], capture_output=True, text=True, check=True
    )
    wanted = ["0.112.4", "0.38.6", "4.16.0", "4.37.2", "1.2.2.post1", version("llava-pack")]
    assert said.stdout.split() == wanted
