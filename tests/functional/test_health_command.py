"""`llava-pack health` over a real installation of a small bundle and the real gateway."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.manifest import Manifest
from llava_pack.target.next_step import next_step
from tests.support.bundle import BASE_PYTHON, CHECKOUT, BundleSimulator
from tests.support.gateway import Gateway, gateway
from tests.support.schemas import check_health_report


class SeeingBundle(BundleSimulator):
    """A bundle whose known answers are what the reference engine says about a red picture."""

    def manifest(self, contents: Any) -> Manifest:
        out = io.BytesIO()
        Image.new("RGB", (8, 4), "red").save(out, "PNG")
        picture = base64.b64encode(out.getvalue()).decode()
        known = [
            KnownAnswer(name=word, picture_png=picture, prompt=f"Is it {word}?", contains=(word,))
            for word in ("255,0,0", "8x4")
        ]
        return replace(super().manifest(contents), known_answers=tuple(known))


@dataclass(frozen=True)
class Ended:
    """How a run of health ended."""

    code: int
    report: dict[str, Any]

    def levels(self) -> dict[str, str]:
        """Return the level of each layer's last finding."""
        return {finding["layer"]: finding["level"] for finding in self.report["findings"]}

    def bad(self) -> list[dict[str, str]]:
        """Return the findings that are not fine, those about the machine apart: it is shared."""
        shared = {"gpu", "host", "processes"}
        found = [one for one in self.report["findings"] if one["layer"] not in shared]
        return [finding for finding in found if finding["level"] != "ok"]


