"""What an install would do: everything that can be found out before anything is written."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llava_pack.format import records
from llava_pack.format.errors import UsageError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import FileEntry, Manifest
from llava_pack.format.progress import Progress
from llava_pack.format.target import FloorFinding
from llava_pack.format.text import human_bytes
from llava_pack.target import (
    environment,
    failures,
    generations,
    inventory,
    ownership,
    package_index,
    preflight,
    receipt_page,
    serving,
    trust,
    unlisted,
    venv,
)
from llava_pack.target.contents import MediaContents, recognised, survey
from llava_pack.target.inventory import BundleListing, FileDefect
from llava_pack.target.need import COLLECTING, read_manifest
from llava_pack.target.store import Store


@dataclass(frozen=True, kw_only=True)
class InstallRequest:
    """What a person asked to install."""

    bundle: Path
    expect: str | None
    prefix: Path
    others: tuple[Path, ...] = ()
    """More media with files of the bundle."""
    collect: bool = False
    """Keep what is there, although files are missing: later media bring them."""
    python: Path | None = None
    """For a bundle that carries no interpreter; None takes the running one."""
    trust_key: str | None = None
    recipe: str | None = None
    """That the bundle must be of; None lets `--expect` or what is installed decide."""
    allow_downgrade: bool = False
    consume: bool = False
    """Move the large files off the medium, where it is on the same disk."""
    over_ssh: bool = False
    """`deploy` gives the id, through the ssh session of a person who built the bundle."""
    downtime: bool = True
    """A server that leaves too little GPU memory may be stopped for the swap."""
    accepted: Sequence[str] = ()
    """Names of known answers that may be wrong."""
    kept: Sequence[str] = ()
    """Names of variables that the smoke test gets, and then what serves."""
    indexes: package_index.NamedIndexes = package_index.NOBODY
    """That have the wheels which the bundle leaves out."""


@dataclass(frozen=True, kw_only=True)
class InstallPlan:
    """What an install would do, found out without writing anything."""

    listing: BundleListing
    contents: MediaContents
    verdict: trust.Verdict
    manifest: Manifest
    manifest_bytes: bytes
    findings: tuple[FloorFinding, ...]
    python: Path
    placing: Mapping[str, int]
    """By way (stored, moved, linked, copied, fetched), how many bytes would come into the store;
    what is missing counts as copied."""
    links: Mapping[str, str]
    """Of each wheel that is fetched, by its path: where an index has it."""
    pause: bool
    """The server that runs leaves too little GPU memory to test the new version beside it."""
    kept: tuple[str, ...] = ()
    """Names of the variables that the smoke test gets, all of them set."""

    def facts(self) -> dict[str, Any]:
        """Return what `--dry-run --json` shows."""
        ways = {"copy": "copied", "link": "linked", "move": "moved", "stored": "stored"}
        ways["fetch"] = "fetched"
        sizes = {f"{name}_bytes": self.placing.get(way, 0) for name, way in ways.items()}
        rest = max(0, self.manifest.floors.disk_bytes - self.manifest.size_bytes)
        findings = records.encode(self.findings)
        return {**sizes, "environment_bytes": rest, "findings": findings}

    def line(self) -> str:
        """Return the same for a person."""
        text = (
            "would copy {copy_bytes} (or clone it, where the file system can), link {link_bytes}, "
            "move {move_bytes}, fetch {fetch_bytes} from an index; {stored_bytes} are stored "
            "already; the environment takes about {environment_bytes} more"
        )
        facts = self.facts()
        return text.format(**{n: human_bytes(facts[n]) for n in facts if n.endswith("_bytes")})


def plan(request: InstallRequest, progress: Progress) -> InstallPlan:
    """Check all that can be checked without writing: the id, the machine, the names of the files.

    Raises:
        UsageError: an id is said to have come over ssh, and there is none.
        CannotVerifyError: there is no id and no trusted key to verify against, or no tool.
        SignatureError: the bundle has another id, or its signature is bad.
        DowngradeError: a newer release is installed.
        IntegrityError: files are missing, extra or no plain files, or the manifest is changed.
        PreflightError: another account could change what is under the prefix, or this machine
            cannot run the bundle; every reason is named.
        SpaceError: only disk or memory is short.
    """
    with failures.explained(request.prefix):
        ownership.check_prefix(request.prefix)
        return _plan(request, progress)


def _plan(request: InstallRequest, progress: Progress) -> InstallPlan:
    listing = inventory.read_listing(request.bundle, expect=request.expect, others=request.others)
    verdict = trust.judge(listing, trust_key=request.trust_key, prefix=request.prefix)
    if request.over_ssh:
        verdict = _over_ssh(request, verdict)
    trust.check_named(verdict, request.bundle)
    manifest, manifest_bytes = read_manifest(request.prefix, listing, progress)
    kept = _named(request, manifest)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(manifest.release))
    progress.note(
        f"{manifest.recipe.name}: {manifest.recipe.title}, release {when}, id {listing.bundle_id}"
    )
    trust.check_change(
        request.prefix,
        manifest,
        listing.bundle_id,
        recipe=request.recipe,
        named=request.expect is not None,
        allow_downgrade=request.allow_downgrade,
    )
    python, version = _python(request, manifest)
    store = Store(request.prefix)
    contents = recognised(survey(listing), manifest)
    placing = store.foresee(contents, manifest, consume=request.consume)
    serves = serving.serves(request.prefix, manifest.recipe.name)
    memory = preflight.free_gpu_memory(manifest, serves=serves, downtime=request.downtime)
    found = preflight.findings(
        manifest,
        request.prefix,
        python_version=version,
        present_bytes=sum(placing.values()) - placing["copied"] - placing["fetched"],
        now=time.time(),
        kept=kept,
        lost=sorted({*request.kept, *generations.kept(request.prefix)} - {*kept}),
    )
    absent = [one for one in manifest.left_out if not store.path(one.sha256).is_file()]
    others = unlisted.account(listing, manifest, verdict.key)
    found = (
        *found,
        *memory,
        *_left_out(request, manifest, absent),
        _files(request, listing, contents, manifest, others),
    )
    for line in _told(request, found, (*contents.strange, *others.defects)):
        progress.note(line)
    preflight.check(found)
    links = request.indexes.locate(absent)
    return InstallPlan(
        listing=listing,
        contents=contents,
        verdict=verdict,
        manifest=manifest,
        manifest_bytes=manifest_bytes,
        findings=found,
        python=python,
        placing=placing,
        links=links,
        pause=serves and any(item.level == "warn" for item in memory),
        kept=kept,
    )


def _named(request: InstallRequest, manifest: Manifest) -> tuple[str, ...]:
    """Look at the names that a person typed, and return the variables to be kept that are set."""
    names = [one.name for one in manifest.known_answers]
    if unknown := ", ".join(name for name in request.accepted if name not in names):
        message = f"no such known answer, expected one of {', '.join(names)}"
        raise UsageError(message, subject=f"--accept-answer {unknown}")
    return environment.those_set(request.kept, os.environ)


def _told(
    request: InstallRequest, found: Sequence[FloorFinding], defects: Iterable[FileDefect]
) -> Iterator[str]:
    """Yield what was found; of a medium also what is wrong and stops nothing, facts only once."""
    again = request.collect and (request.prefix / COLLECTING).is_dir()
    yield from (f"! {defect}" for defect in defects if request.collect)
    shown = (one for one in found if one.level != "ok" or not again)
    yield from (receipt_page.mark(records.encode(one)) for one in shown)


def _over_ssh(request: InstallRequest, verdict: trust.Verdict) -> trust.Verdict:
    """Say in a verdict how the id came."""
    if request.expect is None:
        raise UsageError("has no meaning without --expect", subject="--over-ssh")
    client = os.environ.get("SSH_CONNECTION", "?").partition(" ")[0]
    return replace(verdict, expect=f"over ssh from {client}, by llava-pack deploy")


def _python(request: InstallRequest, manifest: Manifest) -> tuple[Path, str | None]:
    """Return the interpreter for a bundle that carries none, and the version that will run."""
    python = venv.host_python(request.python)
    if manifest.python.kind != "target":
        return python, manifest.python.version
    if os.geteuid() == 0:
        ownership.check(python)  # whoever can change it, root would run
    # an interpreter below the prefix would vanish with the generation that holds it
    lasting = not python.is_relative_to(request.prefix)
    return python, venv.host_version(python) if lasting else None


def _left_out(
    request: InstallRequest, manifest: Manifest, absent: list[FileEntry]
) -> Iterator[FloorFinding]:
    """Yield where the wheels come from that the bundle leaves out, nothing where there are none."""
    urls = ", ".join(request.indexes.urls)
    if not manifest.left_out:
        if urls:
            need = "no index: --index is not used, nobody is asked"
            yield FloorFinding("wheels", "ok", "all are in the bundle", need)
        return
    size_bytes = sum(one.size_bytes for one in absent)
    count = len(absent)
    total = len(manifest.left_out)
    value = "all are stored"
    if absent and urls:
        value = f"{count} of {total} are to be fetched, {size_bytes} bytes, from {urls}"
    elif absent:
        value = f"{count} of {total} are to be fetched, {size_bytes} bytes, and no index was named"
    fix = "add --index URL, the package index that this machine reaches, to the same command"
    level: Literal["ok", "fail"] = "ok" if urls or not absent else "fail"
    yield FloorFinding("wheels", level, value, "a package index: the bundle leaves them out", fix)


def _files(
    request: InstallRequest,
    listing: BundleListing,
    contents: MediaContents,
    manifest: Manifest,
    others: unlisted.Accounted,
) -> FloorFinding:
    """Hold the names on the media against the list; what is stored already may be gone there."""
    store = Store(request.prefix)
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    held = {
        digest
        for path, digest in listing.sums.items()
        if contents.present(path, sizes.get(path))
        or (path in contents.pieces and store.partial(digest).is_file())
    }
    absent = [
        path
        for path, digest in listing.sums.items()
        if digest not in held and not store.path(digest).is_file()
    ]
    total = len(listing.sums)
    missing = [FileDefect(path, "missing", "a file", "nothing") for path in absent]
    defects = [*contents.strange, *missing, *others.defects]
    if request.collect:  # a bad file never costs the good ones; but nothing may ride along
        defects = [one for one in contents.strange if one.problem != "unreadable"]
    named = ", ".join(others.sizes)
    value = f"all {total} are present; unlisted, as expected: {named}"
    if absent:
        here = total - len(absent)
        value = f"{here} of {total} are present; unlisted, as expected: {named}"
    if contents.litter:
        value = f"{value}; {contents.litter} files of operating systems are ignored"
    value = inventory.refusal(defects, of=total).message if defects else value
    need = "every listed file, and no other"
    fix = _files_fix(listing, defects)
    return FloorFinding("files", "fail" if defects else "ok", value, need, fix, ExitCode.INTEGRITY)


def _files_fix(listing: BundleListing, defects: Sequence[FileDefect]) -> str:
    parts = [unlisted.part_at(listing, root) for root in listing.roots]
    problems = {one.problem for one in defects}
    if problems == {"missing"} and any(parts):
        return "this is a medium of several: add --collect, or name the others with --bundle too"
    if problems == {"extra"}:
        return "remove what is extra from the medium, then run the same command"
    return inventory.COPY_AGAIN
