"""How the processes of a run are looked after, as values."""

from dataclasses import dataclass

from llava_pack.serve.liveness import STALL_S

RESTS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a process rests after it ended the first time, the second and so on."""
QUEUE = 256
"""Requests that may wait for a model."""
_GATEWAY_S = 10.0
_PART = 6
_LOADING = 10
_QUIET = 30
_STARTING_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Care:
    """How engines and the gateway are looked after."""

    stall_s: float = STALL_S
    """How long an engine may take over one step."""
    grace_s: float = 5.0
    """How long a stall is shown by `/livez` before the engine is started again."""
    queue: int = QUEUE
    """Requests that may wait for a slot."""
    gateway_s: float | None = None
    """How long the gateway may give no sign of life; None goes by `stall_s`."""
    rests_s: tuple[float, ...] = RESTS_S
    """How long a process that ended rests before it is started again."""

    @property
    def silent_s(self) -> float:
        """How long the gateway may give no sign of life: more where the machine is slow.

        >>> Care().silent_s, Care(stall_s=120).silent_s, Care(stall_s=1).silent_s
        (10.0, 20.0, 10.0)
        """
        return max(_GATEWAY_S, self.stall_s / _PART) if self.gateway_s is None else self.gateway_s

    @property
    def loading_s(self) -> float:
        """How long an engine that loads may give no sign of life.

        Reading from a slow disk can keep all threads of a process waiting.
        """
        return _LOADING * self.stall_s

    @property
    def quiet_s(self) -> float:
        """How long an engine of others that loads may write nothing to its log.

        It tells nothing else, and is silent while it reads tens of gigabytes, or compiles.
        """
        return _QUIET * self.stall_s

    @property
    def starting_s(self) -> float:
        """How long a gateway may take until it listens."""
        return max(_STARTING_S, self.loading_s)
