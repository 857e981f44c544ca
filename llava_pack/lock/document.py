"""A lock as a file: every revision and wheel of a bundle pinned by hash, and no host.

Source: docs/reference/lock.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_pack.format import canonical, records
from llava_pack.format.errors import IntegrityError, RecipeError
from llava_pack.format.manifest import ServingProfile
from llava_pack.lock.torch_build import Cuda

SCHEMA = 1
MAX_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class PinnedWheel:
    """One wheel: found again by name and version, proved by its hash.

    Attributes:
        source_sha256: of the source archive that it is built from, None for a published wheel.
    """

    name: str
    version: str
    filename: str
    sha256: str
    source_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class PinnedPython:
    """The interpreter; without `archive` the target's own is used."""

    version: str
    archive: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lock:
    """Everything that decides the bytes of a bundle, beside llava-pack itself.

    Attributes:
        created_by: `llava-pack VERSION`; another version would make another bundle.
        release: UTC seconds that the bundle is dated with.
        recipe: name of the recipe.
        recipe_sha256: of the recipe and of the pictures that it names.
        sources: `model`, `base` and `vision_tower` at their commits, as a recipe writes them.
        platform: ARCH-manylinux_2_N.
        cuda: CUDA major that torch was chosen for.
        packing: layout of the model, as `build`'s options say it.
        packages: of llava-pack's environment, and the programs.
        engine: of the engine's, where it has one of its own.
        without_wheels: the bundle leaves out what the target's own index has.
    """

    schema: int = SCHEMA
    kind: Literal["lock"] = "lock"
    created_by: str
    release: int
    recipe: str
    recipe_sha256: str
    sources: Mapping[str, str]
    platform: str
    cuda: Cuda
    torch_backend: str | None = None
    packing: Mapping[str, Any]
    serving: ServingProfile
    python: PinnedPython
    packages: tuple[PinnedWheel, ...]
    engine: tuple[PinnedWheel, ...] = ()
    without_wheels: bool = False


def render_lock(lock: Lock) -> str:
    """Return the lock as it is saved: JSON that can be read and compared line by line."""
    return json.dumps(records.encode(lock), indent=1) + "\n"


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        RecipeError: it cannot be read, is none, or of a later schema; every defect is named.
    """
    try:
        value = canonical.loads(path.read_bytes(), max_bytes=MAX_BYTES)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", subject=str(path)) from error
    except IntegrityError as error:
        raise RecipeError(error.message, subject=path.name) from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA or value.get("kind") != "lock":
        raise RecipeError(
            f"expected a lock of schema {SCHEMA}, got schema {schema!r:.20}",
            subject=path.name,
            hint="create one with llava-pack lock RECIPE --out FILE",
        )
    defects = records.Defects()
    lock = records.decode(Lock, value, defects)
    if lock is None or defects:
        raise RecipeError("; ".join(defects), subject=path.name)
    return lock
