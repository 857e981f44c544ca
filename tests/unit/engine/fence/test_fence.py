"""The rules of fences: what is planned, what the filter decides, and how it is told."""

import errno
import os
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.engine.fence import calls, landlock, seccomp
from llava_pack.engine.fence.blame import blamed, passed_over, suspected
from llava_pack.engine.fence.calls import AARCH64, ARCHITECTURES, X86_64, Architecture
from llava_pack.engine.fence.home import settle
from llava_pack.engine.fence.place import Place, this_place, with_targets
from llava_pack.engine.fence.plan import decoder_fence, engine_fence, gateway_fence
from llava_pack.engine.fence.value import OFF, Fence, Standing
from llava_pack.format.errors import CheckpointError, PreflightError, ServeError
from llava_pack.llava_serve.fencing import upstream_fence

PLACE = Place(python=(Path("/venv"),), programs=(Path("/venv/bin/python3"),))
GPU = replace(PLACE, devices=(Path("/dev/nvidia0"), Path("/dev/nvidia-uvm")))
WHOLE = Standing(landlock=7, seccomp=True)
ENGINE = engine_fence(PLACE, [Path("/m")], Path("/run/home"), gpu=False)
ON_GPU = engine_fence(GPU, [Path("/m")], Path("/run/home"), gpu=True)
GATEWAY = gateway_fence(PLACE, home=Path("/run/home"), write=[Path("/run/logs")])
DECODER = decoder_fence(PLACE)
PORTS = (21001, 21002, 7860)
UPSTREAM = upstream_fence(PLACE, [Path("/m")], Path("/run/w"), ports=PORTS, gpu=False)
UPSTREAM_GPU = upstream_fence(GPU, [Path("/m")], Path("/run/w"), ports=PORTS, gpu=True)
FENCES = {
    "engine": ENGINE,
    "gpu": ON_GPU,
    "gateway": GATEWAY,
    "decoder": DECODER,
    "upstream": UPSTREAM,
    "upstream gpu": UPSTREAM_GPU,
}
PID = 4242
ALLOW, EPERM, ENOSYS = "allow", "EPERM", "ENOSYS"


# --- what is planned


@pytest.mark.parametrize("name", FENCES)
def test_nobody_is_let_into_homes_or_secrets(name):
    fence = FENCES[name]
    opened = [*fence.read, *fence.run, *fence.write, *fence.devices]
    kept = ("/root", "/home", "/etc/shadow", "/etc/passwd", "/etc/ssl/private", "/var", "/proc/1")
    kept += (
        "/opt",
        "/srv",
        "/mnt",
        "/media",
        "/run/user",
        "/run/docker.sock",
        "/boot",
        "/dev/kmsg",
    )
    for path in map(Path, kept):
        allowed = {Path("/proc")} if "gpu" in name else set()  # said so where it is planned
        reached = {one for one in opened if path.is_relative_to(one) or one.is_relative_to(path)}
        assert reached <= allowed, path


def test_an_engine_writes_its_home_and_nothing_else_and_starts_nothing():
    assert ENGINE.write == (Path("/run/home"),)
    assert (ENGINE.run, ENGINE.starts, ENGINE.sockets) == ((), False, "none")
    assert Path("/m") in ENGINE.read


def test_on_a_gpu_its_devices_are_let_through_and_what_its_driver_needs():
    assert {Path("/dev/nvidia0"), Path("/proc/self/task")} <= set(ON_GPU.devices)
    assert (ON_GPU.sockets, ON_GPU.driver) == ("listen", True)
    with_mps = replace(GPU, mps=Path("/tmp/nvidia-mps"))
    fence = engine_fence(with_mps, [], Path("/run/home"), gpu=True)
    assert (fence.sockets, Path("/tmp/nvidia-mps") in fence.devices) == ("unix", True)


def test_llavas_own_programs_get_what_an_engine_gets_and_the_ports_of_their_run():
    same = replace(UPSTREAM, sockets="none", ports=())
    assert same == engine_fence(PLACE, [Path("/m")], Path("/run/w"), gpu=False)
    assert (UPSTREAM.ports, UPSTREAM.sockets, UPSTREAM.starts) == (PORTS, "tcp", False)
    assert (UPSTREAM_GPU.ports, UPSTREAM_GPU.sockets) == (PORTS, "unix and tcp")


