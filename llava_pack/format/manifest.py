"""The manifest: everything that a bundle says about itself, as frozen values.

Source: docs/reference/bundle-format.md, "MANIFEST.json".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llava_pack.format import canonical, records
from llava_pack.format.chunks import NO_CHUNKS, Chunks
from llava_pack.format.errors import IntegrityError
from llava_pack.format.inodes import guessed_inodes
from llava_pack.format.known_answers import KnownAnswer, Reference, check_reference
from llava_pack.format.paths import check_unique, component_defect, path_defect
from llava_pack.format.sums import ENGINE_LOCK, MANIFEST_NAME, MAX_FILES, UNLISTED

FORMAT = 3  # newest that is read: 1 holds every file, 2 not every wheel, 3 a lock of an engine's
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_FILE_BYTES = 3_900_000_000  # so that FAT32 holds every file
MODES = (0o644, 0o755)
MODEL_ROOT = "{model_root}"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Engine = Literal["transformers", "upstream", "vllm", "sglang", "lmdeploy"]
"""llava-pack's own engine, LLaVA's own `llava.serve`, or an engine of the field."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the bundle; every listed file has one, but for the manifest itself."""

    path: str
    size_bytes: int
    mode: int
    """Permissions applied at install: 0644 or 0755."""
    sha256: str
    origin: Mapping[str, Any]
    """Where it came from, and by `kind` how; see the source above for the kinds."""

    @property
    def carried(self) -> bool:
        """Whether the bundle holds it; a wheel of kind `index` is fetched by the target itself."""
        return self.origin.get("kind") != "index"


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """One value in a JSON file that was changed while packing, and changes again where it lands."""

    path: str
    pointer: str
    """RFC 6901, for example `/mm_vision_tower`."""
    old: str | None
    """What the publisher wrote; None where the key was absent."""
    new: str | None
    """What the bundle holds; None where the key was removed."""
    installed: str | None
    """What the installer writes, `{model_root}` for the absolute `model`; None keeps it packed."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Where the model is in the bundle, and how to talk to it."""

    name: str
    path: str
    format: Literal["original", "hf"]
    vision_tower: str | None
    """Folder of the vision tower in the bundle, None where it is inside the model."""
    conv_mode: str
    tokenizer: str | None = None
    """Folder of tokenizer and processor, None where they are inside the model."""


@dataclass(frozen=True, kw_only=True)
class Floors:
    """The least that a target must have."""

    python: str
    """Minor version, for example 3.11."""
    python_tag: str
    platform: str
    arch: str
    glibc: str | None
    driver: str | None
    compute_capability: str | None
    disk_bytes: int
    memory_bytes: Mapping[str, int]
    """By precision: of the GPUs that share it where `driver` is given, else of the machine."""
    cpu_flags: tuple[str, ...]
    glibcxx: str | None = None
    """Newest symbol version of the system's C++ library that is used, for example 3.4.22."""
    disk_inodes: int = 0
    """Files and folders that an installation makes, at most; 0 where nobody counted them."""
    tools: tuple[str, ...] = ()  # of the system, that the engine compiles with while it serves


@dataclass(frozen=True, kw_only=True)
class ServingProfile:
    """What `serve` starts with."""

    engine: Engine
    precision: str
    device: Literal["auto", "cpu", "cuda"]
    context_tokens: int
    slots: int
    gpus: int = 1  # that share the model


@dataclass(frozen=True, kw_only=True)
class RecipeEntry:
    """What was asked for."""

    name: str
    title: str


@dataclass(frozen=True, kw_only=True)
class LicenceEntry:
    """What the weights may be used for."""

    id: str
    url: str
    gated: bool
    """Its terms have to be accepted before anything is fetched."""
    accepted: bool = False
    """Whoever built the bundle accepted them."""
    model: str = ""
    """Folder of the model that it is of."""


@dataclass(frozen=True, kw_only=True)
class PythonEntry:
    """The interpreter: an archive in the bundle, or the target's own."""

    kind: Literal["standalone", "target"]
    version: str
    path: str | None
    """The archive in the bundle, None for the target's own."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What MANIFEST.json says."""

    format: int = 1
    release: int
    """UTC seconds, fixed when the lock was written."""
    created_by: str
    recipe: RecipeEntry
    licence: LicenceEntry
    model: ModelEntry
    python: PythonEntry
    lock: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    rewrites: tuple[Rewrite, ...]
    floors: Floors
    serving: ServingProfile
    known_answers: tuple[KnownAnswer, ...]
    other_licences: tuple[LicenceEntry, ...] = ()
    """Of the base and of the vision tower, as far as the recipe states them."""
    references: tuple[Reference, ...] = ()
    start_here_sha256: str | None = None
    """Of START-HERE.txt, which is not listed; None where it is as `start_here` renders it today."""
    chunks: Chunks = NO_CHUNKS
    """Of large files; none in a bundle that an earlier version built."""

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def inodes(self) -> int:
        """The files and folders that an installation makes; about, where nobody counted them."""
        wheels = (entry.size_bytes for entry in self.under("wheels"))
        return self.floors.disk_inodes or len(self.files) + guessed_inodes(wheels)

    @property
    def left_out(self) -> tuple[FileEntry, ...]:
        """Return the wheels that the target fetches from a package index."""
        return tuple(entry for entry in self.files if not entry.carried)

    def under(self, folder: str) -> tuple[FileEntry, ...]:
        """Return the files below `folder`, in their order."""
        return tuple(entry for entry in self.files if entry.path.startswith(f"{folder}/"))


