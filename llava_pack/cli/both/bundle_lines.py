"""A bundle in 15 lines: what it is, what it needs, what it serves, where it came from."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llava_pack.assemble.needs import target_needs
from llava_pack.cli.language import translated
from llava_pack.cli.progress_line import padded
from llava_pack.format.errors import PackError
from llava_pack.format.manifest import Manifest
from llava_pack.format.signature import KEY_NAME, SIG_NAME, parse_public_key
from llava_pack.format.text import human_bytes
from llava_pack.runtimes import RUNTIMES

_SOURCES = ("model", "base", "vision_tower")
_MOST_BYTES = 4096


def bundle_lines(folder: Path, bundle_id: str, manifest: Manifest) -> Iterator[str]:
    """Yield what a person wants to know of a bundle first; nothing is verified."""
    yield f"{manifest.recipe.name}: {manifest.recipe.title}"
    for label, text in _rows(folder, bundle_id, manifest):
        yield f"  {padded(label, 9)}  {text}"


def _rows(folder: Path, bundle_id: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield labels and what stands beside them, both in the person's language."""
    made = datetime.fromtimestamp(manifest.release, UTC).strftime("%Y-%m-%d %H:%M UTC")
    model, serving, python = manifest.model, manifest.serving, manifest.python
    carried = [entry for entry in manifest.files if entry.carried]
    size, files = human_bytes(sum(entry.size_bytes for entry in carried)), len(carried)
    wheels = sum(entry.carried for entry in manifest.under("wheels"))
    yield translated("bundle id"), bundle_id
    yield translated("signed by"), translated(_signer(folder))
    yield translated("release"), translated(f"{made}, made by {manifest.created_by}")
    if wheels == 1:
        yield translated("size"), translated(f"{size} in {files} files, 1 wheel of them")
    else:
        yield translated("size"), translated(f"{size} in {files} files, {wheels} wheels of them")
    if absent := manifest.left_out:
        amount = human_bytes(sum(entry.size_bytes for entry in absent))
        left = f"{len(absent)} wheels, {amount}: the server fetches them from an index"
        yield translated("left out"), translated(left)
    tower = model.vision_tower
    inside = "inside the model" if tower is None else tower.rpartition("/")[2]
    stated = f"{model.name} ({model.format}), vision tower {inside}, {model.conv_mode}"
    yield translated("model"), translated(stated)
    ran = f"{_runtime(manifest)}; Python {python.version}"
    whose = "in the bundle" if python.kind == "standalone" else "the target's own"
    yield translated("runtime"), f"{ran}, {translated(whose)}"
    yield translated("needs"), ", ".join(map(translated, target_needs(manifest)))
    device = serving.device if serving.gpus == 1 else f"{serving.device} over {serving.gpus} GPUs"
    yield (
        translated("serves"),
        translated(
            f"{serving.precision} on {device}: {serving.slots} concurrent requests, "
            f"{serving.context_tokens} tokens each"
        ),
    )
    terms = f"{manifest.licence.id}, {manifest.licence.url}"
    yield (
        translated("licence"),
        translated(f"{terms}, accepted") if manifest.licence.accepted else terms,
    )
    label = translated("came from")
    for name in _SOURCES:
        if source := manifest.lock.get(name):
            yield label, source
            label = ""
    asked, recorded = len(manifest.known_answers), len(manifest.references)
    if asked == 1:
        tests = f"1 known answer; recorded in the build: {recorded}"
    else:
        tests = f"{asked} known answers; recorded in the build: {recorded}"
    yield translated("tested by"), translated(tests)


def _runtime(manifest: Manifest) -> str:
    """Return what serves the model, an engine of others with its version."""
    runtime = RUNTIMES[manifest.serving.engine]
    title = translated(runtime.title)
    version = None if runtime.profile is None else manifest.lock.get("engine")
    return title if version is None else f"{title} {version}"


def _signer(folder: Path) -> str:
    """Return whose key a bundle says that it is signed with."""
    if not (folder / SIG_NAME).is_file():
        return "nobody: compare the bundle id with the card"
    try:
        with (folder / KEY_NAME).open("rb") as file:
            key = parse_public_key(file.read(_MOST_BYTES))
    except (OSError, PackError):
        return f"a key that {KEY_NAME} does not show"
    return f"{key.fingerprint}, says {KEY_NAME}"
