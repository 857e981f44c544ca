"""What may leave in a support bundle: known fields, held against shapes; and nothing that was planted."""

import ast
import functools
import io
import json
import os
import random
import re
import tarfile
import threading
import tomllib

import pytest

from llava_pack.format.target import UNKNOWN
from llava_pack.health import (
    documents,
    evidence,
    logbook,
    messages,
    reading,
    settings,
    shapes,
    support,
)
from llava_pack.health.evidence import Document, command, tail
from llava_pack.health.logbook import Log
from llava_pack.health.redaction import Redactor
from llava_pack.health.shapes import Fields, Form, Number, Several, Table, Told
from llava_pack.health.support import collect, packed
from llava_pack.health.vocabulary import ANSWERS, LICENCES, MODELS, RECIPES
from tests.conftest import ROOT
from tests.support.planted import KINDS, MANIFEST, RECEIPT, VALUES, leaks, planted
from tests.support.sources import parsed

SEED = int(os.environ.get("LLAVA_PACK_ATTACK_SEED") or random.SystemRandom().randrange(1 << 32))


def shown(shape, value):
    return shape.admit(value, Told(salt=b"salt"))


def part(value, shape=None, *, tells=False):
    return Document(read=lambda: value, shape=shape or Log(), tells=tells)


def facts(contents, name):
    return json.loads(contents.documents[name])["facts"]


# Nothing that was planted leaves.


def test_no_planted_secret_leaves():
    parts, used = planted(SEED)
    print(f"seed {SEED}")
    assert len({secret.kind for secret in used}) == len(KINDS) >= 23
    assert len(used) >= 200
    assert leaks(parts, used, SEED) == []


def _as_it_is(_self, value, _told):
    return value


_FIELDS = r"\d+-(machine|servers|packages|unit|health)\.json"
LOOSENED = [
    (shapes.OneOf, "admit", _as_it_is, _FIELDS),
    (shapes.Form, "admit", _as_it_is, _FIELDS),
    (shapes.Begins, "admit", _as_it_is, _FIELDS),
    (shapes.Name, "admit", _as_it_is, _FIELDS),
    (shapes.Words, "admit", _as_it_is, _FIELDS),
    (shapes.Number, "admit", _as_it_is, _FIELDS),
    (shapes.Flag, "admit", _as_it_is, _FIELDS),
    (shapes.Fields, "admit", _as_it_is, _FIELDS),
    (shapes.Table, "admit", _as_it_is, _FIELDS),
    (shapes.Told, "mark", lambda _self, _kind, value: value, _FIELDS),
    (documents._Said, "admit", _as_it_is, _FIELDS),
    (documents._Code, "admit", _as_it_is, _FIELDS),
    (shapes.Given, "admit", _as_it_is, "HF_TOKEN.json"),
    (settings.Settings, "admit", _as_it_is, "HF_TOKEN.json"),
    (Log, "admit", _as_it_is, "serve.log"),
    (reading._Nothing, "admit", _as_it_is, "serve.log"),
    (reading._Nested, "admit", _as_it_is, "serve.log"),
    (reading._Parts, "admit", _as_it_is, "serve.log"),
    (reading._InstalledFile, "admit", _as_it_is, "findings.json"),
    (reading._Differences, "admit", _as_it_is, "findings.json"),
    (logbook, "_logger", lambda name: name, "other.log"),
    (logbook, "_place", lambda text: text, "other.log"),
    (logbook, "_raised", lambda text: {"raised": text}, "other.log"),
    (support, "_why", lambda error: f"{type(error).__name__}: {error}", "error-0.json"),
]


@functools.cache
def _tight(names):
    """Return the documents of these names, from which nothing leaves while all checks are there."""
    parts, used = planted(7)
    some = {key: one for key, one in parts.items() if re.fullmatch(names, key)}
    assert leaks(some, used, 7) == []
    return some, used


@pytest.mark.parametrize(
    ("where", "name", "loose", "documents_with_it"),
    LOOSENED,
    ids=[f"{where.__name__.rpartition('.')[2]}.{name}" for where, name, _, _ in LOOSENED],
)
def test_each_check_is_what_keeps_a_secret(monkeypatch, where, name, loose, documents_with_it):
    """The mutation: with one check loosened, the same secrets leave."""
    parts, used = _tight(documents_with_it)
    monkeypatch.setattr(where, name, loose)
    assert leaks(parts, used, 7)


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (Number(0, 9), True),
        (Number(0, 9), 10),
        (Number(0, 9), float("nan")),
        (Number(0, 9), "7"),
        (Form("[0-9]{3}"), "123\n"),
        (Form("[0-9]{3}"), "١٢٣"),
        (Form("[0-9]{3}"), 123),
        (documents.RECEIPT, "text"),
        (Several(Number()), {"0": 1}),
        (Table(Form("a"), Number()), [1]),
    ],
)
def test_what_does_not_fit_stays_and_is_counted(shape, value):
    told = Told(salt=b"salt", document="d")
    assert shape.admit(value, told) is shapes.LEFT_OUT
    assert told.left_out == {"d": 1}