def render_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of MANIFEST.json, files sorted by path.

    Raises:
        IntegrityError: the manifest breaks a rule that its reader would refuse.
    """
    fields = records.encode(manifest)
    fields["files"].sort(key=lambda entry: str(entry["path"]))
    data = canonical.dumps(fields)
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Return what MANIFEST.json says.

    Raises:
        IntegrityError: it is no manifest, of a later format, or breaks rules; each is named.
    """
    value = canonical.loads(data, max_bytes=MAX_MANIFEST_BYTES)
    stated = value.get("format") if isinstance(value, dict) else None
    if type(stated) is int and stated > FORMAT:
        raise IntegrityError(
            f"bundle format {stated}, expected at most {FORMAT}",
            subject=MANIFEST_NAME,
            hint=f"use a llava-pack that reads bundle format {stated}",
        )
    defects = records.Defects()
    if stated is None:
        defects.add("format", "missing")
    manifest = records.decode(Manifest, value, defects)
    if manifest is not None:
        _check(manifest, defects)
    if manifest is None or defects:
        raise IntegrityError(records.summary(defects), subject=MANIFEST_NAME)
    check_unique([entry.path for entry in manifest.files])
    return manifest


def _check(manifest: Manifest, defects: records.Defects) -> None:
    if manifest.format != (expected := expected_format(manifest.files)):
        defects.add("format", f"expected {expected}, got {manifest.format}")
    for where, name in (("recipe.name", manifest.recipe.name), ("model.name", manifest.model.name)):
        if defect := component_defect(name):
            defects.add(where, defect)
    if (welcome := manifest.start_here_sha256) and not _SHA256.fullmatch(welcome):
        defects.add("start_here_sha256", f"expected 64 hex digits, got {welcome!r:.80}")
    if len(manifest.files) > MAX_FILES:
        defects.add("files", f"expected at most {MAX_FILES}, got {len(manifest.files)}")
        return
    for index, entry in enumerate(manifest.files):
        _check_file(f"files[{index}]", entry, defects)
    if defect := manifest.chunks.defect({one.sha256: one.size_bytes for one in manifest.files}):
        defects.add("chunks", defect)
    _check_references(manifest, defects)
    for index, one in enumerate(manifest.references):
        check_reference(one, f"references[{index}]", defects)


def expected_format(files: Iterable[FileEntry]) -> int:
    """Return the format of a bundle of these files: the lowest whose readers understand it."""
    found = {3 if one.path == ENGINE_LOCK else 1 if one.carried else 2 for one in files}
    return max(found, default=1)


def _check_file(where: str, entry: FileEntry, defects: records.Defects) -> None:
    if entry.path == MANIFEST_NAME or entry.path in UNLISTED:
        defects.add(f"{where}.path", f"{entry.path} must not be listed")
    elif defect := path_defect(entry.path):
        defects.add(f"{where}.path", defect)
    if not entry.carried and not entry.path.startswith("wheels/"):
        defects.add(f"{where}.origin", "expected a wheel, which alone a bundle may leave out")
    if not _SHA256.fullmatch(entry.sha256):
        defects.add(f"{where}.sha256", f"expected 64 hex digits, got {entry.sha256!r:.80}")
    if entry.size_bytes > MAX_FILE_BYTES:
        defects.add(f"{where}.size_bytes", f"expected at most {MAX_FILE_BYTES}")
    if entry.mode not in MODES:
        defects.add(f"{where}.mode", f"expected 0644 or 0755, got {entry.mode:#o}")


def _check_references(manifest: Manifest, defects: records.Defects) -> None:
    paths = {entry.path for entry in manifest.files}
    model = manifest.model
    if model.path != f"model/{model.name}" or not manifest.under(model.path):
        defects.add("model.path", f"expected model/{model.name} with files, got {model.path!r:.80}")
    for name, place in (("vision_tower", model.vision_tower), ("tokenizer", model.tokenizer)):
        if place is not None and (not _is_model_folder(place) or not manifest.under(place)):
            defects.add(f"model.{name}", f"expected a folder of model/, got {place!r:.80}")
    archives = [path for path in paths if path.startswith("runtime/cpython-")]
    if archives != ([manifest.python.path] if manifest.python.kind == "standalone" else []):
        defects.add("python.path", f"expected {archives or 'none'}, got {manifest.python.path!r}")
    if not f"{manifest.python.version}.".startswith(f"{manifest.floors.python}."):
        defects.add("python.version", f"expected {manifest.floors.python}, as the floor says")
    for index, rule in enumerate(manifest.rewrites):
        where = f"rewrites[{index}]"
        if rule.path not in paths or not rule.path.startswith("model/"):
            defects.add(f"{where}.path", f"expected a listed file of model/, got {rule.path!r:.80}")
        if not rule.pointer.startswith("/"):
            defects.add(f"{where}.pointer", f"expected a JSON pointer, got {rule.pointer!r:.80}")
        if rule.installed is not None and not _lands_inside(rule.installed):
            message = f"expected {MODEL_ROOT}/…, got {rule.installed!r:.80}"
            defects.add(f"{where}.installed", message)


def _is_model_folder(path: str) -> bool:
    return path.startswith("model/") and path.count("/") == 1 and path_defect(path) is None


def _lands_inside(template: str) -> bool:
    return template.startswith(f"{MODEL_ROOT}/") and path_defect(template.partition("/")[2]) is None
