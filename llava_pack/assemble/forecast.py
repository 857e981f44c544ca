"""What a bundle will be and whether it will run there: `plan`, before anything heavy moves."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llava_pack.assemble.abi_floors import recalled
from llava_pack.assemble.engine_fit import needed_tools
from llava_pack.assemble.floors import FloorInputs, bundle_floors
from llava_pack.assemble.gpu_placement import gpu_findings, model_gpus
from llava_pack.assemble.install_location import choose_place, place_finding
from llava_pack.assemble.needs import PORT
from llava_pack.assemble.planning import BuildOptions, Plan, old_glibc_fix, plan_build
from llava_pack.assemble.runtimes import MODERN_GLIBC_MINOR
from llava_pack.checkpoint.footprint import footprint, tower_parameters
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.sizes import remote_sizes
from llava_pack.format.errors import PreflightError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import Floors, ServingProfile
from llava_pack.format.progress import Progress
from llava_pack.format.target import COMPILERS, FloorFinding, check_floors
from llava_pack.lock.fit import Fit, usable_bytes
from llava_pack.lock.profile import Disk, TargetProfile
from llava_pack.placing import can_share

_NEEDED_TOOLS = ("sha256sum", "tar", "gzip", "grep", "sed", "awk", "mktemp")
_PYTHON_BYTES = 90_000_000
"""About what a standalone CPython takes unpacked. Source: measured, 3.11 for x86_64."""


@dataclass(frozen=True, kw_only=True)
class BundlePart:
    """One thing that will be in the bundle; `size_bytes` is None where its server does not say."""

    name: str
    version: str
    size_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What will be in a bundle, why, and what it needs.

    Attributes:
        weights: files by source, as they are published.
        reasons: why these packages.
        fetch_bytes: what is not in the cache yet.
        laptop_bytes: what the cache and the bundle will take here beside what they have.
        target_bytes: what bundle and installation take there.
        target_fetch_bytes: what it fetches itself, from its own package index.
        floors: the least that a target needs; of glibc by the wheels' tags, and by their files
            where an earlier build has read them.
        fits: every precision on the target.
        findings: floors held against facts; empty without a target.
    """

    recipe: str
    licence: str
    torch: str
    cuda: str | None
    python: str
    python_carried: bool
    weights: Mapping[str, Mapping[str, int]]
    wheels: tuple[BundlePart, ...]
    reasons: tuple[str, ...]
    fetch_bytes: int
    bundle_bytes: int
    laptop_bytes: int
    target_bytes: int
    target_fetch_bytes: int
    floors: Floors
    serving: ServingProfile
    fits: tuple[Fit, ...]
    findings: tuple[FloorFinding, ...]

    @property
    def failed(self) -> tuple[FloorFinding, ...]:
        """Return what is in the way."""
        return tuple(one for one in self.findings if one.level == "fail")


def look_ahead(options: BuildOptions, cache: Cache, progress: Progress) -> Outlook:
    """Return what building would give; fetches small files and sizes, and writes no bundle.

    Raises:
        PackError: see `plan_build`.
    """
    with tempfile.TemporaryDirectory(prefix="llava-pack-plan-") as folder:
        apart = replace(options, out=Path(folder, options.out.name))
        return outlook_of(options, _plan(apart, cache, progress), cache)


def outlook_of(options: BuildOptions, plan: Plan, cache: Cache) -> Outlook:
    """Return what a plan comes to; sizes that the index does not tell are asked for."""
    packages = plan.packages
    files = packages.remote_wheels()
    sizes = remote_sizes(files, cache, network=packages.indexes.environment)
    wheels = {name: size or 0 for name, size in sizes.items()}
    absent = sum(wheels[file.name] for file in files if not _held(cache, file.digest))
    fetch_bytes = absent + plan.weights_bytes  # whole: parts of weights are not looked for
    packed = packed_weights_bytes(plan)
    whole_bytes = packed + sum(wheels.values())
    left_out_bytes = sum(wheels[name] for name in plan.left_out)
    bundle_bytes = whole_bytes - left_out_bytes
    written_bytes = packed if can_share(cache.root, _existing(options.out)) else bundle_bytes
    here_bytes = fetch_bytes + written_bytes
    floors = _floors(plan, wheels, whole_bytes, cache)
    return Outlook(
        recipe=plan.recipe.name,
        licence=f"{plan.recipe.licence.id}, {plan.recipe.licence.url}",
        torch=packages.torch.version,
        cuda=packages.torch.cuda,
        python=packages.python.version,
        python_carried=packages.python.archive is not None,
        weights={str(one.pinned): one.weight_sizes for one in plan.sources.values()},
        wheels=tuple(
            BundlePart(name=wheel.name, version=wheel.version, size_bytes=sizes[wheel.filename])
            for wheel in packages.all_wheels
        ),
        reasons=options.choice.reasons,
        fetch_bytes=fetch_bytes,
        bundle_bytes=bundle_bytes,
        laptop_bytes=here_bytes,
        target_bytes=floors.disk_bytes,
        target_fetch_bytes=left_out_bytes,
        floors=floors,
        serving=plan.serving.profile,
        fits=plan.serving.fits,
        findings=tuple(_findings(options, plan, floors, cache, here_bytes)),
    )


