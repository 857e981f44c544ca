"""Take docs/images/page*.png: the page as `serve` shows it, asked by a real browser.

Run it in the checkout: `python docs/images/take_page.py`; needs Chromium, playwright and a font
with Chinese glyphs (fonts-wqy-microhei).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "bundles" / "demo-model"
QUESTIONS = ("What is in the picture?", "How many things are there?")
SCENE = "a picture for the page 20"
DESK = {"width": 1100, "height": 860}
PHONE = {"width": 390, "height": 844}
SHOTS: dict[str, dict[str, Any]] = {
    "page.png": {"viewport": DESK, "locale": "en-US", "color_scheme": "light"},
    "page-dark.png": {"viewport": DESK, "locale": "en-US", "color_scheme": "dark"},
    "page-zh.png": {"viewport": DESK, "locale": "zh-CN", "color_scheme": "light"},
    "page-phone.png": {
        "viewport": PHONE,
        "locale": "en-US",
        "color_scheme": "light",
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    },
}
PATIENCE_MS = 120_000


@contextmanager
def served() -> Iterator[str]:
    """Serve the demo model in 4 bits and yield the page's address."""
    command = [sys.executable, "-m", "llava_pack", "serve", "--port", "0", "--json"]
    command += ["--as-root"] * (os.geteuid() == 0)
    command += ["--model-path", str(DEMO / "llava-v1-demo")]
    command += ["--vision-tower", str(DEMO / "clip-demo"), "--load-4bit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            said = json.loads(line)
            yield f"{said['url']}/#token={said['token']}"
        finally:
            process.terminate()


def draw(path: Path) -> None:
    """Draw a scene of the kind that the demo model knows."""
    sys.path.insert(0, str(DEMO))
    from scenes import make_scene, render

    render(make_scene(Random(SCENE)), 336).save(path)  # noqa: S311 - a picture, no secret


def talk(page: Page, picture: Path) -> None:
    """Ask about the picture and wait for the answers."""
    expect(page.locator("#status")).not_to_be_empty()
    page.set_input_files("#files", str(picture))
    expect(page.locator("#thumbnails .thumbnail")).to_have_count(1)
    for number, question in enumerate(QUESTIONS, 1):
        page.locator("#box").fill(question)
        page.locator("#send").click()
        expect(page.locator("#messages .assistant")).to_have_count(number)
        expect(page.locator("#messages [data-state=running]")).to_have_count(0)


def main() -> None:
    """Take the pictures."""
    expect.set_options(timeout=PATIENCE_MS)
    with tempfile.TemporaryDirectory() as folder, served() as url, sync_playwright() as driver:
        picture = Path(folder) / "scene.png"
        draw(picture)
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, settings in SHOTS.items():
            context = browser.new_context(**settings)
            page = context.new_page()
            page.goto(url)
            talk(page, picture)
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)
            page.screenshot(path=ROOT / "docs" / "images" / name)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
