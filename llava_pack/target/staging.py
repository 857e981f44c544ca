"""A generation in the making: placed, built and tested beside the one that serves."""

import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import llava_pack
from llava_pack.format import files, records
from llava_pack.format.errors import InstallError, IntegrityError, PackError
from llava_pack.format.manifest import Manifest
from llava_pack.format.pointers import installed_file
from llava_pack.format.progress import Progress
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME
from llava_pack.format.text import human_bytes
from llava_pack.target import (
    disk,
    generations,
    journal,
    rebuilding,
    receipt,
    receipt_page,
    serving,
    silence,
    smoke,
    unlisted,
    venv,
)
from llava_pack.target import need as needs
from llava_pack.target.need import IncompleteError, LackError, Need
from llava_pack.target.planning import InstallPlan, InstallRequest
from llava_pack.target.receipt import Receipt
from llava_pack.target.store import Store


@dataclass(kw_only=True)
class InstallRun:
    """One run: the values that its steps share."""

    request: InstallRequest
    plan: InstallPlan
    progress: Progress
    number: int
    step_ms: dict[str, int] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self.plan.manifest.recipe.name

    @property
    def folder(self) -> Path:
        """Of the generation, whatever links lead to the prefix: what is in it names it so."""
        prefix = Path(os.path.realpath(self.request.prefix))
        return generations.generation_folder(prefix, self.recipe, self.number)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record a step before it begins, and how long it took."""
        facts = {"operation": "install", "recipe": self.recipe, "generation": self.number}
        journal.record(self.request.prefix, name, **facts)
        began = time.monotonic()
        yield
        self.step_ms[name] = int((time.monotonic() - began) * 1000)


def stage(staging: InstallRun) -> None:
    """Make a complete generation; where that fails, nothing of it is left but verified files.

    Raises:
        PackError: what failed, and which generation is active; `SpaceError` for a full disk.
    """
    prefix = staging.request.prefix
    with receipt.unshaken([item.root for item in generations.listing(prefix)]):
        try:
            _build(staging, Store(prefix))
        except BaseException as error:
            disk.remove_tree(staging.folder)
            serving.resume(prefix, staging.progress)
            journal.close(prefix)
            full = isinstance(error, OSError) and error.errno in files.FULL
            if full or not isinstance(error, InstallError | OSError):
                raise
            active = generations.state(prefix, staging.recipe)
            hint = getattr(error, "hint", "") or (
                "fix the cause, then run the same command again: the verified files are kept"
            )
            raise InstallError(f"{error}; {active}", hint=hint) from error


def _build(staging: InstallRun, store: Store) -> None:
    request = staging.request
    manifest = staging.plan.manifest
    folder = staging.folder
    progress = staging.progress
    links = staging.plan.links
    if links:
        with staging.step("fetch"):
            wanted = [entry for entry in manifest.left_out if entry.path in links]
            request.indexes.fetch(wanted, links, store, progress)
    with staging.step("place"):
        needs.begin(request.prefix, staging.plan.listing.bundle_id, staging.plan.manifest_bytes)
        placed = _place(staging, store)
        fetched = sum(entry.size_bytes for entry in manifest.left_out if entry.path in links)
        placed.update(fetched=fetched, stored=-fetched)
        if before := placed["stored"]:
            total = human_bytes(placed.total())
            progress.note(f"{human_bytes(before)} of {total} were here already")
    with staging.step("python"):
        folder.mkdir(parents=True)
        python = venv.unpack_python(manifest, store, folder) or staging.plan.python
    with staging.step("venv"):
        progress.start("building the venv", None)
        interpreter = venv.build(manifest, store, folder, python, staging.plan.kept)
        progress.done()
    with staging.step("model"):
        place_model(manifest, store, folder)
        files.write(folder / SUMS_NAME, staging.plan.listing.sums_bytes, 0o444)
        files.write(folder / MANIFEST_NAME, staging.plan.manifest_bytes, 0o444)
    with staging.step("smoke"):
        if staging.plan.pause:
            progress.note("not enough GPU memory is free: the running server stops for the swap")
            serving.hand_over(request.prefix, staging.recipe, staging.number, "stop")
        progress.start("asking the known questions", None)
        with disk.settling(folder, without=folder / venv.SCRATCH):
            report = smoke.ask(manifest, folder, interpreter, request.accepted, staging.plan.kept)
        progress.done()
    with staging.step("seal"):
        receipt.seal(folder)
        proof = _receipt(staging, python, placed, report)
        page = receipt_page.render(proof, manifest).encode()
        files.write(folder / receipt_page.NAME, page, 0o444)
        disk.sync_all(folder)
        receipt.write(folder, proof)


def _place(staging: InstallRun, store: Store) -> Counter[str]:
    """Bring every file into the store.

    Raises:
        IncompleteError: some are missing or bad; what to bring is written down.
    """
    plan = staging.plan
    prefix = staging.request.prefix
    try:
        return _place_or_mend(staging, store)
    except LackError as error:
        if any(not lack.entry.carried for lack in error.lacks):
            raise
        identity = plan.listing.bundle_id
        found = (unlisted.part_at(plan.listing, root) for root in plan.listing.roots)
        read = needs.media_read(prefix, identity, [one for one in found if one is not None])
        need = Need(bundle_id=identity, lacks=read.beyond(error.lacks) or error.lacks)
        kept = needs.keep(prefix, need, read)
        raise IncompleteError(error, need, read, kept) from error


def _place_or_mend(staging: InstallRun, store: Store) -> Counter[str]:
    """Bring every file into the store, bad ones by way of recovery volumes where there are any."""
    plan = staging.plan
    progress = staging.progress
    consume = staging.request.consume
    try:
        return store.place(plan.contents, plan.manifest, progress, consume=consume)
    except LackError as error:
        if not plan.contents.parity:
            raise
        with tempfile.TemporaryDirectory(dir=store.incoming) as folder:
            media = (plan.listing, plan.contents, plan.manifest)
            found = rebuilding.rebuilt(*media, error.lacks, store, Path(folder), progress)
            try:
                places = list(found)
            except PackError as failed:
                progress.note(f"! recovery volumes do not help: {failed}")
                raise error from failed
            if not places:
                raise
            more = rebuilding.with_places(plan.contents, places)
            return store.place(more, plan.manifest, progress, consume=consume)


def place_model(manifest: Manifest, store: Store, generation: Path) -> None:
    """Link the model's files out of the store, and write those that name absolute paths.

    Raises:
        IntegrityError: a file does not hold what its rewrite says that was packed.
    """
    for entry in manifest.under("model"):
        disk.link_or_copy(store.path(entry.sha256), generation / entry.path)
    finalise(manifest, store, generation)


def finalise(manifest: Manifest, store: Store, generation: Path) -> None:
    """Write the files of a model that name absolute paths, as they stand in this place.

    Raises:
        IntegrityError: a file does not hold what was packed.
    """
    for entry in manifest.under("model"):
        rules = [r for r in manifest.rewrites if r.path == entry.path and r.installed is not None]
        if rules:
            packed = store.path(entry.sha256).read_bytes()
            if sha256(packed).hexdigest() != entry.sha256:
                raise IntegrityError("changed in the store", subject=entry.path)
            landed = installed_file(packed, rules, generations.model_root(generation))
            if (generation / entry.path).read_bytes() != landed:
                files.write(generation / entry.path, landed, 0o444)


def _receipt(
    staging: InstallRun, python: Path, placed: Counter[str], report: dict[str, Any]
) -> Receipt:
    manifest = staging.plan.manifest
    listing = staging.plan.listing
    indexes = staging.request.indexes
    return Receipt(
        bundle_id=listing.bundle_id,
        recipe=staging.recipe,
        release=manifest.release,
        generation=staging.number,
        installed_at=max(0, int(time.time())),
        installed_by=f"llava-pack {llava_pack.__version__}",
        verified=staging.plan.verdict.facts(),
        files=len(manifest.files) + 1,
        size_bytes=manifest.size_bytes,
        hashed_with=f"hashlib of Python {platform.python_version()}",
        placed=dict(+placed),
        preflight=tuple(records.encode(staging.plan.findings)),
        python=str(python),
        smoke=report,
        silence=silence.facts(*((indexes.urls, indexes.hosts) if staging.plan.links else ())),
        step_ms=staging.step_ms,
        kept=staging.plan.kept,
    )