def _floors(plan: Plan, wheels: Mapping[str, int], whole_bytes: int, cache: Cache) -> Floors:
    packages, profile = plan.packages, plan.serving.profile
    digests = {wheel.filename: wheel.sha256 for wheel in packages.all_wheels}
    contents = FloorInputs(
        platform=packages.platform,
        torch=packages.torch,
        wheels=wheels,
        total_bytes=whole_bytes + (_PYTHON_BYTES if packages.python.archive else 0),
        proved=recalled(digests, packages.platform.arch, cache),
        tools=needed_tools(plan.recipe, packages),
    )
    wish = replace(
        plan.serving.wish,
        context_tokens=profile.context_tokens,
        slots=profile.slots,
        gpus=profile.gpus,
    )
    return bundle_floors(contents, plan.sized, wish)


def _plan(options: BuildOptions, cache: Cache, progress: Progress) -> Plan:
    """Return the plan; for a system that no set of wheels serves, that for the next newer one."""
    try:
        return plan_build(options, cache, progress)
    except PreflightError as error:
        platform = options.choice.platform
        if platform.glibc_minor >= MODERN_GLIBC_MINOR:  # it is not what is in the way
            raise
        newer = replace(platform, glibc_minor=MODERN_GLIBC_MINOR)
        progress.note(f"! {error.message}: showing the plan for glibc {newer.glibc}")
        choice = replace(options.choice, platform=newer)
        return plan_build(replace(options, choice=choice), cache, progress)


def packed_weights_bytes(plan: Plan) -> int:
    """Return about what the packed weights will take: a slim tower, quantized where asked."""
    if plan.packing.precision is not None:
        return footprint(
            *plan.sized,
            precision=plan.packing.precision,
            device="cuda",
            context_tokens=1,
            slots=1,
        ).weights_bytes
    published = sum(
        sum(one.weight_sizes.values())
        for name, one in plan.sources.items()
        if name != "vision_tower"
    )
    tower = plan.sources.get("vision_tower")
    return published + (2 * tower_parameters(tower.config) if tower else 0)


def _findings(
    options: BuildOptions, plan: Plan, floors: Floors, cache: Cache, here_bytes: int
) -> Iterator[FloorFinding]:
    """Yield what the target, and this machine, has of what is needed; nothing without a target."""
    if options.target is not None:
        yield from _there(options.target, plan, floors)
        yield from _here(options, cache, here_bytes)


def _there(target: TargetProfile, plan: Plan, floors: Floors) -> Iterator[FloorFinding]:
    place = choose_place(target, floors.disk_bytes)
    gpus = model_gpus(target, plan.serving.profile, plan.packages.torch.capability)
    machine = replace(
        target,
        python_version=_python(target, plan, floors),
        disk_free_bytes=None if place is None else place.free_bytes,
        gpus=None
        if target.gpus is None
        else tuple(replace(gpu, memory_bytes=usable_bytes(gpu)) for gpu in gpus),
    )
    profile = plan.serving.profile
    for one in check_floors(machine, floors, precision=profile.precision, gpus=profile.gpus):
        if one.name == "disk":
            yield place_finding(one, target, floors.disk_bytes)
        elif one.name == "glibc" and one.level == "fail":
            yield replace(one, fix=old_glibc_fix(plan.recipe))
        elif one.name in {"GPU memory", "memory"} and one.level == "fail":
            yield replace(one, fix=_memory_fix(plan))
        else:
            yield one
    yield from _remarks(target, plan, place, floors.disk_inodes)
    yield from gpu_findings(target, gpus, plan.serving.chosen)


