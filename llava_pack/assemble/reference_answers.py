"""The known answers of a model, recorded while it is packed: what the server is held against.

A process of its own loads the packed model, so that its memory is given back. Recorded once, they
are kept beside the lock, or in the cache: another build of the same model takes them from there,
and gives the same bytes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llava_pack import __version__
from llava_pack.assemble.planning import BuildOptions, Plan
from llava_pack.assemble.runtimes import packed_for
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.elsewhere import own_defects
from llava_pack.checkpoint.footprint import footprint
from llava_pack.checkpoint.quantized import precision_ahead
from llava_pack.engine.known.questions import missing_words
from llava_pack.fetch.cache import Cache
from llava_pack.format import files, records
from llava_pack.format.errors import CheckpointError, UsageError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.precision import QUANTIZED
from llava_pack.format.text import human_bytes

SMALL_BYTES = 1 << 30
"""Weights up to here are recorded in every precision, larger ones in the one that serves."""
_SMALL_PRECISIONS = ("fp32", *QUANTIZED)
_NEEDED = (
    "torch",
    "transformers",
    "bitsandbytes",
    "accelerate",
    "numpy",
    "safetensors",
    "PIL",
    "sentencepiece",
    "google.protobuf",
    "psutil",
)
"""What the engine imports: the extra `quantize` alone has not all of it."""
_CONTEXT_TOKENS = 4096
_HINT = 'in a clone of llava-pack: uv tool install --force ".[serve]", or leave out --record'


def record(
    staging: Staging,
    plan: Plan,
    known: Sequence[KnownAnswer],
    options: BuildOptions,
    cache: Cache,
) -> tuple[Reference, ...]:
    """Return what the packed model answers to its known questions, in each precision.

    Args:
        staging: with the model's files in it; its progress hears what happens.
        plan: of the build.
        known: the questions.
        options: whether it is wanted (None records where this machine can, and says so where it
            cannot), and the file beside a lock, read if it is there and written else.
        cache: where the answers are kept without a lock.

    Raises:
        UsageError: it is wanted, and this machine cannot.
        CheckpointError: the model does not give its known answers, or cannot be run.
    """
    if options.record is False or not known or not packed_for(plan.recipe).recorded:
        return ()
    progress = staging.progress
    precisions = _precisions(plan)
    key = _key(staging, known, precisions)
    place = options.answers or cache.root / "answers" / f"{key}.json"
    if (found := _read(place, key)) is not None:
        return found
    if why := _cannot(plan, precisions):
        if options.record:
            raise UsageError(f"known answers cannot be recorded: {why}", hint=_hint(plan))
        progress.note(f"! known answers are not recorded: {why}; the first installation can do it")
        names = ", ".join(one.name for one in known)
        progress.note(
            f"! whether they are right ({names}) shows there; one that is wrong for this model "
            "stops the installation, unless --accept-answer NAME accepts it"
            if packed_for(plan.recipe).profile is None
            else f"! whether they are right ({names}) shows when it is served; one that is wrong "
            "for this model stops that, unless it was installed with --accept-answer NAME"
        )
        return ()
    progress.start(f"record known answers in {', '.join(precisions)}", None)
    recorded = _run(staging, plan, known, precisions)
    progress.done()
    _write(place, key, recorded)
    return recorded


def _precisions(plan: Plan) -> tuple[str, ...]:
    serving = plan.serving.profile.precision
    if plan.packing.precision or precision_ahead(plan.sources["model"].config):
        return (serving,)
    if plan.weights_bytes > SMALL_BYTES:
        return (serving,)
    profile = packed_for(plan.recipe).profile
    # an engine of the field quantizes nothing while it loads
    small = _SMALL_PRECISIONS if profile is None else ("fp32",)
    return tuple(dict.fromkeys((serving, *small)))


def _key(staging: Staging, known: Sequence[KnownAnswer], precisions: Sequence[str]) -> str:
    files = [f"{one.path} {one.sha256}" for one in staging.entries if one.path.startswith("model/")]
    asked = json.dumps([records.encode(one) for one in known])
    return sha256("\0".join([__version__, *precisions, asked, *files]).encode()).hexdigest()


def _cannot(plan: Plan, precisions: Sequence[str]) -> str:
    """Return why this machine cannot run the model, empty where it can."""
    if foreign := _foreign(plan):
        return foreign
    missing = [name for name in _NEEDED if not _importable(name)]
    if missing:
        return f"{', '.join(missing)} is not installed here"
    import psutil  # type: ignore[import-untyped]

    needed = max(
        footprint(
            *plan.sized,
            precision=precision,  # type: ignore[arg-type] # a recipe's precision is one of them
            device="cpu",
            context_tokens=min(plan.serving.profile.context_tokens, _CONTEXT_TOKENS),
            slots=1,
        ).total_bytes
        for precision in precisions
    )
    free = psutil.virtual_memory().available
    if needed <= free:
        return ""
    return f"it takes {human_bytes(needed)} of memory, {human_bytes(free)} are free"


def _foreign(plan: Plan) -> str:
    """Return why llava-pack's engine, which records, cannot run it anywhere; empty if it can."""
    model = plan.sources["model"]
    return "; ".join(one.message for one in own_defects(model.kind, model.config))


