"""Install: check everything, place every byte once, stage, test, then switch by one rename."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llava_pack
from llava_pack.format.errors import CannotVerifyError, InstallError
from llava_pack.format.manifest import Manifest
from llava_pack.format.pointers import installed_file
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME
from llava_pack.format.target import Finding
from llava_target import disk, generations, inventory, journal, preflight, receipt, smoke, venv
from llava_target.inventory import Listing
from llava_target.receipt import Receipt
from llava_target.store import Store


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked to install."""

    bundle: Path
    expect: str | None
    prefix: Path
    python: Path | None = None
    """For a bundle that carries no interpreter; None takes the running one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an install would do, found out without writing anything."""

    listing: Listing
    manifest: Manifest
    manifest_bytes: bytes
    findings: tuple[Finding, ...]
    python: Path
    copy_bytes: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an install came to."""

    recipe: str
    generation: int
    bundle_id: str
    prefix: Path
    unchanged: bool
    """This very bundle was installed and active already."""

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows; `next` is the absolute command to run next."""
        next_command = generations.command(self.prefix)
        return {**vars(self), "prefix": str(self.prefix), "next": next_command}


@dataclass(kw_only=True)
class _Staging:
    """One run: the values that its steps share."""

    request: Request
    plan: Plan
    progress: Progress
    number: int
    step_ms: dict[str, int] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        return self.plan.manifest.recipe.name

    @property
    def folder(self) -> Path:
        return generations.generation_folder(self.request.prefix, self.recipe, self.number)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record a step before it begins, and how long it took."""
        facts = {"operation": "install", "recipe": self.recipe, "generation": self.number}
        journal.record(self.request.prefix, name, **facts)
        began = time.monotonic()
        yield
        self.step_ms[name] = int((time.monotonic() - began) * 1000)


def plan(request: Request) -> Plan:
    """Check all that can be checked without writing: the id, the machine, the names of the files.

    Raises:
        CannotVerifyError: there is no id to verify against.
        SignatureError: the bundle has another id.
        IntegrityError: files are missing, extra or no plain files, or the manifest is changed.
        PreflightError: this machine cannot run the bundle; every reason is named.
        SpaceError: only disk or memory is short.
    """
    if not request.expect:
        raise CannotVerifyError(
            "there is nothing to verify this bundle against, expected --expect",
            subject=str(request.bundle),
            hint=f"llava-pack install {request.bundle} --expect ID, with the id from the card",
        )
    listing = inventory.read_listing(request.bundle, expect=request.expect)
    manifest, manifest_bytes = inventory.read_manifest(listing)
    stored = Store(request.prefix).stored_bytes(manifest.files)
    python = venv.host_python(request.python)
    version: str | None = manifest.python.version
    if manifest.python.kind == "target":
        # an interpreter below the prefix would vanish with the generation that holds it
        lasting = not python.is_relative_to(request.prefix)
        version = venv.host_version(python) if lasting else None
    found = preflight.findings(
        manifest, request.prefix, python_version=version, stored_bytes=stored
    )
    preflight.check(found)
    if defects := inventory.survey(listing):
        raise inventory.refusal(defects, of=len(listing.sums))
    return Plan(
        listing=listing,
        manifest=manifest,
        manifest_bytes=manifest_bytes,
        findings=found,
        python=python,
        copy_bytes=manifest.size_bytes - stored,
        stored_bytes=stored,
    )


def install(request: Request, progress: Progress) -> Outcome:
    """Install a bundle, or say that it is installed; whatever fails, what was active stays active.

    Raises:
        PackError: as `plan`; `InstallError` where the venv or the smoke test fails or another
            installer is running; `SpaceError` where the disk fills up.
    """
    planned = plan(request)
    manifest, bundle_id = planned.manifest, planned.listing.bundle_id
    recipe, title = manifest.recipe.name, manifest.recipe.title
    progress.note(f"{recipe}: {title}, release {manifest.release}, id {bundle_id}")
    with disk.room_on(request.prefix), journal.locked(request.prefix):
        number = recover(request.prefix, recipe, progress)
        present = _present(request.prefix, recipe, bundle_id)
        unchanged = present is not None and present == generations.current_number(
            request.prefix, recipe
        )
        if present is None:
            _stage(_Staging(request=request, plan=planned, progress=progress, number=number))
        generations.activate(request.prefix, recipe, present or number)
        journal.close(request.prefix)
    return Outcome(
        recipe=recipe,
        generation=present or number,
        bundle_id=bundle_id,
        prefix=request.prefix,
        unchanged=unchanged,
    )


def recover(prefix: Path, recipe: str, progress: Progress) -> int:
    """Remove what a killed run left, under the lock, and return the next generation's number."""
    taken = [0]
    if left := journal.unfinished(prefix):
        progress.note(f"an earlier {left.get('operation')} stopped at {left.get('step')}: going on")
        if left.get("recipe") == recipe:
            taken.append(int(left.get("generation") or 0))
    journal.clear_bootstraps(prefix)
    Store(prefix).clear_incoming()
    for folder in (prefix / "models").glob("*"):
        current = generations.current_number(prefix, folder.name)
        for number in generations.numbers(prefix, folder.name):
            root = generations.generation_folder(prefix, folder.name, number)
            if receipt.read(root) is None and number != current:
                disk.remove_tree(root)
            elif folder.name == recipe:
                taken.append(number)
    return max(taken) + 1