def _remarks(
    target: TargetProfile, plan: Plan, place: Disk | None, inodes: int
) -> Iterator[FloorFinding]:
    """Yield what does not stop an installation and is worth knowing."""
    if plan.packages.torch.cuda is None:
        fix = "expect seconds per token with a 7B model; a GPU makes it usable"
        yield FloorFinding("device", "warn", "CPU", "a GPU to answer quickly", fix)
    chosen = plan.serving.chosen
    if chosen and (chosen.slots, chosen.context_tokens) != (
        plan.recipe.serving.slots,
        plan.recipe.serving.context_tokens,
    ):
        value = f"{chosen.slots} concurrent requests, {chosen.context_tokens} tokens each"
        asked = plan.recipe.serving
        need = f"{asked.slots} with {asked.context_tokens}"
        yield FloorFinding("requests", "warn", value, need, "a GPU with more memory fits more")
    yield from _tools(target, plan)
    if place is not None and place.free_inodes:  # some file systems say 0, and mean no limit
        level: Literal["ok", "fail"] = "ok" if place.free_inodes >= inodes else "fail"
        value, need = f"{place.free_inodes} free at {place.path}", f"at least {inodes}"
        fix = "remove files there, or choose another --prefix"
        yield FloorFinding("inodes", level, value, need, fix, ExitCode.SPACE)
    if place is not None and place.noexec:
        fix = "choose a --prefix where programs may run"
        yield FloorFinding(
            "noexec", "fail", f"{place.path} is noexec", "a place without noexec", fix
        )
    if target.ports_in_use is not None and PORT in target.ports_in_use:
        fix = "serve with --port, for example 7861"
        yield FloorFinding("port", "warn", f"{PORT} is in use", "free", fix)
    if target.fips:
        value = "on: SHA-256 and ECDSA P-256 are the only algorithms used"
        yield FloorFinding("FIPS", "ok", value, "either")


def _tools(target: TargetProfile, plan: Plan) -> Iterator[FloorFinding]:
    """Yield what is not there of what installing takes, and of what the engine compiles with."""
    compilers = needed_tools(plan.recipe, plan.packages)
    names = () if target.tools is None else (*_NEEDED_TOOLS, *compilers)
    if lacks := [name for name in names if (target.tools or {}).get(name) is None]:
        fix = "install coreutils, or busybox" if {*lacks} - {*compilers} else COMPILERS
        yield FloorFinding("tools", "fail", f"missing: {', '.join(lacks)}", "all of them", fix)


def _here(options: BuildOptions, cache: Cache, needed_bytes: int) -> Iterator[FloorFinding]:
    folder = _existing(options.out)
    free_bytes = min(shutil.disk_usage(place).free for place in (folder, cache.root))
    level: Literal["ok", "warn"] = "ok" if free_bytes >= needed_bytes else "warn"
    fix = "free space, or choose disks with --out and LLAVA_PACK_CACHE"
    need = f"at least {needed_bytes} bytes"
    yield FloorFinding("disk here", level, f"{free_bytes} bytes", need, fix, ExitCode.SPACE)


def _existing(out: Path) -> Path:
    out = out.absolute()
    return next(parent for parent in (out, *out.parents) if parent.is_dir())


def _python(target: TargetProfile, plan: Plan, floors: Floors) -> str | None:
    """Return the Python that an installation will use: the bundle's own, or the target's."""
    if plan.packages.python.archive is not None:
        return floors.python
    found = [one.version for one in target.pythons or ()]
    fitting = [one for one in found if one.startswith(f"{floors.python}.")]
    return next(iter([*fitting, *found]), None)


def _memory_fix(plan: Plan) -> str:
    least = min((fit.needs_bytes for fit in plan.serving.fits), default=0)
    need = f" with at least {least / 1e9:.0f} GB" if least else ""
    return f"choose a smaller model, for example llava-v1.5-7b, or a machine{need}"


def _held(cache: Cache, digest: object) -> bool:
    name = getattr(digest, "hex", None)
    return name is not None and cache.path(name) is not None
