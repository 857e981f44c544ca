"""What travels: what a bundle has, less what the server has. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from llava_pack.client.sending.cargo import CargoFile
from llava_pack.format.errors import SpaceError
from llava_pack.format.text import human_bytes

SMALL_BYTES = 1 << 20
"""Files below travel many to a tar: none costs a round trip, or a process for itself."""
BATCH_BYTES = 1 << 24
_BLOCK_BYTES = 4096
_IN_STORE = ("model/", "wheels/")
"""What the installer takes from its store where a bundle lacks it; install.sh needs the rest."""


@dataclass(frozen=True, kw_only=True)
class FarSide:
    """What is on the server already, as it said itself."""

    folder: str
    """Where the bundle lands, absolute."""
    program: str | None = None
    """The llava-pack that is installed under the prefix."""
    free_bytes: int | None = None
    free_inodes: int | None = None
    have: frozenset[str] = frozenset()
    """Paths in the folder whose digest is right."""
    stored: frozenset[str] = frozenset()
    """Digests in the prefix's store, each hashed there."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Bytes that are there of a file, by its digest."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """The end of a file, from an offset on."""

    file: CargoFile
    offset: int = 0

    @property
    def size_bytes(self) -> int:
        """How much travels."""
        return self.file.size_bytes - self.offset


@dataclass(frozen=True, kw_only=True)
class SendPlan:
    """What travels, and what does not have to."""

    batches: tuple[tuple[CargoFile, ...], ...]
    shipments: tuple[Shipment, ...]
    copies: tuple[CargoFile, ...]
    """What the server copies from its own store."""
    skipped: tuple[CargoFile, ...]
    """What may be missing in the folder, as the store has it."""
    kept: int
    """How many files are there already."""

    @property
    def size_bytes(self) -> int:
        """How much travels."""
        small = sum(file.size_bytes for batch in self.batches for file in batch)
        return small + sum(one.size_bytes for one in self.shipments)

    @property
    def files(self) -> tuple[CargoFile, ...]:
        """The files that travel, or the ends of them."""
        small = (file for batch in self.batches for file in batch)
        return (*small, *(one.file for one in self.shipments))


def plan_sending(files: Iterable[CargoFile], far: FarSide) -> SendPlan:
    """Return what has to travel.

    Of two large files with the same bytes the second travels by itself, later: `plan_sending` is
    asked again with what has arrived.
    """
    rest = [file for file in files if file.path not in far.have]
    stored = [file for file in rest if file.sha256 in far.stored]
    skipped = tuple(file for file in stored if file.path.startswith(_IN_STORE))
    missing = [file for file in rest if file.sha256 not in far.stored]
    small = [file for file in missing if file.size_bytes < SMALL_BYTES]
    large = {file.sha256: file for file in reversed(missing) if file.size_bytes >= SMALL_BYTES}
    shipments = []
    for file in reversed(large.values()):
        there = far.parts.get(file.sha256, 0)
        shipments.append(Shipment(file=file, offset=there if there <= file.size_bytes else 0))
    return SendPlan(
        batches=_batches(small),
        shipments=tuple(shipments),
        copies=tuple(file for file in stored if file not in skipped),
        skipped=skipped,
        kept=len(far.have),
    )


def there_bytes(files: Iterable[CargoFile], far: FarSide) -> int:
    """Return how much of a bundle's files has arrived in the folder."""
    return sum(file.size_bytes for file in files if file.path in far.have) + sum(far.parts.values())


def check_space(plan: SendPlan, far: FarSide) -> None:
    """Hold what travels against the disk of the server.

    Raises:
        SpaceError: bytes or inodes are short there.
    """
    files = [*plan.files, *plan.copies]
    blocks = _BLOCK_BYTES * len(files)
    need = plan.size_bytes + sum(file.size_bytes for file in plan.copies) + blocks
    hint = "free space there, or choose another folder with --to"
    if far.free_bytes is not None and need > far.free_bytes:
        raise SpaceError(
            f"the bundle needs {human_bytes(need)} on the server, {human_bytes(far.free_bytes)} "
            "are free",
            subject=far.folder,
            hint=hint,
        )
    if far.free_inodes is not None and len(files) > far.free_inodes:
        raise SpaceError(
            f"the bundle needs {len(files)} inodes on the server, {far.free_inodes} are free",
            subject=far.folder,
            hint=hint,
        )


def _batches(files: Iterable[CargoFile]) -> tuple[tuple[CargoFile, ...], ...]:
    """Return files in groups that are not large, in their order."""
    groups: list[list[CargoFile]] = []
    size_bytes = 0
    for file in files:
        if not groups or size_bytes + file.size_bytes > BATCH_BYTES:
            groups.append([])
            size_bytes = 0
        groups[-1].append(file)
        size_bytes += file.size_bytes
    return tuple(tuple(group) for group in groups)
