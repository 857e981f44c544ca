"""LLaVA's own web server and `test_message` against `llava-pack serve`, unchanged.

    python tests/upstream/protocol.py

Run by `make test-upstream` after run.py, whose environment it uses; the page's Gradio goes into a
folder beside it, about 60 MB.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from uv import find_uv_bin

from llava_pack.lock.indexes import configured_indexes

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-upstream" / "bin" / "python"
PAGE = ROOT / ".venv-upstream-page"
DEMO = ROOT / "bundles" / "demo-model"
RED_CIRCLE = ROOT / "bundles" / "known-answers" / "red-circle.png"
MODEL = "llava-v1-demo"
# The newest with which Gradio 4.16, which LLaVA's page is written for, still answers.
GRADIO = ("gradio==4.16.0", "gradio-client==0.8.1", "fastapi==0.112.4", "starlette<0.39",
          "pydantic<2.11", "numpy<2", "huggingface-hub<0.30")  # fmt: skip
WITHIN_S = 120


def main() -> int:
    """Return 0 where both programs get what they expect."""
    _make_page_folder()
    _make_examples()
    with tempfile.TemporaryDirectory(prefix="lp-") as folder, _serving(Path(folder)) as said:
        controller = said["controller"].replace("127.0.0.1", "localhost")
        told = _test_message(controller, folder)
        assert f"Models: ['{MODEL}']" in told, told
        assert f"worker_addr: {controller}" in told, told
        turns = _turns_of_llavas_own_code(controller)
        with _page(controller, folder) as url:
            answer = _asked_on_the_page(url)
    print(f"{turns} prompts of LLaVA's own code were answered as that code answers them")
    print(f"LLaVA's page showed: {answer}")
    assert "red circle" in answer
    return 0


def _make_page_folder() -> None:
    if not (PAGE / "gradio").exists():
        install = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(PYTHON)]
        install += [*configured_indexes().arguments(), "--target", str(PAGE)]
        subprocess.run([*install, *GRADIO], check=True)


def _make_examples() -> None:
    """Put pictures where the page looks for its examples: the repository has them, its wheel not."""
    code = "import importlib.util as u; print(u.find_spec('llava').submodule_search_locations[0])"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    examples = Path(found.stdout.strip()) / "serve" / "examples"
    examples.mkdir(exist_ok=True)
    for name in ("extreme_ironing.jpg", "waterview.jpg"):
        Image.new("RGB", (32, 32), "grey").save(examples / name)


@contextmanager
def _serving(folder: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "llava_pack", "serve", "--port", "0", "--no-web", "--json"]
    command += ["--precision", "fp32", "--model-path", str(DEMO / MODEL)]
    command += ["--vision-tower", str(DEMO / "clip-demo")]
    environ = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())
        finally:
            server.terminate()


def _test_message(controller: str, folder: str) -> str:
    command = [PYTHON, "-m", "llava.serve.test_message", "--controller-address", controller]
    command += ["--model-name", MODEL, "--message", "Hello"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=WITHIN_S
    )
    return done.stdout


def _turns_of_llavas_own_code(controller: str) -> int:
    """Send the prompts that LLaVA's own code rendered, and compare with what it answered."""
    golden = json.loads((ROOT / "tests" / "upstream" / "goldens" / "demo.json").read_text())
    turns = [(chat["png"], turn) for chat in golden["chats"] for turn in chat["turns"]]
    for png, turn in turns:
        body = {"model": MODEL, "prompt": turn["prompt"], "images": [png] if png else []}
        body |= {"temperature": 0, "max_new_tokens": golden["max_new_tokens"], "stop": "</s>"}
        url = f"{controller}/worker_generate_stream"
        said = httpx.post(url, json=body, trust_env=False, timeout=WITHIN_S).content
        last = json.loads(said.split(b"\0")[-2])
        assert last == {"text": turn["prompt"] + turn["text"], "error_code": 0}, last
    return len(turns)


@contextmanager
def _page(controller: str, folder: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [PYTHON, "-m", "llava.serve.gradio_web_server", "--controller-url", controller]
    command += ["--host", "127.0.0.1", "--port", str(port), "--model-list-mode", "reload"]
    environ = {**os.environ, "PYTHONPATH": str(PAGE), "GRADIO_ANALYTICS_ENABLED": "False"}
    with subprocess.Popen(command, cwd=folder, env=environ) as page:
        try:
            until_s = time.monotonic() + WITHIN_S
            while not _answers(f"http://127.0.0.1:{port}/"):
                assert page.poll() is None, "LLaVA's page ended"
                assert time.monotonic() < until_s, "LLaVA's page does not answer"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            page.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _asked_on_the_page(url: str) -> str:
    """Upload a picture, ask about it, and return what the page shows."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page()
        page.set_default_timeout(WITHIN_S * 1000)
        page.goto(url)
        page.set_input_files("input[type=file]", str(RED_CIRCLE))
        expect(page.get_by_role("button", name="Remove Image").first).to_be_visible()
        page.get_by_placeholder("Enter text and press ENTER").fill("What is in the picture?")
        page.get_by_role("button", name="Send").click()
        shown = page.locator("[data-testid=bot]").last
        expect(shown).to_contain_text(re.compile("circle|NETWORK ERROR"), timeout=WITHIN_S * 1000)
        text = shown.inner_text()
        chromium.close()
    return text


if __name__ == "__main__":
    sys.exit(main())
