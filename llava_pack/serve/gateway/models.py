"""The models of the latest bulletin, each over one engine or over several replicas."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from llava_pack.serve.feed import Bulletin
from llava_pack.serve.gateway.replicated import ReplicatedModel
from llava_pack.serve.gateway.routing import HERE
from llava_pack.serve.gateway.served import ServedEngine
from llava_pack.serve.port import Served


class ServedModels(Mapping[str, Served]):
    """The models of the latest bulletin, by name and in their order.

    Args:
        queue: requests of a model that may wait for a slot.
        on_change: called when what is told of them has changed.
    """

    def __init__(self, queue: int, on_change: Callable[[], None]) -> None:
        self._queue = queue
        self._on_change = on_change
        self._engines: dict[int, ServedEngine] = {}
        self._names: dict[str, Served] = {}

    def __getitem__(self, name: str) -> Served:
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._names))

    def __len__(self) -> int:
        return len(self._names)

    @property
    def in_flight(self) -> dict[int, int]:
        """Return how many requests are being answered, by engine."""
        return {number: engine.in_flight for number, engine in self._engines.items()}

    @property
    def reached(self) -> tuple[int, ...]:
        """Return the engines that would be asked."""
        return tuple(n for n, engine in self._engines.items() if engine.status.phase == "ready")

    def take(self, bulletin: Bulletin) -> None:
        """Take how the models stand; an engine that is told of no more serves no more."""
        told: dict[str, list[ServedEngine]] = {}
        for news in bulletin.models:
            if (engine := self._engines.get(news.engine)) is None:
                engine = ServedEngine(news, self._queue, self._on_change)
                self._engines[news.engine] = engine
            engine.take(news)
            told.setdefault(news.name, []).append(engine)
        self._names = {name: self._model(name, engines) for name, engines in told.items()}
        numbers = {news.engine for news in bulletin.models}
        for number, engine in self._engines.items():
            if number not in numbers:
                engine.leave()

    def _model(self, name: str, engines: Sequence[ServedEngine]) -> Served:
        """Return what serves a name; one that had replicas once stays what it is."""
        known = self._names.get(name)
        if not isinstance(known, ReplicatedModel):
            if [engine.replica for engine in engines] == [HERE]:
                return engines[0]
            known = ReplicatedModel(name)
        known.take(engines)
        return known

    async def let_go(self) -> None:
        """Forget the engines that serve no more, once nothing of theirs runs."""
        for number, engine in tuple(self._engines.items()):
            if engine.left and not engine.in_flight:
                del self._engines[number]
                await engine.close()
