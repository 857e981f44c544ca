"""What a lock pins, found again: the recipe's sources, its wheels and its interpreter."""

from collections.abc import Sequence
from hashlib import sha256

from llava_pack import __version__
from llava_pack.assemble.packages import Packages, Wheels, machine_needs
from llava_pack.assemble.runtime_files import PythonChoice
from llava_pack.assemble.source_packages import Workshop, build_source
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.mirrors import USUAL, Mirror
from llava_pack.fetch.python import find_standalone
from llava_pack.fetch.python_archive import PythonArchive
from llava_pack.fetch.remote import RemoteFile, Sha256
from llava_pack.format.errors import RecipeError
from llava_pack.format.progress import Progress
from llava_pack.lock.document import Lock, PinnedPython, PinnedWheel
from llava_pack.lock.indexes import Indexes, configured_indexes
from llava_pack.lock.platform import Platform, parse_platform
from llava_pack.lock.pylock import LockedWheel
from llava_pack.lock.resolve import find_sources, find_wheels, refuse_own_name
from llava_pack.recipe import RecipeFile

CREATED_BY = f"llava-pack {__version__}"
_NEW_LOCK = "write a new lock: llava-pack lock RECIPE --out FILE"


def recipe_digest(recipe: RecipeFile) -> str:
    """Return the SHA-256 over a recipe's file and the pictures that it names."""
    whole = sha256(recipe.text)
    for part in recipe.value.known_answers:
        picture = recipe.folder / part.picture
        whole.update(picture.read_bytes() if picture.is_file() else b"")
    return whole.hexdigest()


def check_lock(lock: Lock, recipe: RecipeFile) -> None:
    """Refuse a lock that would not give the bundle that it pins.

    Raises:
        RecipeError: it is of another recipe, of a changed one, or of another llava-pack.
    """
    if lock.created_by != CREATED_BY:
        raise RecipeError(
            f"written by {lock.created_by}, this is {CREATED_BY}: the bundle would differ",
            subject="lock",
            hint=f"use {lock.created_by}, or {_NEW_LOCK}",
        )
    name = recipe.value.name
    if lock.recipe != name or lock.recipe_sha256 != recipe_digest(recipe):
        raise RecipeError(
            f"written for recipe {lock.recipe}, expected {name} in its current state",
            subject="lock",
            hint=_NEW_LOCK,
        )


def pinned_packages(
    lock: Lock,
    cache: Cache,
    progress: Progress,
    *,
    archive: PythonArchive | None = None,
    mirror: Mirror = USUAL,
) -> Packages:
    """Return the lock's packages; an index is asked only for what the cache does not hold.

    Args:
        lock: what was pinned.
        cache: what it holds is not asked for.
        progress: told what is going on.
        archive: a standalone CPython given by hand, which must be the lock's.
        mirror: where packages and CPython are fetched.

    Raises:
        RecipeError: an index no longer has a wheel, or has another one under its name; a wheel has
            llava-pack's own.
        NetworkError: the package index cannot be reached.
    """
    minor = ".".join(lock.python.version.split(".")[:2])
    platform = parse_platform(lock.platform, minor)
    refuse_own_name(
        name
        for wheel in (*lock.packages, *lock.engine)
        for name in (wheel.name, wheel.filename.partition("-")[0])
    )
    indexes = configured_indexes(mirror=mirror.index, torch=mirror.torch)
    workshop = Workshop(platform=platform, cache=cache, progress=progress)
    # torch is the engine's where the engine has an environment of its own
    backends = (None if lock.engine else lock.torch_backend, lock.torch_backend)
    own, engine = (
        _wheels(pinned, indexes, workshop, backend)
        for pinned, backend in zip((lock.packages, lock.engine), backends, strict=True)
    )
    return Packages(
        platform=platform,
        own=own,
        engine=engine,
        python=_python(lock.python, platform, cache, archive, mirror),
        torch=machine_needs(engine or own, lock.serving.engine, lock.cuda),
        indexes=indexes,
        backend=lock.torch_backend,
    )


def _wheels(
    pinned: Sequence[PinnedWheel], indexes: Indexes, workshop: Workshop, backend: str | None
) -> Wheels:
    """Return the wheels of one environment; an index is asked for what the cache does not hold.

    Raises:
        RecipeError: an index no longer has one, or has another one under its name.
    """
    gone = [wheel for wheel in pinned if workshop.cache.path(wheel.sha256) is None]
    absent = [wheel for wheel in gone if wheel.source_sha256 is None]
    found: dict[str, LockedWheel] = {}
    if absent:
        workshop.progress.start(f"find {len(absent)} packages of the lock", None)
        exact = [f"{wheel.name}=={wheel.version}" for wheel in absent]
        found = find_wheels(exact, workshop.platform, indexes, torch_backend=backend)
        workshop.progress.done()
    lost = [wheel.filename for wheel in absent if wheel.sha256 not in found]
    if lost:
        raise RecipeError(
            f"the package index has no wheel with the digest in the lock: {', '.join(lost)}",
            subject="lock",
            hint=f"use the index that the lock was written with, or {_NEW_LOCK}",
        )
    for wheel in gone:
        if wheel.source_sha256 is not None:
            found[wheel.sha256] = _built_again(wheel, indexes, workshop)
    return tuple(found.get(wheel.sha256) or _cached(wheel) for wheel in pinned)


def _built_again(pinned: PinnedWheel, indexes: Indexes, workshop: Workshop) -> LockedWheel:
    """Return the wheel that a lock had built from sources, built from the same sources.

    Raises:
        RecipeError: the index has other sources, or they give another wheel now.
    """
    exact = [f"{pinned.name}=={pinned.version}"]
    sources = find_sources(exact, workshop.platform, indexes)
    same = next((one for one in sources if one.sha256 == pinned.source_sha256), None)
    wheel = None if same is None else build_source(same, indexes, workshop)
    if wheel is None or wheel.sha256 != pinned.sha256:
        what = "the index's sources differ" if wheel is None else "its wheel now differs"
        raise RecipeError(f"{what} from the lock's", subject=pinned.filename, hint=_NEW_LOCK)
    return wheel


def _cached(wheel: PinnedWheel) -> LockedWheel:
    return LockedWheel(
        name=wheel.name,
        version=wheel.version,
        filename=wheel.filename,
        url="",
        sha256=wheel.sha256,
    )


def _python(
    pinned: PinnedPython,
    platform: Platform,
    cache: Cache,
    given: PythonArchive | None,
    mirror: Mirror,
) -> PythonChoice:
    if pinned.archive is None or pinned.sha256 is None:
        return PythonChoice(version=pinned.version, archive=None)
    url = "" if given is None else given.path.as_uri()
    if given is None and cache.path(pinned.sha256) is None:
        triple = f"{platform.arch}-unknown-linux-gnu"
        found = find_standalone(pinned.version, triple, mirror=mirror.python)
        if found.file is None:
            raise RecipeError(
                f"CPython {pinned.version} cannot be found: {found.reason}",
                subject="lock",
                hint="give the archive with --python-archive, or check UV_PYTHON_INSTALL_MIRROR",
            )
        url = found.file.url
    file = RemoteFile(url=url, name=pinned.archive, digest=Sha256(pinned.sha256))
    return PythonChoice(version=pinned.version, archive=file)
