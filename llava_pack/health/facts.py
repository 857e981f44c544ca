"""What probes find out, as values: the checks decide on them without I/O."""

from collections.abc import Mapping
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
    failed_imports: Mapping[str, str] = field(default_factory=dict)
    """By module, the last line of what its import said; only in a deep check."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model of the running server."""

    phase: str
    detail: str
    device: str | None
    running: int
    waiting: int
    stalled_s: float


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
