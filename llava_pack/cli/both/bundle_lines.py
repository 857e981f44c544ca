"""A bundle in 15 lines: what it is, what it needs, what it serves, where it came from."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llava_pack.format.errors import PackError
from llava_pack.format.manifest import Manifest
from llava_pack.format.signature import KEY_NAME, SIG_NAME, parse_public_key
from llava_pack.format.text import human_bytes
from llava_pack.runtimes import RUNTIMES

_SOURCES = ("model", "base", "vision_tower")
_MOST_BYTES = 4096


def bundle_lines(folder: Path, bundle_id: str, manifest: Manifest) -> Iterator[str]:
    """Yield what a person wants to know of a bundle first; nothing is verified."""
    made = datetime.fromtimestamp(manifest.release, UTC).strftime("%Y-%m-%d %H:%M UTC")
    model, serving, python = manifest.model, manifest.serving, manifest.python
    carried = [entry for entry in manifest.files if entry.carried]
    wheels = [entry for entry in manifest.under("wheels") if entry.carried]
    size = human_bytes(sum(entry.size_bytes for entry in carried))
    yield f"{manifest.recipe.name}: {manifest.recipe.title}"
    yield f"  bundle id  {bundle_id}"
    yield f"  signed by  {_signer(folder)}"
    yield f"  release    {made}, made by {manifest.created_by}"
    yield f"  size       {size} in {len(carried)} files, {len(wheels)} wheels of them"
    if absent := manifest.left_out:
        size = human_bytes(sum(entry.size_bytes for entry in absent))
        yield f"  left out   {len(absent)} wheels, {size}: the server fetches them from an index"
    tower = model.vision_tower
    inside = "inside the model" if tower is None else tower.rpartition("/")[2]
    yield f"  model      {model.name} ({model.format}), vision tower {inside}, {model.conv_mode}"
    whose = "in the bundle" if python.kind == "standalone" else "the target's own"
    yield f"  runtime    {RUNTIMES[serving.engine].title}; Python {python.version}, {whose}"
    yield f"  needs      {', '.join(_needs(manifest))}"
    gpus = f" over {serving.gpus} GPUs" if serving.gpus > 1 else ""
    requests = f"{serving.slots} concurrent requests, {serving.context_tokens} tokens each"
    yield f"  serves     {serving.precision} on {serving.device}{gpus}: {requests}"
    accepted = ", accepted" if manifest.licence.accepted else ""
    yield f"  licence    {manifest.licence.id}, {manifest.licence.url}{accepted}"
    label = "came from"
    for name in _SOURCES:
        if source := manifest.lock.get(name):
            yield f"  {label:<9}  {source}"
            label = ""
    asked, recorded = len(manifest.known_answers), len(manifest.references)
    yield f"  tested by  {asked} known answers; recorded in the build: {recorded}"


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


def _needs(manifest: Manifest) -> Iterator[str]:
    floors = manifest.floors
    yield floors.arch
    if floors.glibc is not None:
        yield f"glibc {floors.glibc}"
    if floors.driver is not None:
        yield f"NVIDIA driver {floors.driver}"
    if floors.compute_capability is not None:
        yield f"compute capability {floors.compute_capability}"
    memory = floors.memory_bytes.get(manifest.serving.precision)
    if memory is not None:
        yield f"{human_bytes(memory)} of {'memory' if floors.driver is None else 'GPU memory'}"
    yield f"{human_bytes(floors.disk_bytes)} of disk"
