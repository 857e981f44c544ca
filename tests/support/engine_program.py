"""An environment of an engine of others, whose engine is a stub: as `serve` finds it installed.

`environment` makes a real virtual environment with a package of that name in it. What is run there
is `MAIN`, by the interpreter of that environment, which has neither llava_pack nor anything else:
an HTTP server that answers every question alike, after it has read from the model's folder how it
is to behave, and written there what it saw.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_pack.format.manifest import Engine
from llava_pack.runtimes import RUNTIMES

ANSWER = "a red circle"
VERSIONS: Mapping[Engine, str] = {"vllm": "0.33.0", "sglang": "0.5.23", "lmdeploy": "0.18.0"}
_MODULES: Mapping[Engine, str] = {
    "vllm": "vllm/entrypoints/cli/main.py",
    "sglang": "sglang/launch_server.py",
    "lmdeploy": "lmdeploy/__main__.py",
}
MAIN = """
import json, os, signal, socket, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ANSWER = "a red circle"

def option(*names):
    found = [sys.argv[n + 1] for n, word in enumerate(sys.argv) if word in names]
    return found[-1] if found else ""

MODEL = Path(next(w for w in sys.argv[1:] if w.startswith("/") and Path(w, "config.json").exists()))
SAID = json.loads((MODEL / "behaviour.json").read_text())
KEY = option("--api-key", "--api-keys")
NAME = option("--served-model-name", "--model-name")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "peer"

    def log_message(self, *_):
        pass

    def tell(self, body, kind="application/json", status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        card = {"id": NAME, "object": "model", "max_model_len": 4096}
        told = {"/v1/models": json.dumps({"object": "list", "data": [card]}).encode()}
        self.tell(told.get(self.path, b""))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if KEY and self.headers.get("Authorization") != "Bearer " + KEY:
            return self.tell(b'{"error": {"message": "no key"}}', status=401)
        choice = {"index": 0, "delta": {"role": "assistant", "content": ANSWER}}
        last = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        chunks = [{"choices": [choice]}, {"choices": [last]}, {"choices": [], "usage": usage}]
        lines = [json.dumps({"id": "1", "model": NAME, **one}) for one in chunks]
        lines = "".join(f"data: {line}\\n\\n" for line in [*lines, "[DONE]"]).encode()
        self.tell(lines, "text/event-stream")

class Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self):
        self.socket.bind(self.server_address)

def main():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    facts = {"argv": sys.argv, "pid": os.getpid(), "child": child.pid, "environment": {**os.environ}}
    (MODEL / f"seen-{len(list(MODEL.glob('seen-*')))}.json").write_text(json.dumps(facts))
    print("INFO loading", sys.argv, flush=True)
    if SAID.get("taken_once") and not (MODEL / "taken").exists():
        (MODEL / "taken").touch()
        sys.exit("OSError: [Errno 98] error while attempting to bind: address already in use")
    time.sleep(SAID.get("slow_s", 0))
    if "error" in SAID:
        sys.stderr.write(SAID["error"] + "\\n" + "more\\n" * 100)
        sys.exit(SAID.get("code", 1))
    if SAID.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "ends_with" in SAID:  # once it is asked to
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(SAID["ends_with"]))
    unix = option("--uds")
    Server.address_family = socket.AF_UNIX if unix else socket.AF_INET
    port = option("--port", "--server-port")
    Server(unix or ("127.0.0.1", int(port)), Handler).serve_forever()

if __name__ == "__main__":
    main()
"""


def environment(folder: Path, engine: Engine) -> Path:
    """Make an environment with an engine in it, and return its interpreter."""
    words = [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)]
    subprocess.run(words, check=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    profile = RUNTIMES[engine].profile
    assert profile is not None
    module = packages / _MODULES[engine]
    module.parent.mkdir(parents=True)
    module.write_text(MAIN)
    for place in (module.parent, *module.parent.parents):
        if place == packages:
            break
        (place / "__init__.py").touch()
    about = packages / f"{profile.package}-{VERSIONS[engine]}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(
        f"Metadata-Version: 2.1\nName: {profile.package}\nVersion: {VERSIONS[engine]}\n"
    )
    return folder / "bin" / "python"


def model(folder: Path, **behaviour: Any) -> Path:
    """Make the folder of a model that says how its engine behaves."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlavaForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "behaviour.json").write_text(json.dumps(behaviour))
    return folder


def seen(folder: Path) -> list[dict[str, Any]]:
    """Return what each process of a model's engine saw, the first one first."""
    files = sorted(folder.glob("seen-*"), key=lambda path: int(path.stem.partition("-")[2]))
    return [json.loads(path.read_text()) for path in files]
