import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from llava_pack.health.facts import HostFacts, MemoryFacts, ProcessFacts, SilenceFacts
from llava_pack.health.host import (
    engine_device,
    is_engine,
    probe_host,
    probe_processes,
    probe_silence,
    spent,
)
from llava_pack.health.machine import (
    check_host,
    check_memory,
    check_processes,
    check_silence,
    check_unit,
    check_variables,
    untested,
)

WELL = HostFacts(
    disk_free_bytes=50_000_000_000,
    inodes_free=1_000_000,
    memory_available_bytes=16_000_000_000,
    open_files_limit=1024,
    now=2_000_000_000,
    release=1_900_000_000,
    proxies=(),
    loopback_exempt=False,
)


def test_a_machine_that_is_well_is_one_line():
    (finding,) = check_host(WELL)
    assert (finding.level, finding.text) == ("ok", "50.0 GB of disk and 16.0 GB of memory free")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"disk_free_bytes": 1000}, "no-space-left"),
        ({"inodes_free": 3}, "no-space-left"),
        ({"memory_available_bytes": 1000}, "out-of-memory-killer"),
        ({"open_files_limit": 64}, "no-space-left"),
        ({"now": 0}, "clock-wrong"),
        ({"proxies": ("https_proxy",)}, "proxy-on-loopback"),
    ],
)
def test_what_is_short_is_a_warning_with_its_cure(change, code):
    (finding,) = check_host(replace(WELL, **change))
    assert (finding.level, finding.code) == ("warn", code)
    assert finding.fix


@pytest.mark.parametrize(
    "change",
    [
        {"proxies": ("https_proxy",), "loopback_exempt": True},
        {"open_files_limit": -1},  # no limit
        {"disk_free_bytes": None, "inodes_free": None, "memory_available_bytes": None},
        {"release": None},
    ],
)
def test_what_is_fine_or_unknown_is_no_warning(change):
    assert [finding.level for finding in check_host(replace(WELL, **change))] == ["ok"]


def test_this_machine_has_facts(tmp_path):
    facts = probe_host(tmp_path / "not" / "there", 5, {"HTTP_PROXY": "http://proxy:3128"})
    assert facts.disk_free_bytes
    assert facts.memory_available_bytes
    assert facts.proxies == ("HTTP_PROXY",)
    assert facts.release == 5


# the arguments of an engine; what it runs says its number and waits for the end of its input
_ENGINE = [
    *(sys.executable, "-c", "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"),
    *("-m", "llava_pack.engine.worker"),
]


@contextmanager
def _engine(*command):
    """Run an engine and yield its process number: it has its own arguments, not its parent's."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


def test_an_engine_whose_server_is_gone_is_found():
    with _engine(*_ENGINE) as adopted:
        assert adopted not in probe_processes((), "").orphans
    # what a shell runs beside itself reads nothing, unless it is given the input by another number
    with _engine("sh", "-c", 'exec 3<&0; "$@" <&3 & wait', "sh", *_ENGINE) as orphan:
        facts = probe_processes((), "")
    assert orphan in facts.orphans
    (finding,) = check_processes(replace(facts, orphans=(orphan,)), "llava-pack", 7860)
    assert (finding.level, finding.fix) == ("warn", f"kill {orphan}")


def test_an_engine_was_told_its_device_by_its_arguments():
    with _engine(*_ENGINE, "--model-dir", "/models/llava-tiny", "--device", "auto"):
        assert engine_device(os.getpid(), "llava-tiny") == "auto"
        assert engine_device(os.getpid(), "another") == ""


def test_the_work_of_the_server_is_not_that_of_others():
    before = spent(os.getpid())
    while (after := spent(os.getpid())).own_s - before.own_s < 0.1:
        pass
    assert 0 <= after.others_part(before) < 1
    idle = replace(before, at_s=before.at_s + 1, idle_s=before.idle_s + before.cpus)
    assert idle.others_part(before) == 0


def test_a_port_held_by_another_program_is_named():
    facts = ProcessFacts(servers=0, orphans=(), port_holder="jupyter, process 7")
    (finding,) = check_processes(facts, "/opt/llava-pack/bin/llava-pack", 7860)
    assert finding.code == "port-taken"
    assert finding.fix == "/opt/llava-pack/bin/llava-pack serve --port 7861"


def test_connections_on_this_machine_are_silence():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        facts = probe_silence(os.getpid(), ())
    assert facts.connections == ()
    assert facts.processes >= 1
    assert check_silence(facts).level == "ok"


def test_a_connection_that_leaves_is_a_failure():
    facts = SilenceFacts(processes=2, connections=("17 203.0.113.9:443",))
    finding = check_silence(facts)
    assert (finding.level, "203.0.113.9:443" in finding.text) == ("fail", True)


def test_a_server_that_is_gone_is_unknown_and_not_silent():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert check_silence(probe_silence(gone.pid, ())).level == "unknown"


@pytest.mark.parametrize(
    ("used", "forecast", "levels"),
    [
        (100, 100, ["ok"]),
        (114, 100, ["ok"]),
        (120, 100, ["warn"]),
        (None, 100, []),
        (100, None, []),
    ],
)
def test_memory_is_held_against_its_forecast(used, forecast, levels):
    facts = MemoryFacts(model="m", where="memory", used_bytes=used, forecast_bytes=forecast)
    assert [finding.level for finding in check_memory(facts)] == levels


def test_variables_that_were_kept_are_a_warning_and_those_left_out_are_told():
    assert list(check_variables((), ())) == []
    (told,) = check_variables(("ALL_PROXY", "LD_PRELOAD"), ())
    assert (told.level, "ALL_PROXY, LD_PRELOAD" in told.text) == ("ok", True)
    kept, told = check_variables(("ALL_PROXY",), ("LD_PRELOAD",))
    assert (kept.level, "LD_PRELOAD" in kept.text, told.level) == ("warn", True, "ok")
    assert kept.code == "environment-breaks-libraries"


def test_what_the_installation_was_tested_with_is_no_warning():
    tested = {"m": ("LD_LIBRARY_PATH",), "n": ()}
    assert untested(["LD_LIBRARY_PATH"], ["m"], {"m": tested["m"]}) == set()
    assert untested([], ["m"], tested) == set()
    assert untested(["LD_PRELOAD"], ["m"], tested) == {"LD_PRELOAD"}
    assert untested([], ["m", "n"], tested) == {"LD_LIBRARY_PATH"}
    assert untested([], ["a folder"], tested) == set()
    assert untested(["LD_PRELOAD"], ["a folder"], {}) == {"LD_PRELOAD"}


def test_a_unit_that_starts_what_is_not_there_fails():
    finding = check_unit("/etc/a.service", "/old/bin/llava-pack", "/new/bin/llava-pack")
    assert (finding.level, finding.layer) == ("fail", "processes")
    assert finding.fix.startswith("/new/bin/llava-pack service install")


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        (["python", "-I", "-m", "llava_pack.engine.worker", "--model-dir", "/m"], True),
        (["python", "-I", "/p/llava_pack/profiles/launcher.py", "", "-m", "vllm"], True),
        (["python", "/home/ada/launcher.py"], False),
        ([], False),
    ],
)
def test_an_engine_is_known_by_its_command_line(words: list[str], *, engine: bool) -> None:
    assert is_engine(words) is engine
