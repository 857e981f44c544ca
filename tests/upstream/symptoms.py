"""Known failures of other people's releases, provoked with those very releases.

    python tests/upstream/symptoms.py

Run by `make test-upstream`: it makes one small environment for each combination that people met, runs
what they ran, and holds what was said against the knowledge base. Cases of LLaVA's own loader use the
environment of `run.py`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from llava_pack.health.knowledge import known_failures, recognise
from llava_pack.lock.indexes import configured_indexes

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "bundles" / "demo-model"
GRADIO = ("gradio==4.16.0", "huggingface_hub<1", "pydantic<2.11", "numpy<2")
_CLICK = """
import gradio, httpx
with gradio.Blocks() as page:
    box = gradio.Textbox()
    box.change(lambda text: text, box, box, api_name="say")
_, url, _ = page.launch(prevent_thread_lock=True, show_api=False)
print(httpx.post(url + "run/say", json={"data": ["hi"], "session_hash": "x"}).text)
"""
_LOAD = """
import sys
from llava.model.builder import load_pretrained_model
from llava.mm_utils import get_model_name_from_path
path = sys.argv[1]
tokenizer, model, processor, _ = load_pretrained_model(
    path, None, get_model_name_from_path(path), device_map=None, device="cpu")
print(processor.image_mean)
"""


@dataclass(frozen=True)
class Case:
    """One failure: the packages that make it, and what is run with them."""

    code: str
    packages: tuple[str, ...]
    program: str


CASES = (
    Case("gradio-fastapi-schema", (*GRADIO, "fastapi==0.115.6"), _CLICK),
    Case("gradio-starlette-1", (*GRADIO, "fastapi>=0.135", "starlette>=1"), _CLICK),
    Case("hf-folder", ("gradio==4.16.0", "huggingface_hub>=1", "numpy<2"), "import gradio"),
    Case("numpy-2", ("pandas==2.1.4", "numpy>=2,<3"), "import pandas"),
)


def main() -> int:
    """Return 0 where every failure is recognised."""
    wrong = [line for case in CASES if (line := _checked(case.code, _provoked(case)))]
    python = ROOT / ".venv-upstream" / "bin" / "python"
    if not python.exists():
        wrong.append("there is no environment of LLaVA's own code: run tests/upstream/run.py first")
    else:
        wrong += [line for code, said in _loader(python) if (line := _checked(code, said))]
    print(*wrong, sep="\n")
    print(f"{len(wrong)} failures were not recognised")
    return int(bool(wrong))


def _provoked(case: Case) -> str:
    folder = ROOT / ".venv-symptoms" / case.code
    python = folder / "bin" / "python"
    uv, indexes = find_uv_bin(), configured_indexes()
    if not python.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    install = [uv, "pip", "install", "-q", "--python", str(python), *indexes.arguments()]
    # Their own bounds do not allow some of these combinations; what people had did not ask.
    overrides = folder / "overrides.txt"
    overrides.write_text("\n".join(case.packages) + "\n")
    subprocess.run([*install, "--overrides", str(overrides), *case.packages], check=True)
    return _run([str(python), "-c", case.program])


def _loader(python: Path) -> list[tuple[str, str]]:
    """Return what LLaVA's loader says to wrong names of folders, and to a tower that is gone."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        nameless = Path(place, "my-model")
        shutil.copytree(DEMO / "llava-v1-demo", nameless)
        found.append(("name-without-llava", _run([str(python), "-c", _LOAD, str(nameless)])))
        lost = Path(place, "llava-v1-demo")
        shutil.copytree(DEMO / "llava-v1-demo", lost)
        config = (lost / "config.json").read_text()
        (lost / "config.json").write_text(
            config.replace('"not--on-the-hub/clip-demo"', '"../gone"')
        )
        found.append(("tower-unknown", _run([str(python), "-c", _LOAD, str(lost)])))
        adapter = nameless.rename(Path(place, "llava-v1-demo-lora"))
        found.append(("lora-without-base", _run([str(python), "-c", _LOAD, str(adapter)])))
    return found


def _run(command: list[str]) -> str:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env=environ, timeout=300,
    )  # fmt: skip
    return done.stdout


def _checked(code: str, said: str) -> str:
    found = [one.id for one in recognise(said, known_failures())]
    print(f"{code}: {', '.join(found) or 'nothing'}")
    return "" if code in found else f"{code} was not recognised in:\n{said[-2000:]}"


if __name__ == "__main__":
    sys.exit(main())