def _hint(plan: Plan) -> str:
    return "leave out --record" if _foreign(plan) else _HINT


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _run(
    staging: Staging, plan: Plan, known: Sequence[KnownAnswer], precisions: Sequence[str]
) -> tuple[Reference, ...]:
    recipe = plan.recipe
    with tempfile.TemporaryDirectory(prefix="llava-pack-answers-") as folder:
        model = staging.root / "model" / recipe.model.name
        questions = Path(folder, "known.json")
        questions.write_bytes(json.dumps([records.encode(one) for one in known]).encode())
        command = [sys.executable, "-m", "llava_pack.engine.known.recording"]
        command += ["--known", str(questions), "--model-dir", str(model)]
        if recipe.vision_tower is not None and plan.packing.tower_beside:
            command += ["--vision-tower", str(model.parent / recipe.vision_tower.name)]
        if recipe.model.base is not None and not plan.packing.merge:
            command += ["--model-base", str(model.parent / recipe.model.base.name)]
        command += [part for one in precisions for part in ("--precision", one)]
        command += ["--conv-mode", recipe.model.conv_mode]
        command += ["--context-tokens", str(plan.serving.profile.context_tokens)]
        environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=environ,
        )
    said = _last_object(done.stdout)
    if done.returncode != 0 or "references" not in said:
        why = said.get("error") or done.stderr.strip().rpartition("\n")[2] or "it exited early"
        raise CheckpointError(
            f"its known answers could not be recorded: {why}",
            subject=recipe.model.name,
            hint="--no-record packs it anyway; only words are then checked",
        )
    recorded = _decoded(said["references"])
    _check_words(recipe.model.name, known, recorded)
    return recorded


def _check_words(model: str, known: Sequence[KnownAnswer], recorded: Sequence[Reference]) -> None:
    questions = {one.name: one for one in known}
    for one in recorded:
        missing = missing_words(questions[one.answer], one.text)
        if missing:
            raise CheckpointError(
                f"its answer to {one.answer!r} in {one.precision} is {one.text.strip()!r:.200}, "
                f"expected {', '.join(missing)} in it",
                subject=model,
                hint="change [[known_answers]] of the recipe to what this model can answer; or "
                f"build with --no-record, and install with --accept-answer {one.answer}",
            )


def _last_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text.strip().rpartition("\n")[2])
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _decoded(values: Sequence[Any]) -> tuple[Reference, ...]:
    defects = records.Defects()
    found = [records.decode(Reference, value, defects) for value in values]
    if defects:
        raise CheckpointError("; ".join(defects), subject="recorded answers")
    return tuple(one for one in found if one is not None)


def _read(place: Path, key: str) -> tuple[Reference, ...] | None:
    """Return what was recorded for these very inputs, None where nothing was."""
    try:
        said = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or said.get("key") != key:
        return None
    return _decoded(said["references"])


def _write(place: Path, key: str, recorded: Sequence[Reference]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fields = {"key": key, "references": [records.encode(one) for one in recorded]}
    files.write(place, f"{json.dumps(fields, indent=1)}\n".encode())