@dataclass(frozen=True)
class Machine:
    """A prefix with an installed bundle."""

    prefix: Path
    bundle_id: str

    @property
    def generation(self) -> Path:
        return self.prefix / "models" / "tiny" / "generations" / "1"

    def health(self, *options: str) -> Ended:
        done = self.run("--json", *options)
        return Ended(done.returncode, json.loads(done.stdout))

    def settled(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run it again while it warns: the machine is shared, and may be busy for a moment."""
        for _ in range(30):
            if (done := self.run(*options)).returncode != 1:
                break
        return done

    def run(self, *options: str, without: str = "") -> "subprocess.CompletedProcess[str]":
        """Run health; `without` names a package that cannot be imported then."""
        program = "import runpy, sys; sys.modules[sys.argv.pop(1)] = None; "
        program += "runpy.run_module('llava_pack', run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", program, without or "none"]
        return subprocess.run(
            [*command, "health", "--prefix", str(self.prefix), *options],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "LLAVA_PACK_PREFIX": str(self.prefix), "PYTHONPATH": str(CHECKOUT)},
        )


def _install(folder: Path) -> Machine:
    bundle_id = SeeingBundle().write(folder / "bundle")
    subprocess.run(
        ["sh", str(CHECKOUT / "installers/install.sh"), "--bundle", str(folder / "bundle"),
         "--expect", bundle_id, "--prefix", str(folder / "prefix")],
        check=True, capture_output=True, timeout=600,
        env={"PATH": f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"},
    )  # fmt: skip
    return Machine(folder / "prefix", bundle_id)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield _install(tmp_path_factory.mktemp("machine"))
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(scope="module")
def served(sound: Machine) -> Iterator[Gateway]:
    options = ["--models", "tiny-llava", "--bundle-id", sound.bundle_id]
    options += ["--log", str(sound.prefix / "serve.log")]
    with gateway(sound.prefix / "run", *options) as running:
        yield running


@pytest.fixture
def broken(sound: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A copy to be broken; what is absolute in it is not copied, so only its files are judged."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return _install(tmp_path)


def test_all_is_well(sound: Machine, served: Gateway) -> None:
    done = sound.settled("--json")
    ended = Ended(done.returncode, json.loads(done.stdout))
    check_health_report(ended.report)
    assert (ended.code, ended.report["status"], ended.bad()) == (0, "OK", [])
    layers = ["integrity", "environment", "gpu", "host", "processes", "engine", "fence", "api"]
    assert ended.levels() == dict.fromkeys([*layers, "silence"], "ok")
    assert set(ended.report["metrics"]) == {"ttft_s", "tokens_per_s"}
    tries = (sound.health().report["took_s"] for _ in range(30))
    assert ended.report["took_s"] < 3 or any(took_s < 3 for took_s in tries), "the best counts"


def test_the_line_for_nagios_and_the_findings_for_people(sound: Machine, served: Gateway) -> None:
    done = sound.settled()
    assert done.returncode == 0
    assert done.stdout.startswith("OK - 10 checks passed | ttft=")
    assert ";2;5 tokens_per_s=" in done.stdout
    assert done.stdout.count("\n") == 1
    assert "✓ api: tiny-llava: known answers match" in done.stderr
    assert re.search("✓ fence: tiny-llava: Landlock ABI [0-9]+ and seccomp", done.stderr)


@pytest.mark.parametrize("missing", ["typer", "pydantic", "packaging", "httpx"])
def test_a_package_that_health_needs_itself_is_unknown_and_not_a_bug(
    sound: Machine, served: Gateway, missing: str
) -> None:
    done = sound.run("--json", without=missing)
    ended = Ended(done.returncode, json.loads(done.stdout))
    check_health_report(ended.report)
    unknown = [one for one in ended.report["findings"] if one["level"] == "unknown"]
    assert (ended.code, [missing in one["text"] for one in unknown]) == (3, [True])
    assert missing in {"typer", "pydantic"} or ended.levels()["integrity"] == "ok"


def test_the_line_for_nagios_where_health_itself_cannot_run(sound: Machine) -> None:
    done = sound.run(without="typer")
    assert (done.returncode, done.stdout.count("\n")) == (3, 1)
    assert done.stdout.startswith("UNKNOWN - environment: ModuleNotFoundError")
    assert "hint: a package is missing" in done.stderr


def test_ready_can_be_waited_for(sound: Machine, served: Gateway) -> None:
    ended = sound.health("--wait-ready", "300")
    assert (ended.code, ended.levels()) == (0, {"engine": "ok"})


def test_answers_recorded_here_are_what_later_checks_are_held_against(
    sound: Machine, served: Gateway
) -> None:
    recorded = sound.health("--record")
    assert (recorded.code, recorded.levels()) == (0, {"answers": "ok"})
    done = sound.run("--deep", "--json")
    assert re.search(r"^deep: .*, 12 questions to ask: about \d+ s$", done.stderr, re.MULTILINE)
    deep = json.loads(done.stdout)["findings"]
    answers = [one["text"] for one in deep if one["layer"] == "answers"]
    for name in ("255,0,0", "8x4"):
        exact = f"tiny-llava: {name}: exact, against what install recorded: "
        assert [exact in text for text in answers].count(True) == 1


def test_recording_says_why_it_recorded_nothing(
    sound: Machine, served: Gateway, tmp_path: Path
) -> None:
    ended = sound.health("--record", "--prefix", str(tmp_path))
    assert ended.code == 2
    (finding,) = ended.report["findings"]
    assert finding["text"] == "nothing recorded: tiny-llava is not installed here"
    assert finding["why"]
    assert finding["fix"]


def _kill_engines(served: Gateway, enough: threading.Event) -> None:
    """Kill every engine as soon as it is there, until told that it is enough."""
    while not enough.wait(0.02):
        for engine in served.engine_pids():
            with suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)


def test_an_engine_that_keeps_dying_is_critical_with_its_cause(
    sound: Machine, served: Gateway
) -> None:
    log = sound.prefix / "serve.log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    enough = threading.Event()
    killer = threading.Thread(target=_kill_engines, args=(served, enough))
    killer.start()
    try:
        while "restarting" not in str((ended := sound.health()).bad()):
            assert ended.code in {0, 1, 2}
    finally:
        enough.set()
        killer.join()
        log.write_text("")
    assert ended.code == 2
    assert "SIGKILL" in next(one["text"] for one in ended.bad() if "restarting" in one["text"])
    assert "out-of-gpu-memory" in [one["code"] for one in ended.bad()]
    assert sound.health("--wait-ready", "300").code == 0


def test_a_server_that_hangs_is_critical_within_seconds(sound: Machine, served: Gateway) -> None:
    hanging = (served.process.pid, served.gateway_pid())
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    try:
        ended = sound.health()
    finally:
        for pid in hanging[::-1]:
            os.kill(pid, signal.SIGCONT)
    assert ended.code == 2
    [finding] = [one for one in ended.bad() if "does not respond" in one["text"]]
    assert finding["fix"].startswith(f"kill {served.process.pid}; ")


def test_when_nothing_runs_it_says_how_to_serve(broken: Machine) -> None:
    ended = broken.health()
    assert ended.code == 2
    (finding,) = ended.bad()
    assert finding["text"] == "no server of this installation is running"
    assert finding["fix"] == next_step(Path(broken.prefix)).command


def test_when_nothing_is_installed_it_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = Machine(tmp_path / "none", "").run()
    assert done.returncode == 2
    assert done.stdout.startswith("CRITICAL - integrity: nothing is installed")
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_unknown_to_nagios(tmp_path: Path) -> None:
    assert Machine(tmp_path, "").run("--no-such-option").returncode == 3


def _weights(machine: Machine) -> Path:
    return machine.generation / "model/tiny-llava/model-00001-of-00001.safetensors"


def _replace(path: Path, data: bytes, *, keep_times: bool = False) -> None:
    facts = path.stat()
    path.unlink()
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_flipped_bit_is_found_by_the_deep_check(broken: Machine) -> None:
    data = bytearray(_weights(broken).read_bytes())
    data[3] ^= 1
    _replace(_weights(broken), bytes(data))
    quick, deep = broken.health(), broken.health("--deep")
    assert "--deep" in quick.bad()[0]["fix"]
    name = "model/tiny-llava/model-00001-of-00001.safetensors"
    assert deep.bad()[0]["text"].endswith(f"not the bytes that were verified: {name}")


def test_the_deep_check_says_its_time_and_hashes_and_imports_packages(broken: Machine) -> None:
    (package,) = broken.generation.glob("venv/lib/python3*/site-packages/llava_pack")
    _replace(package / "serve/handover.py", b"import os")
    done = broken.run("--deep", "--json")
    assert re.search(r"^deep: .* kB to hash, .*import: about 15 s$", done.stderr, re.MULTILINE)
    texts = [one["text"] for one in json.loads(done.stdout)["findings"]]
    assert "files of packages are not as installed: llava_pack/serve/handover.py" in texts
    assert any("llava_pack.cli cannot be imported: ModuleNotFound" in text for text in texts)


def test_files_that_only_look_changed_are_read_by_the_deep_check_alone(broken: Machine) -> None:
    _weights(broken).chmod(0o440)
    assert broken.health().bad()[0]["level"] == "warn"
    assert broken.health().levels()["integrity"] == "warn"
    assert broken.health("--deep").levels()["integrity"] == "ok"
    assert broken.health().levels()["integrity"] == "ok"


def test_what_the_bundle_id_does_not_promise_is_found_by_the_deep_check(broken: Machine) -> None:
    manifest = broken.generation / "MANIFEST.json"
    _replace(manifest, manifest.read_bytes().replace(b"A tiny LLaVA", b"Another LLaVA"))
    (broken.generation / "model/tiny-llava/modeling.py").write_text("import os")
    text = broken.health("--deep").bad()[0]["text"]
    assert text.endswith("verified: MANIFEST.json, model/tiny-llava/modeling.py")


def test_the_finalised_config_is_derived_again(broken: Machine) -> None:
    config = broken.generation / "model/tiny-llava/config.json"
    _replace(config, config.read_bytes().replace(b"/tower", b"/other"))
    deep = broken.health("--deep")
    assert deep.bad()[0]["text"].endswith("model/tiny-llava/config.json")
    config.unlink()
    assert deep.bad()[0]["text"].endswith("model/tiny-llava/config.json")


def test_a_missing_package_is_named_with_its_version(broken: Machine) -> None:
    (info,) = broken.generation.glob("venv/lib/python3*/site-packages/llava_pack-*.dist-info")
    shutil.rmtree(info)
    bad = broken.health().bad()
    assert bad[0]["layer"] == "environment"
    assert "llava-pack absent, locked 0.0.1" in bad[0]["text"]


def test_an_environment_that_does_not_run_is_named(broken: Machine) -> None:
    python = broken.generation / "venv/bin/python"
    python.unlink()
    bad = broken.health().bad()
    assert bad[0]["text"] == "the environment's Python does not run"


def test_a_lost_receipt_or_manifest_is_not_a_traceback(broken: Machine) -> None:
    manifest = broken.generation / "MANIFEST.json"
    _replace(manifest, b"{}")
    done = broken.run()
    assert done.returncode == 2
    assert "MANIFEST.json" in done.stderr
    (broken.generation / "receipt.json").unlink()
    done = broken.run()
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "not complete" in done.stderr


def test_a_model_that_does_not_see_is_critical(broken: Machine) -> None:
    """The reference engine stands in for a blind model: what it should say is not what it says."""
    manifest = json.loads((broken.generation / "MANIFEST.json").read_text())
    for known in manifest["known_answers"]:
        known["contains"] = ["a unicorn"]
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    _replace(broken.generation / "MANIFEST.json", text.encode())
    with gateway(broken.prefix / "run", "--models", "tiny-llava", "--bundle-id", broken.bundle_id):
        ended, refused = broken.health(), broken.health("--record")
    assert (ended.code, refused.code) == (2, 2)
    assert "expected 'a unicorn' in the answer" in refused.bad()[0]["text"]
    assert not list(broken.prefix.rglob("recorded-*.json"))
    api = [finding for finding in ended.bad() if finding["layer"] == "api"]
    assert "expected 'a unicorn' in the answer, got 'You said" in api[0]["text"]