def test_a_screens_card_is_no_gpu():
    assert not replace(PLACE, devices=(Path("/dev/dri/card0"),)).has_gpu
    assert GPU.has_gpu


def test_this_place_has_no_more_of_a_checkout_than_the_package():
    place = this_place({"LD_LIBRARY_PATH": "/opt/cuda/lib64::relative"})
    root = Path(__file__).resolve().parents[4]
    assert root not in place.python
    assert root / "llava_pack" in place.python
    assert place.libraries == (Path("/opt/cuda/lib64"),)


def test_what_links_lead_to_is_let_through_file_by_file(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to("../blobs/a")
    (tmp_path / "model" / "gone").symlink_to("nowhere")
    found = with_targets([tmp_path / "model"])
    assert found == (tmp_path / "model", tmp_path / "blobs" / "a")


def test_rights_follow_what_a_path_is_for():
    fence = Fence(read=(Path("r"),), run=(Path("x"),), write=(Path("w"),), devices=(Path("d"),))
    rights = {path.name: given for path, given in landlock.rules(fence)}
    makes, writes, executes = 1 << 8, 1 << 1, 1 << 0
    assert [name for name, given in rights.items() if given & makes] == ["w"]
    assert [name for name, given in rights.items() if given & writes] == ["w", "d"]
    assert [name for name, given in rights.items() if given & executes] == ["x"]


# --- what the filter decides: a machine of its own runs it, for both architectures


def run(program, architecture: Architecture, number: int, arguments=(), audit=None) -> str:
    """Return what a filter decides, by an interpreter of the few instructions that there are."""
    padded = [*(one & (2**64 - 1) for one in arguments), *[0] * (6 - len(arguments))]
    audit = architecture.audit if audit is None else audit
    data = struct.pack("<IIQ6Q", number, audit, 0, *padded)
    at, accumulator = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x06:
            told = {0x7FFF0000: ALLOW, 0x50000 | errno.EPERM: EPERM, 0x50000 | errno.ENOSYS: ENOSYS}
            return told[operand]
        else:
            holds = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[code]
            at += yes if holds else no


def decided(fence: Fence, architecture: Architecture, call: str, *arguments: int) -> str:
    program = seccomp.assemble(fence, architecture, PID)
    return run(program, architecture, architecture.numbers[call], arguments)


BOTH = pytest.mark.parametrize("architecture", [X86_64, AARCH64], ids=["x86_64", "aarch64"])


@BOTH
@pytest.mark.parametrize("name", FENCES)
def test_what_is_refused_to_all_is_refused(name, architecture):
    for call in seccomp._ALWAYS:
        if call in architecture.numbers:
            assert decided(FENCES[name], architecture, call) == EPERM, call


@BOTH
@pytest.mark.parametrize("name", FENCES)
def test_what_is_not_named_is_allowed(name, architecture):
    named = set(architecture.numbers.values())
    program = seccomp.assemble(FENCES[name], architecture, PID)
    for number in range(480):
        if number not in named:
            assert run(program, architecture, number) == ALLOW, number


@BOTH
def test_calls_of_another_architecture_are_refused(architecture):
    program = seccomp.assemble(ENGINE, architecture, PID)
    for audit in (0x40000003, 0x40000028, X86_64.audit ^ AARCH64.audit):  # i386, arm
        assert run(program, architecture, 1, audit=audit) == EPERM
    x32 = run(program, architecture, 0x40000000 | 39)
    assert x32 == (EPERM if architecture is X86_64 else ALLOW)


@BOTH
def test_sockets(architecture):
    stream, datagram, packets = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    for fence, family, kind, expected in (
        (ENGINE, socket.AF_UNIX, stream, EPERM),
        (ON_GPU, socket.AF_UNIX, packets | flags, ALLOW),
        (ON_GPU, socket.AF_INET, stream, EPERM),
        (GATEWAY, socket.AF_UNIX, stream | flags, ALLOW),
        (GATEWAY, socket.AF_UNIX, datagram, EPERM),
        (GATEWAY, socket.AF_INET6, stream, EPERM),
        (GATEWAY, socket.AF_NETLINK, socket.SOCK_RAW, EPERM),
        (DECODER, socket.AF_UNIX, stream, EPERM),
        (UPSTREAM, socket.AF_INET, stream | flags, ALLOW),
        (UPSTREAM, socket.AF_INET, datagram, EPERM),
        (UPSTREAM, socket.AF_INET, packets, EPERM),
        (UPSTREAM, socket.AF_INET, socket.SOCK_RAW, EPERM),
        (UPSTREAM, socket.AF_INET6, stream, EPERM),
        (UPSTREAM, socket.AF_UNIX, stream, EPERM),
        (UPSTREAM_GPU, socket.AF_UNIX, stream, ALLOW),
        (UPSTREAM_GPU, socket.AF_UNIX, datagram, EPERM),
        (UPSTREAM_GPU, socket.AF_INET, stream, ALLOW),
        (UPSTREAM_GPU, socket.AF_INET, datagram, EPERM),
    ):
        assert decided(fence, architecture, "socket", family, kind) == expected, (family, kind)
    for fence, expected in ((ENGINE, EPERM), (ON_GPU, EPERM), (GATEWAY, ALLOW), (UPSTREAM, ALLOW)):
        assert decided(fence, architecture, "connect") == expected
    assert decided(ENGINE, architecture, "socketpair", socket.AF_UNIX, stream | flags) == ALLOW
    assert decided(ENGINE, architecture, "socketpair", socket.AF_UNIX, datagram) == EPERM


@BOTH
@pytest.mark.parametrize("fence", [UPSTREAM, UPSTREAM_GPU], ids=["cpu", "gpu"])
def test_there_is_no_way_round_the_ports_that_landlock_holds(fence, architecture):
    """Landlock hears of connect and bind, of TCP alone."""
    fast_open, no_signal = 0x20000000, 0x4000
    for protocol, expected in ((0, ALLOW), (6, ALLOW), (262, EPERM), (132, EPERM), (256, EPERM)):
        given = (socket.AF_INET, socket.SOCK_STREAM, protocol)
        assert decided(fence, architecture, "socket", *given) == expected, protocol
    for call, before in (("sendto", (3, 0, 0)), ("sendmsg", (3, 0)), ("sendmmsg", (3, 0, 1))):
        assert decided(fence, architecture, call, *before, no_signal) == ALLOW
        assert decided(fence, architecture, call, *before, no_signal | fast_open) == EPERM
    for level, option, expected in ((6, 31, EPERM), (6, 1, ALLOW), (1, 31, ALLOW)):
        assert decided(fence, architecture, "setsockopt", 3, level, option) == expected


@BOTH
def test_threads_may_be_started_programs_where_they_are_meant_namespaces_never(architecture):
    thread, process, user = 0x003D0F00, 0x01200011, 0x10000000
    for fence, flags, expected in (
        (ENGINE, thread, ALLOW),
        (ENGINE, process, EPERM),
        (GATEWAY, process, ALLOW),
        (GATEWAY, process | user, EPERM),
        (ENGINE, thread | user, EPERM),
    ):
        assert decided(fence, architecture, "clone", flags) == expected
    assert decided(GATEWAY, architecture, "clone3") == ENOSYS, "libc then takes clone"
    assert decided(ENGINE, architecture, "execve") == EPERM
    assert decided(GATEWAY, architecture, "execve") == ALLOW


@BOTH
def test_signals_and_limits_are_for_oneself_where_nothing_is_started(architecture):
    assert decided(ENGINE, architecture, "kill", PID) == ALLOW
    assert decided(ENGINE, architecture, "kill", PID + 1) == EPERM
    assert decided(ENGINE, architecture, "kill", -1) == EPERM
    assert decided(ENGINE, architecture, "tgkill", PID, 7) == ALLOW
    assert decided(GATEWAY, architecture, "kill", PID + 1) == ALLOW
    assert decided(ENGINE, architecture, "prlimit64", 0) == ALLOW
    assert decided(ENGINE, architecture, "prlimit64", 1) == EPERM
    assert decided(ENGINE, architecture, "fcntl", 3, 8) == EPERM  # F_SETOWN
    assert decided(ENGINE, architecture, "fcntl", 3, 4) == ALLOW  # F_SETFL
    assert decided(GATEWAY, architecture, "ioctl", 0, 0x5412) == EPERM  # TIOCSTI
    assert decided(GATEWAY, architecture, "ioctl", 0, 0x5401) == ALLOW  # TCGETS


@BOTH
def test_a_call_that_is_taken_off_the_list_is_allowed(architecture, monkeypatch):
    fewer = tuple(call for call in seccomp._ALWAYS if call != "ptrace")
    assert decided(ENGINE, architecture, "ptrace") == EPERM
    monkeypatch.setattr(seccomp, "_ALWAYS", fewer)
    assert decided(ENGINE, architecture, "ptrace") == ALLOW


def test_numbers_are_those_of_this_machines_headers():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        pytest.skip("no headers of the kernel on this machine")
    words = [line.split() for line in header.read_text().splitlines() if "__NR_" in line]
    known = {row[1].removeprefix("__NR_"): int(row[2]) for row in words if len(row) == 3}
    ours = {name: number for name, number in X86_64.numbers.items() if name in known}
    assert len(ours) > 80
    assert ours == {name: known[name] for name in ours}


def test_each_call_that_is_refused_has_a_number():
    nowhere = {"fork", "vfork", "chmod", "chown", "lchown", "utime", "utimes", "futimesat"}
    nowhere |= {"iopl", "ioperm"}  # of the generic table
    for name, architecture in ARCHITECTURES.items():
        wanted = {*seccomp._ALWAYS, *seccomp._SHARED, *seccomp._STARTING, *seccomp._TO_SELF}
        missing = wanted - set(architecture.numbers)
        assert missing == (nowhere if name == "aarch64" else set())
    assert len(set(calls.X86_64.numbers.values())) == len(calls.X86_64.numbers)


# --- how it is told


def test_a_standing_crosses_and_what_a_later_version_adds_is_not_looked_at():
    told = {"landlock": 9, "seccomp": True, "why": "", "of_tomorrow": 1}
    assert Standing.from_wire(told) == Standing(landlock=9, seccomp=True)
    assert Standing.from_wire(None) is None
    assert str(OFF) == "none: switched off by --no-fence"
    assert not OFF.whole


def test_only_a_refusal_is_put_down_to_the_fence():
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/srv/x")
    told = blamed(refused, WHOLE, gpu=False)
    assert (type(told), "the fence was active" in str(told)) == (ServeError, True)
    assert "--no-fence" in told.hint
    assert "--no-fence" not in blamed(refused, OFF, gpu=False).hint
    plain = CheckpointError("no such file")
    assert blamed(plain, WHOLE, gpu=True) is plain
    caused = CheckpointError("cannot be read", hint="fetch it")
    caused.__cause__ = refused
    told = blamed(caused, WHOLE, gpu=False)
    assert type(told) is CheckpointError
    assert told.hint.startswith("fetch it\n")


def test_last_words_of_a_refusal_may_be_the_fences_doing():
    said = "PermissionError: [Errno 13] Permission denied: '/srv/x'"
    assert "--no-fence" in suspected(said, WHOLE)
    assert suspected(said, OFF) == suspected("no such checkpoint", WHOLE) == ""


def test_a_gpu_that_is_not_found_may_be_the_fences_doing():
    missing = PreflightError("no cuda device was found")
    assert "--no-fence" in blamed(missing, WHOLE, gpu=True).hint
    assert blamed(missing, WHOLE, gpu=False) is missing
    assert "--no-fence" in passed_over("cpu", gpu=True)
    assert passed_over("cuda", gpu=True) == passed_over("cpu", gpu=False) == ""


def test_what_libraries_keep_goes_into_the_private_folder(tmp_path):
    environment = {"HOME": "/home/ada", "SSL_CERT_FILE": "/home/ada/ca.pem", "USER": "ada"}
    home = tmp_path / "home"
    home.mkdir()
    (home / "left").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", None)
        settle(home, environment)
    assert environment["USER"] == "ada"
    assert "SSL_CERT_FILE" not in environment
    places = {Path(value) for name, value in environment.items() if name != "USER"}
    assert all(place.is_dir() and place.is_relative_to(home) for place in places)
    assert not (home / "left").exists()
    assert home.stat().st_mode & 0o777 == 0o700
