"""The packages of a bundle: the wheels of its environments, programs apart, and the interpreter."""

import os
from dataclasses import dataclass, replace

from llava_pack.assemble.requirements import engine_requirements
from llava_pack.assemble.runtime_files import PROGRAMS, PythonChoice, remote_wheel
from llava_pack.assemble.runtimes import packed_for
from llava_pack.assemble.source_packages import Workshop, resolve_with_sources
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.credentials import Credentials
from llava_pack.fetch.mirrors import USUAL, Mirror
from llava_pack.fetch.python import find_standalone
from llava_pack.fetch.python_archive import PythonArchive
from llava_pack.fetch.remote import RemoteFile
from llava_pack.format.errors import FetchError, NetworkError, PreflightError, RecipeError
from llava_pack.format.manifest import Engine
from llava_pack.format.progress import Progress
from llava_pack.format.sums import ENGINE_LOCK, LOCK
from llava_pack.format.target import version
from llava_pack.lock.choice import ResolutionTarget
from llava_pack.lock.indexes import Indexes, configured_indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import LockedWheel
from llava_pack.lock.resolve import find_wheels, resolve
from llava_pack.lock.torch_build import Cuda, TorchChoice, TorchNeeds, choose_torch, torch_needs
from llava_pack.recipe import Recipe
from llava_pack.runtimes import RUNTIMES

_FILTERED = "filtered by `exclude-newer`"
"""In uv's hint where an index, as some mirrors, does not say when a file was uploaded."""
Wheels = tuple[LockedWheel, ...]