def test_fields_that_nobody_listed_stay_with_their_names():
    told = Told(salt=b"salt", document="d")
    assert Fields({"a": Number()}).admit({"a": 1, "hunter2": 2}, told) == {"a": 1}
    assert told.left_out == {"d": 1}


# What support needs is there.


@pytest.mark.parametrize("name", VALUES)
def test_good_values_are_told(name):
    value, shape = VALUES[name]
    assert shown(shape, value)


def test_a_receipt_and_a_manifest_keep_what_support_asks_for():
    receipt, manifest = shown(documents.RECEIPT, RECEIPT), shown(documents.MANIFEST, MANIFEST)
    assert receipt["smoke"]["ok"] is True
    assert receipt["smoke"]["answers"][0]["grade"] == "exact"
    assert "text" not in receipt["smoke"]["answers"][0]
    assert receipt["preflight"][0]["value"] == "580.65.06"
    assert manifest["floors"]["driver"] == "525.60"
    assert manifest["wheels"] == {"torch": "2.7.0+cu126"}


@pytest.mark.parametrize("value", [UNKNOWN, "could not be found out"])
def test_a_fact_that_a_receipt_does_not_know_is_told_in_the_words_of_its_version(value):
    fact = {**RECEIPT["preflight"][0], "value": value}
    (kept,) = shown(documents.RECEIPT, {**RECEIPT, "preflight": [fact]})["preflight"]
    assert kept["value"] == value


def test_an_engines_end_its_stack_and_its_error_are_told_without_its_words():
    log = (
        "2026-10-01T12:00:00Z 7 INFO llava_pack.serve.supervision.supervisor: serving my-llava, process 7\n"
        "2026-10-01T12:00:01Z 7 INFO llava_pack.serve.supervision.engine_process: my-llava: Traceback (most recent):\n"
        "2026-10-01T12:00:01Z 7 INFO llava_pack.serve.supervision.engine_process: my-llava:   File "
        '"/home/anna/v/site-packages/llava_pack/engine/process/loop.py", line 110, in _run\n'
        "2026-10-01T12:00:01Z 7 INFO llava_pack.serve.supervision.engine_process: my-llava: OSError: [Errno 28] No space "
        "left on device: '/home/anna/x'\n"
        "2026-10-01T12:00:02Z 7 WARNING llava_pack.serve.supervision.engine: my-llava: my-llava: its engine, "
        "process 9, was killed by SIGKILL; restarting in 0 s\n"
    )
    said = shown(Log(), log)
    assert [event["said"] for event in said["events"]] == [
        "serving own model 1, process 7",
        "own model 1: own model 1: its engine, process 9, was killed by SIGKILL; restarting in 0 s",
    ]
    (run,) = said["not_included"]
    assert (run["first_line"], run["lines"], run["raised"], run["errno"]) == (2, 3, "OSError", 28)
    assert run["stack"] == ["llava_pack/engine/process/loop.py:110"]


def test_the_memory_that_was_free_when_a_gpu_was_full_is_told():
    line = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 23.64 GiB of which 1.20 GiB is free. Process 77 has 20 GiB"
    )
    (sign,) = shown(Log(), line)["signs"]
    assert sign["shows"] == (
        "CUDA out of memory: wanted 2.00 GiB; GPU 0 of 23.64 GiB had 1.20 GiB free"
    )


def test_the_same_line_is_told_apart_in_one_bundle_and_in_no_other():
    one, again, other = Told(salt=b"a"), Told(salt=b"a"), Told(salt=b"b")
    assert one.digest("1234") == again.digest("1234") != other.digest("1234")


def test_packages_and_files_of_the_installation_are_named_and_others_are_not():
    told = Told(salt=b"salt")
    text = "packages differ from the lock: acme-secrets absent, locked 1.0, torch 2.6.0, locked 2.7.0 and 4 more"
    assert reading.read(text, messages.FOUND, told) == (
        "packages differ from the lock: own package 1 absent, locked 1.0, torch 2.6.0, locked 2.7.0"
    )
    text = (
        "demo generation 2: changed since they were verified: model/x/config.json, model/x/anna.txt"
    )
    assert reading.read(text, messages.FOUND, told) == (
        "demo generation 2: changed since they were verified: model/own model 1/config.json, …"
    )


