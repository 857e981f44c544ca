"""What of the machine serving depends on: disk, memory, limits, clock, proxies, processes."""

import ipaddress
import os
import resource
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from llava_pack.format.errors import reason_of
from llava_pack.health.facts import HostFacts, ProcessFacts, SilenceFacts, Spent

_LOOPBACK = ("127.", "::1", "::ffff:127.")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_ENGINE = "llava_pack.engine.worker"
_LAUNCHER = "/llava_pack/profiles/launcher.py"
"""Runs engines of others, whose memory is not compared: they take all that there is."""


def probe_host(prefix: Path, release: int | None, environ: Mapping[str, str]) -> HostFacts:
    """Return the facts of this machine.

    Args:
        prefix: of the installation; its disk is looked at.
        release: UTC seconds of the newest installed bundle.
        environ: the environment whose proxy variables count.
    """
    disk = _disk(prefix)
    return HostFacts(
        disk_free_bytes=disk.f_bavail * disk.f_frsize if disk else None,
        inodes_free=disk.f_favail if disk and disk.f_files else None,
        memory_available_bytes=psutil.virtual_memory().available,
        open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        now=int(time.time()),
        release=release,
        proxies=proxies(environ),
        loopback_exempt=loopback_exempt(environ),
    )


def proxies(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the proxy variables that are set.

    >>> proxies({"HTTPS_PROXY": "http://proxy:3128", "https_proxy": ""})
    ('HTTPS_PROXY',)
    """
    return tuple(name for name in sorted(environ) if name.lower() in _PROXIES and environ[name])


def loopback_exempt(environ: Mapping[str, str]) -> bool:
    """Return whether `no_proxy` leaves out this machine under both of its names.

    >>> loopback_exempt({"no_proxy": "localhost, 127.0.0.1"}), loopback_exempt({"no_proxy": "a.b"})
    (True, False)
    """
    said = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = {name.strip() for name in said.split(",")}
    return "*" in names or {"localhost", "127.0.0.1"} <= names


def probe_processes(servers: Iterable[int], port_holder: str) -> ProcessFacts:
    """Return which processes of llava-pack run.

    Args:
        servers: process numbers of the servers that hold their run state.
        port_holder: who listens where `serve` would, where no server runs; else empty.
    """
    known = set(servers)
    orphans = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if is_engine(process.info["cmdline"] or ()) and not _has_server(process)
    ]
    return ProcessFacts(servers=len(known), orphans=tuple(sorted(orphans)), port_holder=port_holder)


def is_engine(words: Iterable[str]) -> bool:
    """Return whether a command line is that of an engine, of llava-pack's own or of another.

    >>> is_engine(["python", "-I", "/p/llava_pack/profiles/launcher.py", "", "-m", "vllm"])
    True
    """
    return any(word == _ENGINE or word.endswith(_LAUNCHER) for word in words)


def engine_bytes(server: int, model: str) -> int | None:
    """Return what the engine of a model holds in memory of its own, None where it is not seen.

    Args:
        server: the process that supervises it.
        model: the name of its folder, which is among its arguments.
    """
    try:
        mine = _engines_of(server, model)
        return sum(one.memory_info().rss for one in mine) if mine else None
    except psutil.Error:
        return None


def engine_device(server: int, model: str) -> str:
    """Return the device that the engine of a model was told to take, empty where it is not seen."""
    try:
        (engine,) = _engines_of(server, model)
        words = engine.cmdline()
        return str(words[words.index("--device") + 1])
    except (psutil.Error, ValueError, IndexError):
        return ""


def spent(server: int) -> Spent:
    """Return what the machine's CPUs did so far, and what of that was done for llava-pack.

    Args:
        server: the process that supervises the engines.
    """
    times = psutil.cpu_times()
    try:
        root = psutil.Process(server)
        family = [psutil.Process(), root, *root.children(recursive=True)]
        own_s = sum(sum(one.cpu_times()[:2]) for one in family)
    except psutil.Error:
        own_s = 0.0
    return Spent(
        at_s=time.monotonic(),
        idle_s=times.idle + getattr(times, "iowait", 0.0),
        own_s=own_s,
        cpus=psutil.cpu_count() or 1,
    )


def engine_pids(server: int) -> frozenset[int]:
    """Return the process numbers of a server's engines."""
    try:
        return frozenset(engine.pid for engine in _engines(server))
    except psutil.Error:
        return frozenset()


def _engines(server: int) -> list[psutil.Process]:
    family = psutil.Process(server).children(recursive=True)
    return [one for one in family if _ENGINE in one.cmdline()]


def _engines_of(server: int, model: str) -> list[psutil.Process]:
    return [
        engine
        for engine in _engines(server)
        if any(model in Path(word).parts for word in engine.cmdline())
    ]


def probe_silence(server: int, ports: Iterable[int], network: str = "") -> SilenceFacts:
    """Return the connections of a server and its engines that leave this machine.

    Args:
        server: its process number.
        ports: where it listens: what came in there is not its own doing.
        network: of the machines that hold its model together; empty for none.
    """
    own = set(ports)
    try:
        root = psutil.Process(server)
        family = [root, *root.children(recursive=True)]
        found = [
            f"{process.pid} {link.raddr.ip}:{link.raddr.port}"
            for process in family
            for link in process.net_connections(kind="inet")
            if link.raddr and not _here(link.raddr.ip) and link.laddr.port not in own
            if not (network and _within(link.raddr.ip, network))
        ]
    except psutil.Error as error:
        return SilenceFacts(processes=0, connections=(), error=reason_of(error))
    return SilenceFacts(processes=len(family), connections=tuple(found))


def _within(address: str, network: str) -> bool:
    """Return whether an address is one of a network."""
    plain = ipaddress.ip_address(address.partition("%")[0])
    return plain in ipaddress.ip_network(network)


def _has_server(engine: psutil.Process) -> bool:
    """Return whether an engine's parent is a Python program: a process adopted by init is not."""
    try:
        parent = engine.parent()
        return parent is not None and any("python" in word for word in parent.cmdline()[:1])
    except psutil.Error:
        return True  # gone meanwhile, or another account's: not ours to judge


def _here(address: str) -> bool:
    """Return whether an address is one of this machine's own."""
    if address.startswith(_LOOPBACK):
        return True
    return any(
        address == own.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for own in addresses
    )


def _disk(prefix: Path) -> "os.statvfs_result | None":
    place = next((parent for parent in (prefix, *prefix.parents) if parent.is_dir()), None)
    try:
        return os.statvfs(place) if place else None
    except OSError:
        return None
