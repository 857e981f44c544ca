import io
import os
import tarfile
import threading

from llava_pack.health import support
from llava_pack.health.redaction import Redactor
from llava_pack.health.support import collect, command, settings, tail


def files_of(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            member.name.removeprefix("llava-pack-support/"): archive.extractfile(member)
            .read()
            .decode()
            for member in archive
        }


def test_what_is_collected_is_redacted_counted_and_recognised():
    collectors = {
        "logs/serve.log": lambda: "gpu01 says: CUDA out of memory",
        "a.txt": lambda: "fine",
    }
    data, contents = collect(collectors, Redactor({"host": ["gpu01"]}))
    files = files_of(data)
    assert files["logs/serve.log"] == "<host 1> says: CUDA out of memory"
    assert contents.redacted == {"host": 1}
    assert contents.known == ("out-of-gpu-memory",)
    assert "  host: 1\n" in files["ABOUT.txt"]
    assert "  out-of-gpu-memory\n" in files["ABOUT.txt"]


def test_a_collector_that_fails_or_hangs_says_so_and_ends_nobody(monkeypatch):
    monkeypatch.setattr(support, "_WITHIN_S", 0.2)
    never = threading.Event()
    collectors = {
        "absent.txt": tail(support.Path("/does/not/exist")),
        "hangs.txt": lambda: str(never.wait(5)),
        "fine.txt": lambda: "fine",
        "tool.txt": command(["there-is-no-such-program"]),
    }
    data, _ = collect(collectors, Redactor({}))
    never.set()
    files = files_of(data)
    assert files["fine.txt"] == "fine"
    assert "could not be collected: not within 0.2 s" in files["hangs.txt"]
    assert "could not be collected: FileNotFoundError" in files["absent.txt"]
    assert "could not be collected: FileNotFoundError" in files["tool.txt"]


def test_it_stays_small_whatever_the_logs_are(monkeypatch):
    monkeypatch.setattr(support, "MAX_BYTES", 100_000)
    noise = "\n".join(os.urandom(40).hex() for _ in range(1_000))
    collectors = {f"logs/{n}.log": lambda: noise for n in range(6)} | {"a.txt": lambda: "fine"}
    data, contents = collect(collectors, Redactor({}))
    assert len(data) <= 100_000
    assert contents.dropped
    assert "a.txt" in contents.files
    assert "left out to keep this small" in files_of(data)["ABOUT.txt"]


def test_the_end_of_a_log_and_what_a_command_said_are_kept(tmp_path):
    log = tmp_path / "serve.log"
    log.write_text("old\n" * 100 + "the end\n")
    assert tail(log, 8)() == "the end\n"
    said = command(["sh", "-c", "echo out; echo err >&2; exit 3"])()
    assert said.endswith("out\nerr\n[exit code 3]\n")


def test_settings_that_are_secret_are_only_said_to_be_set():
    said = settings({"HF_TOKEN": "hf_x", "HF_HOME": "/x", "EDITOR": "vi", "no_proxy": "*"})
    assert said == "HF_HOME=/x\nHF_TOKEN=(set)\nno_proxy=*\n"
