"""What is missing goes out in one stream, and the answers come back meanwhile."""

import io
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from llava_pack.client.remote_host import RemoteScript
from llava_pack.client.sending.answers import Answers
from llava_pack.client.sending.cargo import Cargo, CargoFile, damage
from llava_pack.client.sending.plan import FarSide, SendPlan, Shipment, plan_sending
from llava_pack.format.errors import FetchError, IntegrityError, reason_of
from llava_pack.format.progress import Progress
from llava_pack.target import inventory

_PIECE_BYTES = 1 << 20
_TRIES = 3
"""How often a file is sent whose bytes arrive wrong."""


@dataclass
class Throttle:
    """Holds a stream to a rate; without one, to nothing.

    Attributes:
        bytes_per_s: None for as fast as it goes.
    """

    bytes_per_s: float | None
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    _due_s: float = 0.0

    def piece_bytes(self) -> int:
        """Return how much may be sent in one go: a quarter of a second's worth."""
        if self.bytes_per_s is None:
            return _PIECE_BYTES
        return max(1024, min(_PIECE_BYTES, int(self.bytes_per_s / 4)))

    def passed(self, size_bytes: int) -> None:
        """Wait until so many bytes more are due."""
        if self.bytes_per_s is not None:
            now_s = self.clock()
            self._due_s = max(self._due_s, now_s) + size_bytes / self.bytes_per_s
            if self._due_s > now_s:
                self.wait(self._due_s - now_s)


@dataclass
class Sending:
    """The sending of one bundle through one running receiver."""

    cargo: Cargo
    far: FarSide
    script: RemoteScript
    answers: Answers
    progress: Progress
    throttle: Throttle
    sent_bytes: int = 0
    tries: dict[str, int] = field(default_factory=dict)

    def run(self) -> SendPlan:
        """Send until nothing is missing, and return what was planned first.

        Raises:
            BrokenPipeError: the connection broke, or the receiver ended.
            IntegrityError: a file is damaged here, or missing here and there.
            FetchError: a file arrives wrong again and again.
        """
        first = plan = plan_sending(self.cargo.files, self.far)
        if plan.size_bytes:
            self.progress.start("sending", plan.size_bytes)
        while plan.files or plan.copies:
            self._need_here(plan)
            self._send(plan)
            plan = plan_sending(self.cargo.files, self._now())
        self.script.write(b"end\n")
        if first.size_bytes:
            self.progress.done()
        return first

    def _send(self, plan: SendPlan) -> None:
        for file in plan.copies:
            self.script.write(f"copy {file.sha256} {file.path}\n".encode())
        for batch in plan.batches:
            self._send_batch(batch)
        for shipment in plan.shipments:
            self._send_file(shipment)
        self.script.write(b"settle\n")
        if not self.answers.settled():
            raise BrokenPipeError
        self._judge(plan)

    def _send_batch(self, batch: Sequence[CargoFile]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for file in batch:
                entry = tarfile.TarInfo(file.path)
                entry.size = file.size_bytes
                archive.addfile(entry, io.BytesIO(b"".join(self._pieces(file))))
        size_bytes = sum(file.size_bytes for file in batch)
        self._announce(f"batch {packed.tell()}")
        self._write(packed.getbuffer())
        self.progress.advance(size_bytes - packed.tell())  # what a tar adds is not counted

    def _send_file(self, shipment: Shipment) -> None:
        file = shipment.file
        words = f"{file.sha256} {shipment.offset} {shipment.size_bytes} {file.path}"
        self._announce(f"file {words}")
        for piece in self._pieces(file, shipment.offset):
            self._write(memoryview(piece))

    def _pieces(self, file: CargoFile, offset: int = 0) -> Iterator[bytes]:
        """Yield a file's bytes from an offset on.

        Raises:
            IntegrityError: it cannot be read, or is too short: never an OSError, which would mean
                that the connection broke.
        """
        left = file.size_bytes - offset
        try:
            with inventory.open_file(self.cargo.root, file.path) as stream:
                stream.seek(offset)
                while left:
                    piece = stream.read(min(left, _PIECE_BYTES))
                    if not piece:
                        raise damage(file.path)
                    yield piece
                    left -= len(piece)
        except OSError as error:
            raise IntegrityError(
                f"it cannot be read on this laptop: {reason_of(error)}",
                subject=file.path,
                hint="check the disk that the bundle is on; then run the same command again",
            ) from error

    def _announce(self, words: str) -> None:
        self.script.write(f"{words}\n".encode())

    def _write(self, data: memoryview) -> None:
        size = self.throttle.piece_bytes()
        for at in range(0, len(data), size):
            if self.answers.failure is not None:
                raise self.answers.failure
            piece = data[at : at + size]
            self.script.write(piece)
            self.sent_bytes += len(piece)
            self.progress.advance(len(piece))
            self.throttle.passed(len(piece))

    def _need_here(self, plan: SendPlan) -> None:
        """Refuse a partial bundle that the server does not complete."""
        absent = [file.path for file in plan.files if file.path in self.cargo.absent]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise IntegrityError(
                f"missing from this bundle, and the server does not have it{more}",
                subject=absent[0],
                hint="copy the file into the bundle again, or build it again",
            )

    def _judge(self, plan: SendPlan) -> None:
        """Count what did not arrive right; where this laptop is to blame, say so.

        Raises:
            IntegrityError: a file is damaged here.
            FetchError: its bytes arrived wrong too often.
        """
        for file in plan.files:
            if file.path in self.answers.got:
                continue
            if self.cargo.damaged(file):
                raise damage(file.path)
            self.tries[file.path] = self.tries.get(file.path, 0) + 1
            self.progress.note(f"{file.path}: the bytes that arrived are wrong; sending it again")
            if self.tries[file.path] >= _TRIES:
                raise FetchError(
                    f"its bytes arrived wrong {_TRIES} times; here they are right",
                    subject=file.path,
                    hint="is the server's disk or memory damaged? Run the same command again",
                )

    def _now(self) -> FarSide:
        """Return what the server has after what has arrived; a part that was wrong is gone."""
        far = self.far
        bad = {file.sha256 for file in self.cargo.files if file.path in self.answers.bad}
        return FarSide(
            folder=far.folder,
            have=far.have | self.answers.got,
            stored=far.stored - bad,
        )