# The bundle as a file.


def test_known_failures_are_told_by_their_code_and_everything_is_listed():
    parts = {"log.json": part("anna says: CUDA out of memory", tells=True), "a.json": part("x")}
    contents = collect(parts, salt=b"salt")
    assert contents.known == ("out-of-gpu-memory",)
    about = contents.documents["ABOUT.txt"]
    assert "  out-of-gpu-memory\n" in about
    assert re.search(r"log\.json: \d+ characters; 1 values stay\n", about)
    with tarfile.open(fileobj=io.BytesIO(packed(contents))) as archive:
        names = [member.name for member in archive]
    assert names == [f"llava-pack-support/{name}" for name in ("ABOUT.txt", "log.json", "a.json")]


def test_a_reader_that_fails_or_hangs_says_so_and_ends_nobody(monkeypatch):
    monkeypatch.setattr(support, "_WITHIN_S", 0.2)
    never = threading.Event()
    parts = {
        "absent.json": Document(read=tail(support_path("does/not/exist")), shape=Log()),
        "hangs.json": Document(read=lambda: str(never.wait(5)), shape=Log()),
        "tool.json": Document(read=command(["there-is-no-such-program"]), shape=Log()),
        "fine.json": part("fine"),
    }
    contents = collect(parts, salt=b"salt")
    never.set()
    said = {name: json.loads(text) for name, text in list(contents.documents.items())[1:]}
    assert said["absent.json"]["could_not_be_read"] == "FileNotFoundError"
    assert said["absent.json"]["errno"] == 2
    assert said["hangs.json"]["could_not_be_read"] == "TimeoutError"
    assert said["tool.json"]["could_not_be_read"] == "FileNotFoundError"
    assert said["fine.json"]["facts"]["lines"] == 1


@pytest.mark.parametrize("bad", [[1], {"a": [1]}, {"findings": [{"code": [1]}]}, 7, "text"])
def test_values_of_another_kind_end_no_document(bad):
    for name, (_, shape) in VALUES.items():
        contents = collect({name: part(bad, shape)}, salt=b"salt")
        assert "could_not_be_read" not in contents.documents[name]


def test_a_shape_that_fails_ends_no_other_document():
    class Broken:
        def admit(self, value, told):
            raise ValueError("hunter2")

    contents = collect({"a.json": part("x", Broken()), "b.json": part("fine")}, salt=b"salt")
    assert json.loads(contents.documents["a.json"])["could_not_be_read"] == "ValueError"
    assert facts(contents, "b.json")["lines"] == 1
    assert "hunter2" not in contents.documents["a.json"]


def support_path(name):
    return ROOT / name


def test_a_log_that_is_a_fifo_or_a_device_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "serve.log")
    with pytest.raises(OSError, match="not a plain file"):
        tail(tmp_path / "serve.log")()
    with pytest.raises(OSError, match="not a plain file"):
        tail(evidence.Path("/dev/zero"))()


def test_it_stays_small_whatever_the_logs_are(monkeypatch):
    monkeypatch.setattr(support, "MAX_BYTES", 30_000)
    noise = "\n".join(f"INFO l{os.urandom(20).hex()}: x" for _ in range(1_000))
    logs = {f"{n}.log": lambda: noise for n in range(6)}
    contents = collect({"a.json": part("fine")}, salt=b"salt", logs=logs)
    assert len(packed(contents)) <= 31_000
    assert contents.dropped
    assert "a.json" in contents.files
    assert f"  {contents.dropped[0]}: left out\n" in contents.documents["ABOUT.txt"]


def test_a_document_with_a_key_that_is_known_is_dropped_whatever_let_it_through():
    contents = collect(
        {"a.json": part("s3cr3t-t0k3n", Form(".*")), "b.json": part("fine")},
        salt=b"salt",
        secrets=["s3cr3t-t0k3n"],
    )
    assert contents.dropped == ("a.json",)
    assert "s3cr3t" not in "".join(contents.documents.values())


def test_logs_that_were_asked_for_go_through_the_redactor_and_are_called_unreviewed():
    contents = collect(
        {},
        salt=b"salt",
        logs={"serve.log": lambda: "gpu01 says hf_abcdefgh12"},
        redactor=Redactor({"host": ["gpu01"]}),
    )
    assert contents.documents["UNREVIEWED-logs/serve.log"] == "<host 1> says <secret 1>"
    assert "READ THEM before you send" in contents.documents["ABOUT.txt"]
    assert contents.redacted == {"host": 1, "secret": 1}


# Settings.


