"""The packages of a bundle: the target's wheels, programs apart, and the interpreter."""

import os
from dataclasses import dataclass, replace

from llava_pack.assemble.runtime_files import PROGRAMS, PythonChoice, remote_wheel
from llava_pack.assemble.runtimes import packed_for
from llava_pack.assemble.source_packages import Workshop, resolve_with_sources
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.credentials import Credentials
from llava_pack.fetch.mirrors import USUAL, Mirror
from llava_pack.fetch.python import find_standalone
from llava_pack.fetch.python_archive import PythonArchive
from llava_pack.fetch.remote import RemoteFile
from llava_pack.format.errors import FetchError, NetworkError
from llava_pack.format.progress import Progress
from llava_pack.lock.choice import ResolutionTarget
from llava_pack.lock.indexes import Indexes, configured_indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import LockedWheel
from llava_pack.lock.resolve import find_wheels, resolve
from llava_pack.lock.torch_build import TorchChoice, TorchNeeds, choose_torch, torch_needs
from llava_pack.recipe import Recipe

Wheels = tuple[LockedWheel, ...]


@dataclass(frozen=True, kw_only=True)
class Packages:
    """What was resolved.

    Attributes:
        platform: what the wheels were chosen for.
        all_wheels: every one that is fetched; llava-pack's own is none of them.
        torch: what the torch in it needs.
        indexes: where they come from.
        backend: value of uv's `--torch-backend` that it was resolved with.
    """

    platform: Platform
    all_wheels: Wheels
    python: PythonChoice
    torch: TorchNeeds
    indexes: Indexes
    backend: str | None = None

    @property
    def wheels(self) -> Wheels:
        """Return those that are installed."""
        return tuple(wheel for wheel in self.all_wheels if wheel.name not in PROGRAMS)

    @property
    def programs(self) -> dict[str, LockedWheel]:
        """Return those that programs of `runtime/` are taken from, by path; old locks have uv."""
        return {
            PROGRAMS[wheel.name].path: wheel for wheel in self.all_wheels if wheel.name in PROGRAMS
        }

    def remote_wheels(self) -> list[RemoteFile]:
        """Return what the downloader is asked for, with credentials where an index wants them."""
        credentials = Credentials(self.indexes, os.environ)
        return [remote_wheel(wheel, credentials) for wheel in self.all_wheels]


def resolve_packages(
    recipe: Recipe,
    choice: ResolutionTarget,
    cache: Cache,
    progress: Progress,
    *,
    archive: PythonArchive | None = None,
    mirror: Mirror = USUAL,
) -> Packages:
    """Return the wheels and the interpreter for a target; nothing heavy is fetched.

    Args:
        recipe: what is asked for.
        choice: what the packages are for.
        cache: where sources and wheels that are built from them are kept.
        progress: told what is going on.
        archive: a standalone CPython given by hand, None to look for one.
        mirror: where packages and CPython are fetched.

    Raises:
        RecipeError: no set of wheels serves the target, or a GPU's has no CUDA.
        NetworkError: the package index cannot be reached.
    """
    if archive is None:
        python = _choose_python(choice, progress, mirror)
    else:
        file = archive.file(choice.platform.arch)
        python = PythonChoice(version=archive.version, archive=file)
    minor = ".".join(python.version.split(".")[:2])
    choice = replace(choice, platform=replace(choice.platform, python=minor))
    indexes = configured_indexes(mirror=mirror.index, torch=mirror.torch)
    progress.start(f"resolve packages for {choice.platform.uv_platform}", None)
    torch, wheels = _resolved(recipe, choice, indexes, cache, progress)
    progress.done()
    return Packages(
        platform=choice.platform,
        all_wheels=wheels,
        python=python,
        torch=torch_needs(wheels, choice.cuda),
        indexes=indexes,
        backend=torch.backend,
    )


def _resolved(
    recipe: Recipe, choice: ResolutionTarget, indexes: Indexes, cache: Cache, progress: Progress
) -> tuple[TorchChoice, Wheels]:
    """Return what was asked for torch, and all wheels; PyPI's torch where its own index is away."""
    platform, folders, backend = choice.platform, indexes.local_folders(), choice.torch_backend
    torch = choose_torch(choice.cuda, platform, folders, backend=backend, series=choice.series)
    torch = packed_for(recipe).torch(torch, platform, choice.cuda)
    workshop = Workshop(
        platform=platform, cache=cache, progress=progress, exclude_newer=choice.exclude_newer
    )
    try:
        return torch, _wheels(recipe, choice, torch, indexes, workshop)
    except NetworkError:
        if torch.backend is None or backend is not None:
            raise
    torch = choose_torch(choice.cuda, platform, folders, backend="pypi")
    progress.note(f"! {torch.note}")
    return torch, _wheels(recipe, choice, torch, indexes, workshop)


def _wheels(
    recipe: Recipe,
    choice: ResolutionTarget,
    torch: TorchChoice,
    indexes: Indexes,
    workshop: Workshop,
) -> Wheels:
    """Return what the resolver answers, and the runtime's code beside it."""
    platform, newer = choice.platform, choice.exclude_newer
    runtime = packed_for(recipe)
    wheels = resolve_with_sources(
        lambda lines: resolve(
            lines, platform, indexes, torch_backend=torch.backend, exclude_newer=newer
        ),
        runtime.requirements(recipe, platform, torch, choice.cuda),
        indexes,
        workshop,
    )
    if runtime.code:
        wheels += tuple(find_wheels(runtime.code, platform, indexes).values())
    return wheels


def _choose_python(choice: ResolutionTarget, progress: Progress, mirror: Mirror) -> PythonChoice:
    """Return the CPython to carry; the target's own where none is wanted or none can be had."""
    version = choice.platform.python
    if not choice.own_python:
        return PythonChoice(version=version, archive=None)
    try:
        triple = f"{choice.platform.arch}-unknown-linux-gnu"
        found = find_standalone(version, triple, mirror=mirror.python)
        reason = found.reason
    except (NetworkError, FetchError) as error:
        found, reason = None, str(error)
    if found is not None and found.file is not None:
        if found.file.digest is None:
            progress.note(
                f"! CPython {found.version} has no digest where it is fetched: nothing vouches for "
                "it but the connection"
            )
        return PythonChoice(version=found.version, archive=found.file)
    own = choice.fallback_python()
    progress.note(f"! no standalone CPython {version} ({reason}):")
    progress.note(f"  the bundle will need Python {own} on the target")
    return PythonChoice(version=own, archive=None)
