"""From a plan to a lock: what `llava-pack lock` writes."""

from llava_pack.assemble.locked_inputs import CREATED_BY, recipe_digest
from llava_pack.assemble.packages import Packages, Wheels
from llava_pack.assemble.planning import BuildOptions, Plan
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import download_all
from llava_pack.fetch.remote import Sha256
from llava_pack.lock.document import Lock, PinnedPython, PinnedWheel


def lock_of(plan: Plan, options: BuildOptions, cache: Cache) -> Lock:
    """Return what a plan pins; an archive of Python without a promised digest is fetched for it.

    Raises:
        PackError: what fetching raises.
    """
    packages, packing = plan.packages, plan.packing
    return Lock(
        created_by=CREATED_BY,
        release=options.release,
        recipe=plan.recipe.name,
        recipe_sha256=recipe_digest(options.recipe),
        sources={name: one.pinned.public for name, one in plan.sources.items()},
        platform=packages.platform.uv_platform,
        cuda=options.choice.cuda,
        torch_backend=packages.backend,
        packing={
            "format": options.format,
            "quantize": packing.precision,
            "merge": options.merge,
            "tower": packing.tower,
        },
        serving=plan.serving.profile,
        without_wheels=options.without_wheels,
        python=_python(packages, cache),
        packages=_pinned(packages.own),
        engine=_pinned(packages.engine),
    )


def _pinned(wheels: Wheels) -> tuple[PinnedWheel, ...]:
    return tuple(
        PinnedWheel(
            name=wheel.name,
            version=wheel.version,
            filename=wheel.filename,
            sha256=wheel.sha256,
            source_sha256=wheel.source_sha256,
        )
        for wheel in sorted(wheels, key=lambda wheel: wheel.name)
    )


def _python(packages: Packages, cache: Cache) -> PinnedPython:
    choice = packages.python
    if choice.archive is None:
        return PinnedPython(version=choice.version)
    digest = choice.archive.digest
    known = digest.hex if isinstance(digest, Sha256) else None
    if known is None:
        known = download_all([choice.archive], cache)[choice.archive].sha256
    return PinnedPython(version=choice.version, archive=choice.archive.name, sha256=known)