def test_of_settings_only_harmless_values_are_told():
    said = shown(
        settings.Settings(),
        {
            "HF_TOKEN": "hf_x",
            "HF_ENDPOINT": "https://hub.bank.internal",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "0,1",
            "OMP_NUM_THREADS": "hunter2",
            "NVIDIA_API_KEY": "hunter2",
            "EDITOR": "vi",
        },
    )
    assert said == {
        "variables": {
            "CUDA_VISIBLE_DEVICES": "0,1",
            "HF_ENDPOINT": "set",
            "HF_HUB_OFFLINE": "1",
            "HF_TOKEN": "set",
            "OMP_NUM_THREADS": "set, not shown",
        },
        "others_of_their_families": 1,
    }


# The lists keep up with the sources.


def test_the_public_names_are_those_of_the_shipped_recipes():
    models, licences, answers = set(), set(), set()
    for path in (ROOT / "bundles").glob("*.toml"):
        recipe = tomllib.loads(path.read_text())
        assert recipe["name"] in RECIPES
        answers |= {one["name"] for one in recipe.get("known_answers", ())}
        for one in (recipe["model"], recipe["model"].get("base"), recipe.get("vision_tower")):
            models |= {one["name"]} if one else set()
            licences |= {one["licence"]["id"]} if one and "licence" in one else set()
        licences.add(recipe["licence"]["id"])
    assert models <= MODELS
    assert licences == LICENCES
    assert answers == ANSWERS


def logging_calls():
    """Yield logger and message of each logging call of ours, with {} for what is filled in."""
    methods = {"debug", "info", "warning", "error", "exception", "critical"}
    for path in sorted((ROOT / "llava_pack").rglob("*.py")):
        logger = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(parsed(path)):
            called = getattr(node, "func", None)
            if not isinstance(called, ast.Attribute) or called.attr not in methods:
                continue
            if isinstance(called.value, ast.Name) and called.value.id in {"_log", "log"}:
                text = ast.literal_eval(node.args[0])
                name = "llava_pack.engine" if logger == "llava_pack.engine.worker" else logger
                yield name, re.sub(r"%[\d.]*[a-z]", "{}", text)


def test_each_logging_call_has_its_template():
    listed = {
        (logger, re.sub(r"\{\w+\}", "{}", text))
        for logger, texts in messages.LOGGED.items()
        for text in texts
    }
    ours = {one for one in logging_calls() if not one[0].startswith("llava_pack.fetch")}
    assert ours - listed == set(), (
        "add them to LOGGED in llava_pack/health/messages.py, with {text} for what must stay"
    )
    assert listed - ours == set(), "no logging call says this any more: take it out of LOGGED"


_ASKED_FOR = {"suite.py", "health.py", "tunnel_checks.py"}
"""Of --deep, --wait-ready and --tunnel, which no support bundle runs; nor does it --record."""


def texts_of(function):
    """Yield what each finding of a function says, also where it was put together before."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and "Layer." in ast.unparse(call.func):
            yield call.args[0]
            for node in ast.walk(function):
                if isinstance(node, ast.Assign | ast.AugAssign):
                    targets = getattr(node, "targets", None) or [node.target]
                    if ast.unparse(targets[0]) == ast.unparse(call.args[0]):
                        yield node.value


def fixed_words():
    """Yield the fixed parts of what findings say, as far as they are written where they are made."""
    for path in (ROOT / "llava_pack").rglob("*.py"):
        if path.name in _ASKED_FOR or "Layer." not in path.read_text():
            continue
        for function in ast.walk(parsed(path)):
            if isinstance(function, ast.FunctionDef):
                for text in texts_of(function):
                    for part in getattr(text, "values", [text]):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value


def test_each_finding_has_its_template():
    listed = "\n".join(re.sub(r"\{\w+\}", "\0", text) for text in messages.FOUND)
    missing = {words for words in fixed_words() if words.strip() and words not in listed}
    missing -= {"nothing recorded: ", " is not installed here"}
    assert missing == set(), "add them to FOUND in llava_pack/health/messages.py"


def test_a_receipt_keeps_exact_sizes_and_not_who_came_over_ssh():
    fact = {**RECEIPT["preflight"][0], "name": "disk", "value": "13518798848 bytes"}
    fact["need"] = "at least 9100000000 bytes"
    came = {**RECEIPT["verified"], "expect": "over ssh from 192.0.2.1, by llava-pack deploy"}
    told = shown(documents.RECEIPT, {**RECEIPT, "preflight": [fact], "verified": came})
    assert told["preflight"][0]["value"] == "13518798848 bytes"
    assert told["preflight"][0]["need"] == "at least 9100000000 bytes"
    assert (told["verified"]["by"], told["verified"]["expect"]) == ("--expect", "over ssh")
