"""Times the answers of one model by what its server counts, and who else was at work meanwhile."""

from llava_pack.health.host import spent
from llava_pack.health.server import ServerProbe
from llava_pack.health.throughput import Lap


class Pace:
    """Looks at a server's counters before and after questions; it asks none itself.

    Args:
        probe: of the server.
        server: the process that supervises the engines.
        model: that will be asked.
    """

    def __init__(self, probe: ServerProbe, server: int, model: str) -> None:
        self._probe, self._server, self._model = probe, server, model
        self._counted, self._spent = probe.counted(model), spent(server)

    def lap(self, asked: int) -> Lap:
        """Return how fast the answers since the last look came.

        Args:
            asked: how many there were.
        """
        before, since = self._counted, self._spent
        self._counted = self._probe.counted(self._model, before)
        self._spent = spent(self._server)
        told = before and self._counted and self._counted.token_s(before, asked)
        return Lap(token_s=told or None, others_part=self._spent.others_part(since))
