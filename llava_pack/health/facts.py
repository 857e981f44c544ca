"""What probes find out, as values: the checks decide on them without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llava_pack.health.known_answers import Grade


@dataclass(frozen=True, kw_only=True)
class InstalledFacts:
    """Files of the active generation."""

    recipe: str
    generation: int
    program: str
    """The installation's own command, for the hints."""
    files: int
    size_bytes: int
    changed: tuple[str, ...]
    """Files that look different, or in a deep check are different, from what was verified."""
    touched: tuple[str, ...] = ()
    """Files whose links, owner or permissions alone changed; their bytes were not read again."""
    deep: bool


@dataclass(frozen=True, kw_only=True)
class EnvironmentFacts:
    """Packages of the generation's environment."""

    python: str
    """Version of its interpreter; empty where it does not run."""
    wanted: Mapping[str, str]
    """Versions by normalised name, as the bundle's wheels say."""
    found: Mapping[str, str]
    """Versions by normalised name, as installed."""
    changed: tuple[str, ...] = ()
    """Files of packages that are not as they were installed; only in a deep check."""
    failed_imports: Mapping[str, str] = field(default_factory=dict)
    """By module, the last line of what its import said; only in a deep check."""


@dataclass(frozen=True, kw_only=True)
class FenceFacts:
    """Which fence stands around a process, as it says itself."""

    said: str
    """One line."""
    whole: bool
    """Whether files and system calls are held."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model of the running server."""

    phase: str
    detail: str
    device: str | None
    running: int
    waiting: int
    stalled_s: float
    stalled: bool = False
    """Whether that is longer than the server lets it be: `serve --stall-s`."""
    precision: str = ""
    slots: int = 1
    context_tokens: int = 0
    fence: FenceFacts | None = None
    """Around its engine; None where it does not tell, or has not been ready yet."""
    engine: str = ""
    """Which one of others serves it, with its version; empty for llava-pack's own."""


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """The running server, as its own probes tell."""

    url: str
    pid: int
    error: str = ""
    """Why it could not be asked; empty where it answered."""
    live: bool = False
    ready: bool = False
    has_page: bool = False
    fence: FenceFacts | None = None
    """Around the gateway; None where it does not tell."""
    programs: Mapping[str, FenceFacts] | None = None
    """Around each of LLaVA's own programs that has told; None where llava-pack's engine serves."""
    models: Mapping[str, ModelFacts] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """What `/` answered."""

    status: int
    is_page: bool
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class AnswerFacts:
    """One known answer through the API."""

    model: str
    grade: Grade
    device: str | None = None
    ttft_s: float = 0.0
    tokens_per_s: float | None = None
    error: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """One GPU, as its driver tells; None is what it does not tell."""

    index: int
    name: str
    total_bytes: int | None
    free_bytes: int | None
    temperature_c: int | None
    slowdown_c: int | None
    """The temperature at which it becomes slow."""
    throttles: Sequence[str]
    """Why its clocks are held down, heat and power only."""
    ecc_uncorrected: int | None
    """Memory errors since the driver was loaded that could not be corrected."""
    remap_pending: bool | None
    remap_failed: bool | None
    processes: tuple[GpuProcess, ...]


@dataclass(frozen=True, kw_only=True)
class GpusFacts:
    """All GPUs of the machine."""

    driver: str | None = None
    """Its version; None where there is no NVIDIA driver."""
    error: str = ""
    """Why the driver could not be asked."""
    gpus: tuple[GpuFacts, ...] = ()
    xids: tuple[str, ...] = ()
    """The last lines of the kernel's log about GPU errors."""


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """The machine, as far as serving depends on it; None is what could not be found out."""

    disk_free_bytes: int | None
    inodes_free: int | None
    memory_available_bytes: int | None
    open_files_limit: int | None
    now: int
    """UTC seconds by the machine's clock."""
    release: int | None
    """UTC seconds at which the newest installed bundle was released."""
    proxies: tuple[str, ...]
    """Names of proxy variables that are set."""
    loopback_exempt: bool
    """Whether the proxy variables leave this machine's own addresses out."""


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """What runs of llava-pack on this machine."""

    servers: int
    """Servers that hold their run state."""
    orphans: tuple[int, ...]
    """Process numbers of engines whose server is gone."""
    port_holder: str
    """Who listens on the port that `serve` takes, where no server of ours runs; else empty."""


@dataclass(frozen=True, kw_only=True)
class MemoryFacts:
    """What the engine of one model takes, and what was forecast for it."""

    model: str
    where: str
    """`GPU` or `memory`."""
    used_bytes: int | None
    """None where it cannot be seen."""
    forecast_bytes: int | None
    """None where the bundle forecasts nothing for this precision."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the machine's CPUs did so far, in seconds; only differences mean something."""

    at_s: float
    idle_s: float
    own_s: float
    """For the server, its engines and this check."""
    cpus: int

    def others_part(self, before: "Spent") -> float:
        """Return the part of the CPUs that other programs took since, 0 to 1.

        >>> then = Spent(at_s=10, idle_s=0, own_s=0, cpus=2)
        >>> Spent(at_s=20, idle_s=9, own_s=6, cpus=2).others_part(then)
        0.25
        """
        whole_s = self.cpus * (self.at_s - before.at_s)
        known_s = self.idle_s - before.idle_s + self.own_s - before.own_s
        return max(0.0, 1 - known_s / whole_s) if whole_s else 0.0


@dataclass(frozen=True, kw_only=True)
class SilenceFacts:
    """Connections of the server and its engines."""

    processes: int
    connections: tuple[str, ...]
    """Those that leave this machine, as `pid address`; clients that came in are not among them."""
    error: str = ""
    """Why it could not be found out."""
