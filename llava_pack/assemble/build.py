"""`build`: the steps from a recipe to a bundle, each of which can be stopped and run again."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llava_pack.assemble.abi_floors import prove
from llava_pack.assemble.card import Card
from llava_pack.assemble.forecast import Outlook, outlook_of
from llava_pack.assemble.inodes import installed_inodes
from llava_pack.assemble.layouts import stage_packing
from llava_pack.assemble.licences_and_sbom import stage_papers
from llava_pack.assemble.manifest import BuildFacts, describe, known_answers
from llava_pack.assemble.model_files import check_nothing_remote
from llava_pack.assemble.model_sources import fetch_sources
from llava_pack.assemble.needs import media, server_needs
from llava_pack.assemble.planning import BuildOptions, Plan, plan_build, work_folder
from llava_pack.assemble.reference_answers import record
from llava_pack.assemble.runtime_files import (
    installer_files,
    stage_installer,
    stage_runtime,
    stage_wheels,
)
from llava_pack.assemble.seal import check_output, own_python, seal, standing_bundle
from llava_pack.assemble.shared_files import BundleFiles
from llava_pack.assemble.signing import Signer
from llava_pack.assemble.staging import Staging
from llava_pack.assemble.terms import check_accepted
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import FetchedFile, download_all
from llava_pack.format.errors import PreflightError, SpaceError
from llava_pack.format.manifest import Manifest
from llava_pack.format.progress import Progress
from llava_pack.format.target import version
from llava_pack.format.text import human_bytes
from llava_pack.lock.profile import TargetProfile
from llava_pack.lock.wheel_needs import ProvedFloors
from llava_pack.placing import can_share

_SPARE_BYTES = 64 << 20


def build(
    options: BuildOptions,
    cache: Cache,
    progress: Progress,
    signer: Signer | None = None,
    plan: Plan | None = None,
) -> Card:
    """Build a bundle and return its card.

    A build that was stopped goes on: fetched files are in the cache, finished groups in the staging
    folder beside `out`.

    Args:
        options: what is asked for.
        cache: of fetched files.
        progress: told of every phase.
        signer: None for a bundle that only its id vouches for.
        plan: made of the same options just now; None to make it.

    Raises:
        PackError: see `plan_build`, and what fetching and converting raise.
        UsageError: another bundle is at `out`, and may not be replaced.
        PreflightError: it would not run on the target.
        IntegrityError: git changed the lines of the installer.
    """
    installer = installer_files()
    check_replaced(options)
    plan = plan or plan_build(options, cache, progress)
    check_accepted(plan.recipe, options.accepted)
    known = known_answers(options.recipe)
    if options.target is not None:
        check_target(options.target, outlook_of(options, plan, cache))
    _check_space(options.out, cache, plan.weights_bytes)
    sources = fetch_sources(plan.sources, plan.recipe, progress, plan.packing.tower)
    fetched = _fetch_files(plan, cache, progress)
    proved = _prove(plan, options, cache, progress)
    carried = (file.size_bytes for name, file in fetched.items() if name not in plan.left_out)
    _check_space(options.out, cache, plan.weights_bytes, sum(carried))
    staging = Staging(_staging_folder(options.out), progress)
    _stage_packages(staging, plan, fetched)
    stage_installer(staging, installer)
    rewrites = stage_packing(staging, plan.packing, plan.recipe, sources)
    check_nothing_remote(staging)
    stage_papers(staging, plan, sources, fetched, options)
    references = record(staging, plan, known, options, cache)
    facts = BuildFacts(
        sources=sources,
        entries=staging.entries,
        chunks=staging.chunks,
        rewrites=rewrites,
        proved=proved,
        inodes=_inodes(staging, plan, fetched),
        known_answers=known,
        references=references,
    )
    card = _sealed(staging, describe(plan, options, facts), options, cache, signer)
    shutil.rmtree(work_folder(options.out))
    return card


def _inodes(staging: Staging, plan: Plan, fetched: Mapping[str, FetchedFile]) -> int:
    elsewhere = {name: fetched[name].path for name in plan.left_out}
    return installed_inodes(staging.root, staging.entries, elsewhere, plan.packages.in_both)


def _sealed(
    staging: Staging, manifest: Manifest, options: BuildOptions, cache: Cache, signer: Signer | None
) -> Card:
    """Put the bundle in its place, without bytes of its own for what other bundles have too."""
    before, alike = standing_bundle(options.out), BundleFiles(cache)
    alike.share(staging)
    identity = seal(staging, manifest, options.out, signer, replacing=options.replace)
    alike.note(options.out, staging.entries)
    card = _card(options, manifest, identity, signer)
    shared = sum(entry.size_bytes for entry in staging.entries if entry.path in staging.shared)
    return replace(card, shared_bytes=shared, replaced=None if before is None else before.bundle_id)


def check_replaced(options: BuildOptions) -> None:
    """Refuse to replace a bundle unasked, as soon as it is known to be another one.

    One of the same recipe and release may be the same: of that `seal` decides by the ids.

    Raises:
        UsageError: another bundle is at `out`, and may not be replaced.
    """
    check_output(options.out)
    standing = standing_bundle(options.out)
    asked = (options.recipe.value.name, options.release)
    if standing is not None and (standing.recipe, standing.release) != asked:
        standing.check(replace=options.replace)


def _card(options: BuildOptions, manifest: Manifest, identity: str, signer: Signer | None) -> Card:
    carried = [entry.size_bytes for entry in manifest.files if entry.carried]
    return Card(
        recipe=manifest.recipe.name,
        bundle=str(options.out),
        bundle_id=identity,
        release=options.release,
        size_bytes=sum(carried),
        files=len(carried),
        left_out=len(manifest.left_out),
        left_out_bytes=sum(entry.size_bytes for entry in manifest.left_out),
        key=None if signer is None else signer.public.fingerprint,
        python=own_python(manifest),
        needs=tuple(server_needs(manifest)),
        media=media(carried),
    )


def _stage_packages(staging: Staging, plan: Plan, fetched: Mapping[str, FetchedFile]) -> None:
    total_bytes = sum(file.size_bytes for file in fetched.values())
    staging.progress.start("stage wheels and runtime", total_bytes)
    packages = plan.packages
    minor, python = packages.platform.python, packages.python
    stage_wheels(staging, packages.environments, fetched, minor, plan.left_out)
    archive = None if python.archive is None else fetched[python.archive.name]
    programs = {path: fetched[wheel.filename] for path, wheel in packages.programs.items()}
    stage_runtime(staging, programs, python, archive, minor)
    staging.progress.done()


def _fetch_files(plan: Plan, cache: Cache, progress: Progress) -> dict[str, FetchedFile]:
    wanted = plan.packages.remote_wheels()
    network = plan.packages.indexes.environment
    if plan.packages.python.archive is not None:
        wanted.append(plan.packages.python.archive)
    fetched = download_all(wanted, cache, progress=progress, what="fetch packages", network=network)
    return {file.name: found for file, found in fetched.items()}


def check_target(target: TargetProfile, outlook: Outlook) -> None:
    """Refuse a target on which the bundle would not run, before anything heavy moves.

    Raises:
        PreflightError: every reason is named.
    """
    if failed := outlook.failed:
        found = "; ".join(f"{one.name}: expected {one.need}, got {one.value}" for one in failed)
        raise PreflightError(
            f"the bundle would not run there: {found}",
            subject=target.host or "target",
            hint="; ".join(dict.fromkeys(one.fix for one in failed)),
        )


def _prove(plan: Plan, options: BuildOptions, cache: Cache, progress: Progress) -> ProvedFloors:
    """Return what the wheels really need; say so where that is more than their tags promise.

    Raises:
        PreflightError: it is more than the target has.
    """
    platform = plan.packages.platform
    wheels = {wheel.filename: wheel.sha256 for wheel in plan.packages.all_wheels}
    proved = prove(wheels, platform.arch, cache, progress)
    if version(proved.glibc or "") > version(platform.glibc):
        found = (
            f"{proved.by['glibc']} needs glibc {proved.glibc}, expected {platform.glibc} at most"
        )
        if options.target is not None:
            hint = "narrow the recipe's requirements, or use a newer system"
            raise PreflightError(found, subject="target", hint=hint)
        progress.note(f"! {found}: the bundle's floor is higher")
    return proved


def _check_space(out: Path, cache: Cache, weights_bytes: int, packages_bytes: int = 0) -> None:
    """Refuse a disk that is too small for what will be written; what is staged is written.

    Args:
        out: where the bundle will be.
        cache: its files take no room in the bundle where the disk lets two folders share them.
        weights_bytes: are converted, and so written.
        packages_bytes: are in the cache.
    """
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    shares = can_share(cache.root, folder)
    free_bytes = shutil.disk_usage(folder).free
    staged = _staging_folder(out)
    written = staged / "model" if shares else staged
    held_bytes = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    needed_bytes = weights_bytes + (0 if shares else packages_bytes)
    if free_bytes + held_bytes < needed_bytes + _SPARE_BYTES:
        raise SpaceError(
            f"not enough disk for the bundle: expected "
            f"{human_bytes(needed_bytes + _SPARE_BYTES)} free, got {human_bytes(free_bytes)}",
            subject=str(folder),
            hint="free space there, or choose another disk with --out",
        )


def _staging_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def release_now(environ: Mapping[str, str], now: float) -> int:
    """Return the release time: SOURCE_DATE_EPOCH where it is set, else now.

    >>> release_now({"SOURCE_DATE_EPOCH": "1700000000"}, 5.5)
    1700000000
    """
    return int(environ.get("SOURCE_DATE_EPOCH") or now)
