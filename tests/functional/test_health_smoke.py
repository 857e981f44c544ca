"""The smoke test as the installer runs it: a program of its own over a staged model."""

import base64
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import render_manifest
from tests.support.bundle import BundleSimulator
from tests.support.checkpoints import make_llava, make_tower

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    make_llava(folder / "llava-tiny")
    make_tower(folder / "tower")
    return folder


def _png() -> str:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def _manifest(folder: Path, *known: KnownAnswer, references: tuple[Reference, ...] = ()) -> Path:
    bundle = BundleSimulator()
    manifest = bundle.manifest(bundle.payload())
    entry = replace(manifest.model, conv_mode="llava_v1")
    path = folder / "MANIFEST.json"
    manifest = replace(manifest, model=entry, known_answers=known, references=references)
    path.write_bytes(render_manifest(manifest))
    return path


def _known(*contains: str, picture: str | None = None) -> KnownAnswer:
    picture_png = _png() if picture is None else picture
    return KnownAnswer(name="k", picture_png=picture_png, prompt="What?", contains=contains)


def _smoke(
    model: Path, manifest: Path, name: str = "llava-tiny", *more: str
) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-I", "-m", "llava_pack.health.smoke", "--manifest", str(manifest)]
    command += ["--model-dir", str(model / name), "--vision-tower", str(model / "tower")]
    command += ["--precision", "fp32", "--device", "cpu", "--json", *more]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600, text=True)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_model_that_says_what_it_should_passes(model: Path, tmp_path: Path) -> None:
    recorded = Reference(
        answer="recorded", precision="fp32", made_on="elsewhere", recorded="build", text="",
        prompt="", words="", pixels="", tower=(), projector=(),
        token_ids=(), likeliest=(), micronats=(),
    )  # fmt: skip
    known = replace(_known(""), name="recorded")
    code, report = _smoke(model, _manifest(tmp_path, _known(""), known, references=(recorded,)))
    assert (code, report["ok"]) == (0, True)
    assert report["answers"][0]["tokens"] > 0
    assert report["precision"] == "fp32"
    assert [answer["reference"] for answer in report["answers"]] == ["", "build"]


def test_a_model_that_does_not_see_it_fails(model: Path, tmp_path: Path) -> None:
    code, report = _smoke(model, _manifest(tmp_path, _known(""), _known("a unicorn")))
    assert (code, report["ok"]) == (0, False)
    assert [answer["grade"] for answer in report["answers"]] == ["equivalent", "broken"]
    assert "expected 'a unicorn' in the answer" in report["answers"][1]["why"]


def test_an_answer_that_is_accepted_by_name_passes(model: Path, tmp_path: Path) -> None:
    wrong = replace(_known("a unicorn"), name="wrong")
    manifest = _manifest(tmp_path, _known("also a unicorn"), wrong)
    for names in (["wrong"], ["k", "wrong"]):
        more = [word for name in names for word in ("--accept-answer", name)]
        code, report = _smoke(model, manifest, "llava-tiny", *more)
        assert (code, report["ok"]) == (0, len(names) == 2)
        taken = [answer["name"] for answer in report["answers"] if answer.get("accepted")]
        assert taken == names


@pytest.mark.parametrize(
    ("name", "picture", "kind"),
    [("absent", None, "checkpoint"), ("llava-tiny", "aGk=", "usage"), ("llava-tiny", "?", "integrity")],
)  # fmt: skip
def test_what_cannot_be_asked_fails_and_says_why(
    model: Path, tmp_path: Path, name: str, picture: str | None, kind: str
) -> None:
    code, report = _smoke(model, _manifest(tmp_path, _known("", picture=picture)), name)
    assert (code, report["ok"]) == (1, False)
    assert report["error"]["kind"] == kind


def test_a_gateway_that_cannot_be_imported_fails_it(model: Path, tmp_path: Path) -> None:
    """Its package is there and broken, as wheels are that do not fit together."""
    program = "import sys; sys.modules['uvicorn'] = None\n"
    program += "from llava_pack.health.smoke import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-I", "-c", program]
    command += ["--manifest", str(_manifest(tmp_path, _known("")))]
    command += ["--model-dir", str(model / "llava-tiny"), "--device", "cpu", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, report["error"]["kind"]) == (1, "install")
    assert "the gateway cannot be imported: ModuleNotFoundError" in report["error"]["message"]
