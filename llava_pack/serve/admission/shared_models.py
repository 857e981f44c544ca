"""The models of a server, each with its line before it."""

from collections.abc import Iterator, Mapping

from llava_pack.serve.admission.body_budget import Budget
from llava_pack.serve.admission.fair_models import Shared
from llava_pack.serve.care import QUEUE
from llava_pack.serve.port import MOST_RETRY_S, Served


class SharedModels(Mapping[str, Shared]):
    """Models that come and go, each with its line before it.

    Args:
        models: by name; looked at anew with every request.
        queue: how many requests may wait for each.
        bodies: the room for bodies.
    """

    def __init__(
        self, models: Mapping[str, Served], queue: int = QUEUE, bodies: Budget | None = None
    ) -> None:
        self._models = models
        self._queue = queue
        self.bodies = bodies or Budget(0)
        self._shared: dict[str, Shared] = {}

    def __getitem__(self, name: str) -> Shared:
        model = self._models[name]
        shared = self._shared.get(name)
        if shared is None or not shared.stands_for(model):
            kept = {name: one for name, one in self._shared.items() if name in self._models}
            self._shared = {**kept, name: (shared := Shared(model, self._queue, self.bodies))}
        return shared

    def admit_body(self, who: str) -> None:
        """Refuse a request whose model is not known yet where no model would let it wait.

        Raises:
            LaterError: none would.
        """
        models = list(self.values())
        if models and not any(shared.takes(who) for shared in models):
            models[0].admit_waiting(who)

    def retry_s(self, who: str) -> float:
        """Return after how many seconds a caller's body may find room."""
        return min((shared.retry_s(who) for shared in self.values()), default=MOST_RETRY_S)

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
