"""The rules for the machine: GPUs, host, processes, silence. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from llava_pack.health.facts import (
    GpuFacts,
    GpusFacts,
    HostFacts,
    MemoryFacts,
    ProcessFacts,
    SilenceFacts,
)
from llava_pack.health.report import Finding, Layer

_LOW_DISK_BYTES = 1 << 30
_LOW_INODES = 1000
_LOW_MEMORY_BYTES = 512 << 20
_LOW_FILES = 256
_MARGIN_C = 3
_FORECAST_MARGIN = 1.15
_SHOWN = 5


def check_gpus(facts: GpusFacts, *, wanted: bool) -> Iterator[Finding]:
    """Judge the GPUs.

    Args:
        facts: what the driver told.
        wanted: whether what is installed is meant for a GPU.
    """
    if facts.error and wanted:
        yield Layer.GPU.fail(
            facts.error,
            why="without a working driver, no model runs on a GPU",
            fix="nvidia-smi; dmesg | tail",
            code="no-gpu-found",
        )
    elif facts.error:
        yield Layer.GPU.ok(f"none is needed, and none was checked: {facts.error}")
    elif not facts.gpus and wanted:
        yield Layer.GPU.fail(
            "no NVIDIA GPU was found",
            why="the bundle was built for one",
            fix="nvidia-smi; or serve on the CPU: llava-pack serve --device cpu",
            code="no-gpu-found",
        )
    elif not facts.gpus:
        yield Layer.GPU.ok("no NVIDIA GPU was found")
    for gpu in facts.gpus:
        faults = tuple(_faults(gpu))
        yield from faults
        if not faults:
            yield Layer.GPU.ok(f"{_name(gpu)}: {_state(gpu, facts)}")
    if facts.xids:
        yield Layer.GPU.warn(
            f"the kernel's log has GPU errors, the last: {facts.xids[-1].strip()}",
            why="memory errors or a GPU that fell off the bus lead to wrong answers or none",
            fix="llava-pack explain xid",
            code="xid",
        )


def _faults(gpu: GpuFacts) -> Iterator[Finding]:
    if gpu.ecc_uncorrected or gpu.remap_failed:
        yield Layer.GPU.fail(
            f"{_name(gpu)}: {gpu.ecc_uncorrected or 0} uncorrected memory errors",
            why="weights in faulty memory give wrong answers",
            fix=f"nvidia-smi -i {gpu.index} -q -d ECC,ROW_REMAPPER; have the card checked",
            code="xid",
        )
    if gpu.remap_pending:
        yield Layer.GPU.warn(
            f"{_name(gpu)}: a memory row remapping is pending",
            why="it is remapped when the GPU is reset",
            fix=f"stop the programs that use it, then: nvidia-smi --gpu-reset -i {gpu.index}",
            code="xid",
        )
    hot = (
        gpu.temperature_c is not None
        and gpu.slowdown_c is not None
        and gpu.temperature_c >= gpu.slowdown_c - _MARGIN_C
    )
    if gpu.throttles or hot:
        why = ", ".join(gpu.throttles) or f"{gpu.temperature_c} °C"
        yield Layer.GPU.warn(
            f"{_name(gpu)}: slowed down: {why}",
            why="answers are slow",
            fix=f"nvidia-smi -i {gpu.index} -q -d PERFORMANCE,TEMPERATURE; check the fans",
        )


def _name(gpu: GpuFacts) -> str:
    return f"GPU {gpu.index} {gpu.name}"


def _state(gpu: GpuFacts, facts: GpusFacts) -> str:
    parts = [f"driver {facts.driver}"]
    if gpu.free_bytes is not None and gpu.total_bytes is not None:
        parts.append(f"{gpu.free_bytes / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C")
    if gpu.processes:
        parts.append(f"used by {', '.join(str(one.pid) for one in gpu.processes[:_SHOWN])}")
    return ", ".join(parts)


def check_host(facts: HostFacts) -> Iterator[Finding]:
    """Judge the machine; one finding where all is well."""
    faults = tuple(_host_faults(facts))
    yield from faults
    if not faults:
        free = [
            f"{size / 1e9:.1f} GB {what}"
            for size, what in (
                (facts.disk_free_bytes, "of disk"),
                (facts.memory_available_bytes, "of memory"),
            )
            if size is not None
        ]
        yield Layer.HOST.ok(f"{' and '.join(free)} free")


def _host_faults(facts: HostFacts) -> Iterator[Finding]:
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < _LOW_DISK_BYTES:
        yield _low("disk", f"{facts.disk_free_bytes / 1e6:.0f} MB", "llava-pack gc; df -h")
    if facts.inodes_free is not None and facts.inodes_free < _LOW_INODES:
        yield _low("inodes of the disk", f"{facts.inodes_free}", "llava-pack gc; df -i")
    if (
        facts.memory_available_bytes is not None
        and facts.memory_available_bytes < _LOW_MEMORY_BYTES
    ):
        free = f"{facts.memory_available_bytes / 1e6:.0f} MB"
        yield _low("memory", free, "free -h; ps aux --sort=-rss | head", "out-of-memory-killer")
    if facts.open_files_limit is not None and 0 <= facts.open_files_limit < _LOW_FILES:
        yield _low("file handles", f"at most {facts.open_files_limit}", "ulimit -n 1024")
    if facts.release is not None and facts.now < facts.release:
        yield Layer.HOST.warn(
            "the clock is earlier than the release of what is installed",
            why="logs and receipts have wrong times",
            fix="timedatectl; sudo date -s 'YYYY-MM-DD HH:MM'",
            code="clock-wrong",
        )
    if facts.proxies and not facts.loopback_exempt:
        yield Layer.HOST.warn(
            f"{', '.join(facts.proxies)} is set, and no_proxy leaves out this machine",
            why="clients here reach the proxy in place of the server; llava-pack's own do not",
            fix="export no_proxy=localhost,127.0.0.1,::1",
            code="proxy-on-loopback",
        )


def _low(what: str, left: str, fix: str, code: str = "no-space-left") -> Finding:
    return Layer.HOST.warn(
        f"little {what} is left: {left}",
        why="writing, loading or answering will fail soon",
        fix=fix,
        code=code,
    )


def untested(
    kept: Iterable[str], models: Iterable[str], tested: Mapping[str, Collection[str]]
) -> frozenset[str]:
    """Return the variables that reach a server, and did not reach the test of what it serves.

    Args:
        kept: names that its `--keep-env` gave.
        models: that it serves.
        tested: by each installed model, the names that it was tested with: `bin/llava-pack` keeps
            all of them for every server.

    >>> sorted(untested(["A", "B"], ["m"], {"m": ["B"], "other": ["C"]}))
    ['A', 'C']
    """
    held = frozenset(name for names in tested.values() for name in names)
    return held.union(kept) - held.intersection(*(tested[one] for one in models if one in tested))


def check_variables(left_out: Sequence[str], kept: Sequence[str]) -> Iterator[Finding]:
    """Judge the variables that change how what serves runs.

    Args:
        left_out: names that `bin/llava-pack` took out.
        kept: names that reach a running server, whose installation was tested without them.
    """
    if kept:
        yield Layer.ENVIRONMENT.warn(
            f"kept in the environment: {', '.join(kept)}",
            why="the server runs with it, and the installation was tested without",
            fix="restart it without --keep-env, or install the bundle again with it",
            code="environment-breaks-libraries",
        )
    if left_out:
        names = ", ".join(left_out)
        yield Layer.ENVIRONMENT.ok(
            f"left out of the environment: {names}; serve --keep-env NAME keeps one"
        )


def check_unit(unit: str, started: str, program: str) -> Finding:
    """Judge a unit of systemd whose program is not there.

    Args:
        unit: its file.
        started: what it starts.
        program: the installation's own command, for the hint.
    """
    return Layer.PROCESSES.fail(
        f"{unit} starts {started}, which is not there",
        why="the service does not start; was the installation moved?",
        fix=f"{program} service install, with what ExecStart has after serve",
    )


def check_processes(facts: ProcessFacts, program: str, port: int) -> Iterator[Finding]:
    """Judge what runs of llava-pack.

    Args:
        facts: of the machine.
        program: the installation's own command, for the hints.
        port: the one that `serve` takes.
    """
    if facts.orphans:
        pids = " ".join(map(str, facts.orphans[:_SHOWN]))
        yield Layer.PROCESSES.warn(
            f"orphaned engines, without a server: {pids}",
            why="they hold memory and serve no requests",
            fix=f"kill {pids}",
        )
    if facts.port_holder:
        yield Layer.PROCESSES.warn(
            f"port {port} is in use by {facts.port_holder}",
            why="serve cannot use it, and a tunnel to it leads elsewhere",
            fix=f"{program} serve --port {port + 1}",
            code="port-taken",
        )
    if not (facts.orphans or facts.port_holder):
        text = f"{facts.servers} serving, no orphaned engines"
        yield Layer.PROCESSES.ok(text)


def check_memory(facts: MemoryFacts) -> Iterator[Finding]:
    """Judge what an engine takes against its forecast; nothing is said where one is not known."""
    if facts.used_bytes is None or not facts.forecast_bytes:
        return
    ratio = facts.used_bytes / facts.forecast_bytes
    text = f"{facts.model}: {facts.used_bytes / 1e9:.2f} GB of {facts.where}"
    text += f", {100 * ratio:.0f} % of the forecast"
    if ratio <= _FORECAST_MARGIN:
        yield Layer.ENGINE.ok(text)
        return
    yield Layer.ENGINE.warn(
        text,
        why="more than planned: other requests or models may not fit",
        fix="llava-pack serve --slots 1, or restart it at a quiet time",
        code="out-of-gpu-memory",
    )


def check_silence(facts: SilenceFacts) -> Finding:
    """Judge whether the server speaks to anybody outside."""
    if facts.error:
        text = f"its connections cannot be checked: {facts.error}"
        return Layer.SILENCE.unknown(text)
    if facts.connections:
        return Layer.SILENCE.fail(
            f"connections leave this machine: {', '.join(facts.connections[:_SHOWN])}",
            why="llava-pack itself never connects to other machines",
            fix="llava-pack stop; llava-pack support-bundle, and tell your security team",
        )
    text = f"no connection of its {facts.processes} processes leaves this machine"
    return Layer.SILENCE.ok(text)