@dataclass(frozen=True, kw_only=True)
class Packages:
    """What was resolved.

    Attributes:
        platform: what the wheels were chosen for.
        own: those of llava-pack's environment, itself not among them, and of the programs.
        engine: those of the engine's environment; none where the runtime has one environment.
        torch: what the torch in it needs.
        indexes: where they come from.
        backend: value of uv's `--torch-backend` that it was resolved with.
    """

    platform: Platform
    own: Wheels
    engine: Wheels = ()
    python: PythonChoice
    torch: TorchNeeds
    indexes: Indexes
    backend: str | None = None

    @property
    def all_wheels(self) -> Wheels:
        """Return every one that is fetched, each once.

        Raises:
            RecipeError: two of one name differ.
        """
        found: dict[str, LockedWheel] = {}
        for wheel in (*self.own, *self.engine):
            if found.setdefault(wheel.filename, wheel).sha256 != wheel.sha256:
                raise RecipeError(
                    "an index gave one file for llava-pack and another one for the engine, "
                    f"expected one of SHA-256 {found[wheel.filename].sha256}, got {wheel.sha256}",
                    subject=wheel.filename,
                    hint="run the command again; name one index that has all packages",
                )
        return tuple(found.values())

    @property
    def in_both(self) -> frozenset[str]:
        """Return the file names of the wheels that both environments have."""
        own = {wheel.filename for wheel in self.own if wheel.name not in PROGRAMS}
        return frozenset(own & {wheel.filename for wheel in self.engine})

    @property
    def environments(self) -> dict[str, Wheels]:
        """Return what is installed into each environment, by the path of its lock."""
        own = tuple(wheel for wheel in self.own if wheel.name not in PROGRAMS)
        return {LOCK: own, **({ENGINE_LOCK: self.engine} if self.engine else {})}

    @property
    def wheels(self) -> Wheels:
        """Return those that are installed, each once."""
        apart = {wheel.filename for wheel in self.programs.values()}
        return tuple(wheel for wheel in self.all_wheels if wheel.filename not in apart)

    @property
    def programs(self) -> dict[str, LockedWheel]:
        """Return those that programs of `runtime/` are taken from, by path; old locks have uv."""
        return {PROGRAMS[wheel.name].path: wheel for wheel in self.own if wheel.name in PROGRAMS}

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
    quantized: bool = False,
) -> Packages:
    """Return the wheels and the interpreter for a target; nothing heavy is fetched.

    Args:
        recipe: what is asked for.
        choice: what the packages are for.
        cache: where sources and wheels that are built from them are kept.
        progress: told what is going on.
        archive: a standalone CPython given by hand, None to look for one.
        mirror: where packages and CPython are fetched.
        quantized: the weights were quantized ahead, by bitsandbytes.

    Raises:
        RecipeError: no set of wheels serves the target, or a GPU's has no CUDA.
        PreflightError: an engine's build for machines without a GPU is nowhere.
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
    resolution = _Resolution(recipe, choice, indexes, cache, progress, quantized)
    torch, own, engine = resolution.answer()
    progress.done()
    return Packages(
        platform=choice.platform,
        own=own,
        engine=engine,
        python=python,
        torch=machine_needs(engine or own, recipe.runtime.engine, choice.cuda),
        indexes=indexes,
        backend=torch.backend,
    )


def machine_needs(wheels: Wheels, engine: Engine, cuda: Cuda) -> TorchNeeds:
    """Return what the torch of an environment needs of a machine, and an engine's release in it.

    Raises:
        RecipeError: see `torch_needs`.
    """
    needs, profile = torch_needs(wheels, cuda), RUNTIMES[engine].profile
    if profile is None or needs.capability is None:
        return needs
    there = {wheel.version for wheel in wheels if wheel.name == profile.package}
    meant = (one for one in profile.releases if one.cuda == cuda and one.version in there)
    asked = (needs.capability, *(one.capability for one in meant))
    return replace(needs, capability=max(asked, key=version))


@dataclass(frozen=True)
class _Resolution:
    """What the resolver is asked, and what for."""

    recipe: Recipe
    choice: ResolutionTarget
    indexes: Indexes
    cache: Cache
    progress: Progress
    quantized: bool

    def answer(self) -> tuple[TorchChoice, Wheels, Wheels]:
        """Return what was asked for torch, and the wheels of both environments.

        PyPI's torch where its own index is away.
        """
        choice, folders = self.choice, self.indexes.local_folders()
        backend, series = choice.torch_backend, choice.series
        torch = choose_torch(choice.cuda, choice.platform, folders, backend=backend, series=series)
        torch = packed_for(self.recipe).torch(torch, choice.platform, choice.cuda)
        try:
            return torch, *self._environments(torch)
        except NetworkError:
            if torch.backend is None or backend is not None:
                raise
        torch = choose_torch(choice.cuda, choice.platform, folders, backend="pypi")
        self.progress.note(f"! {torch.note}")
        return torch, *self._environments(torch)

    def _environments(self, torch: TorchChoice) -> tuple[Wheels, Wheels]:
        """Return llava-pack's wheels, and those of an engine of the field."""
        choice, runtime, release = self.choice, packed_for(self.recipe), self.choice.release
        lines = runtime.requirements(self.recipe, choice.platform, torch, choice.cuda)
        if runtime.profile is None or release is None:
            own = self._wheels(lines, torch.backend, choice.exclude_newer)
            if runtime.code:
                own += tuple(find_wheels(runtime.code, choice.platform, self.indexes).values())
            return own, ()
        own = self._wheels(lines, None, choice.exclude_newer)
        lines = engine_requirements(
            self.recipe, runtime.profile, release, torch, quantized=self.quantized
        )
        newer = choice.exclude_newer or release.resolved or None
        try:
            return own, self._wheels(lines, torch.backend, newer)
        except RecipeError as error:
            if release.cuda == "none" and f"{runtime.profile.package}==" in error.message:
                raise PreflightError(
                    f"no index here has {release.requirements[0]}, its build for machines without "
                    "a GPU; PyPI has none",
                    subject=f"--runtime {self.recipe.runtime.engine}",
                    hint="name an index or a folder of wheels that has it (PIP_FIND_LINKS=FOLDER), "
                    "or --runtime transformers: llava-pack's own engine runs without a GPU",
                ) from error
            if choice.exclude_newer or _FILTERED not in error.message:
                raise
        self.progress.note(
            f"! this index tells no time of upload, or has none of {release.resolved[:10]}: "
            f"{runtime.title}'s packages are those of today, which are perhaps too new for it"
        )
        return own, self._wheels(lines, torch.backend, None)

    def _wheels(self, lines: tuple[str, ...], backend: str | None, newer: str | None) -> Wheels:
        platform, indexes = self.choice.platform, self.indexes
        workshop = Workshop(
            platform=platform, cache=self.cache, progress=self.progress, exclude_newer=newer
        )
        return resolve_with_sources(
            lambda wanted: resolve(
                wanted, platform, indexes, torch_backend=backend, exclude_newer=newer
            ),
            lines,
            indexes,
            workshop,
        )


def need_python(packages: Packages) -> None:
    """Refuse packages without a CPython beside them.

    Raises:
        RecipeError: the target's own would be needed.
    """
    if packages.python.archive is None:
        raise RecipeError(
            f"no CPython to carry, so the server would need Python {packages.python.version}",
            subject="--require-python",
            hint="name another place for it (UV_PYTHON_INSTALL_MIRROR, in China: --mirror cn), or "
            "pack an archive that you have: --python-archive FILE",
        )


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
