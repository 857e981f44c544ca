"""Bombs thrown at a gateway, while somebody with another key asks honest questions beside them."""

import json
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
import psutil  # type: ignore[import-untyped]

from tests.support import bombs
from tests.support.gateway import KEY, Gateway

_MIB = 1 << 20
_MOST_GROWTH_BYTES = 200 * _MIB
_MANY_TIMES = 5
_LEAST_S = 1.0
"""What no honest question is blamed for on a machine that does other things too."""


@dataclass
class Verdict:
    """What came of an attack."""

    tries: int
    quiet_s: float
    worst_s: float
    growth_bytes: int
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.tries} tries, {len(self.wrong)} wrong; an honest question took "
            f"{self.quiet_s:.3f} s alone and {self.worst_s:.3f} s at worst beside them; "
            f"the gateway grew by {self.growth_bytes / 1e6:.0f} MB"
        )


class Attack:
    """Throws bombs while the block runs."""

    def __init__(self, served: Gateway) -> None:
        self._served = served
        self._process = psutil.Process(served.gateway_pid())
        self._over = threading.Event()
        self._honest = bombs.asked(bombs.png(64, 48), max_tokens=4)
        self._wrong: list[str] = []
        self._times_s: list[float] = []
        self._memory: list[int] = []
        self._threads = [
            threading.Thread(target=self._ask_honestly),
            threading.Thread(target=self._watch_memory),
        ]
        self.tries = 0

    def __enter__(self) -> Self:
        self._http = self._served.client()
        self._each_door_takes_an_honest_one()
        self._quiet_s = max(self._asked() for _ in range(10))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._http.close()

    def json_at_every_door(self, name: str, body: bytes) -> None:
        """Throw a body at the two doors, and at the one beside them."""
        for path in ("/v1/chat/completions", "/worker_generate_stream", "/tokenize"):
            self._throw(f"{name} at {path}", path, body)

    def pictures_at_every_door(self, name: str, pictures: list[bytes]) -> None:
        """Throw pictures at the API, which the page uses too, and at LLaVA's door."""
        self._throw(f"{name} at the API", "/v1/chat/completions", bombs.asked(*pictures))
        self._throw(f"{name} at LLaVA's", "/worker_generate_stream", bombs.asked_llava(*pictures))

    def verdict(self) -> Verdict:
        """End the honest one's questions, and return what came of everything."""
        self._end()
        worst_s = max(self._times_s, default=0.0)
        growth = max(self._memory) - self._memory[0]
        if worst_s > max(_LEAST_S, _MANY_TIMES * self._quiet_s):
            self._wrong.append(
                f"an honest question took {worst_s:.2f} s, {self._quiet_s:.3f} alone"
            )
        if growth > _MOST_GROWTH_BYTES:
            self._wrong.append(f"the gateway grew by {growth / 1e6:.0f} MB")
        return Verdict(self.tries, self._quiet_s, worst_s, growth, self._wrong)

    def _end(self) -> None:
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _throw(self, name: str, path: str, body: bytes) -> None:
        self.tries += 1
        headers = {"Content-Type": "application/json"}
        try:
            answer = self._http.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            self._wrong.append(f"{name}: {error!r}")
            return
        if not _refused(answer):
            self._wrong.append(f"{name}: {answer.status_code} {answer.text[:200]}")

    def _each_door_takes_an_honest_one(self) -> None:
        """What is refused later is refused for what it is, and not for its shape."""
        honest, headers = bombs.png(64, 48), {"Content-Type": "application/json"}
        for path, body in (
            ("/v1/chat/completions", bombs.asked(honest)),
            ("/worker_generate_stream", bombs.asked_llava(honest)),
        ):
            assert "Picture 64x48" in self._http.post(path, content=body, headers=headers).text

    def _ask_honestly(self) -> None:
        while not self._over.is_set():
            try:
                self._times_s.append(self._asked())
            except (httpx.HTTPError, AssertionError) as error:
                self._wrong.append(f"an honest question: {error!r}"[:300])

    def _asked(self) -> float:
        """Return how long an honest question with a picture takes, by another key."""
        began_s = time.monotonic()
        with self._served.client(Authorization=f"Bearer {KEY}") as http:
            headers = {"Content-Type": "application/json"}
            answer = http.post("/v1/chat/completions", content=self._honest, headers=headers)
        assert answer.status_code == 200, answer.text
        assert "You said" in answer.text, answer.text
        return time.monotonic() - began_s

    def _watch_memory(self) -> None:
        while True:
            self._memory.append(self._process.memory_info().rss)
            if self._over.wait(0.02):
                return


def _refused(answer: httpx.Response) -> bool:
    """Return whether an answer is a refusal in the shape of its door."""
    if 400 <= answer.status_code < 500:
        return True
    frames = [frame for frame in answer.content.split(b"\0") if frame]
    if answer.status_code != 200 or b'"error_code"' not in answer.content:
        return False
    return bool(json.loads(frames[-1])["error_code"])