def _present(prefix: Path, recipe: str, bundle_id: str) -> int | None:
    for generation in reversed(generations.listing(prefix, recipe)):
        proof = generation.receipt
        if proof.bundle_id == bundle_id and receipt.intact(generation.root, proof):
            return generation.number
    return None


def _stage(staging: _Staging) -> None:
    try:
        with staging.step("place"):
            store = Store(staging.request.prefix)
            store.place(staging.request.bundle, staging.plan.manifest.files, staging.progress)
        _build(staging, store)
    except BaseException as error:
        disk.remove_tree(staging.folder)
        journal.close(staging.request.prefix)
        full = isinstance(error, OSError) and error.errno in disk.FULL
        if full or not isinstance(error, InstallError | OSError):
            raise
        active = generations.state(staging.request.prefix, staging.recipe)
        hint = "mend the cause, then run the same command again: the verified files are kept"
        raise InstallError(f"{error}; {active}", hint=hint) from error


def _build(staging: _Staging, store: Store) -> None:
    manifest, folder, progress = staging.plan.manifest, staging.folder, staging.progress
    scratch = folder / ".build"
    with staging.step("python"):
        scratch.mkdir(parents=True)
        python = venv.unpack_python(manifest, store, folder) or staging.plan.python
    with staging.step("venv"):
        progress.start("building the venv", None)
        interpreter = venv.build(manifest, store, folder, python)
        progress.done()
    with staging.step("model"):
        place_model(manifest, store, folder)
        disk.write_file(folder / SUMS_NAME, staging.plan.listing.sums_bytes, 0o444)
        disk.write_file(folder / MANIFEST_NAME, staging.plan.manifest_bytes, 0o444)
    with staging.step("smoke"):
        progress.start("asking the known questions", None)
        report = smoke.ask(manifest, folder, interpreter)
        progress.done()
    with staging.step("seal"):
        disk.remove_tree(scratch)
        disk.sync_tree(folder)
        receipt.write(folder, _receipt(staging, python, report))
        disk.sync(folder.parent)


def place_model(manifest: Manifest, store: Store, generation: Path) -> None:
    """Link the model's files out of the store, and write those that name absolute paths.

    Raises:
        IntegrityError: a file does not hold what its rewrite says that was packed.
    """
    model_root = os.fspath(generation / "model")
    for entry in manifest.under("model"):
        source, destination = store.path(entry.sha256), generation / entry.path
        rules = [r for r in manifest.rewrites if r.path == entry.path and r.installed is not None]
        if not rules:
            disk.link_or_copy(source, destination)
            continue
        landed = installed_file(source.read_bytes(), rules, model_root)
        destination.parent.mkdir(parents=True, exist_ok=True)
        disk.write_file(destination, landed, 0o444)


def _receipt(staging: _Staging, python: Path, report: dict[str, Any]) -> Receipt:
    manifest, listing = staging.plan.manifest, staging.plan.listing
    return Receipt(
        bundle_id=listing.bundle_id,
        recipe=staging.recipe,
        release=manifest.release,
        generation=staging.number,
        installed_at=int(time.time()),
        installed_by=f"llava-pack {llava_pack.__version__}",
        verified={"by": "--expect", "signature": "unsigned"},
        files=len(listing.sums),
        size_bytes=manifest.size_bytes,
        python=str(python),
        smoke=report,
        step_ms=staging.step_ms,
        seal=receipt.seal(staging.folder),
    )
