"""What an installed model is held against: its bundle's recordings, and those made here."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.format import files, records
from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.health.facts import ModelFacts
from llava_pack.health.grading import judge
from llava_pack.health.server import ServerProbe
from llava_pack.health.suite import Subject
from llava_pack.target.disk import room_on

if TYPE_CHECKING:
    from llava_pack.installation.installed import Installation

_MAX_BYTES = 4 << 20


def subject(item: "Installation", model: ModelFacts) -> Subject:
    """Return a served model as the deep test takes it."""
    return Subject(
        name=item.manifest.model.name,
        known=item.manifest.known_answers,
        references=(*item.manifest.references, *recorded_here(item)),
        slots=model.slots,
        context_tokens=model.context_tokens,
        accepted=item.accepted_answers,
    )


def recorded_here(item: "Installation") -> tuple[Reference, ...]:
    """Return what `health --record` kept for this very bundle.

    Raises:
        IntegrityError: the file is damaged.
    """
    path = _path(item)
    if not path.is_file():
        return ()
    defects = records.Defects()
    try:
        values = json.loads(path.read_bytes()[:_MAX_BYTES])
        found = [records.decode(Reference, value, defects) for value in values]
    except (ValueError, TypeError) as error:
        raise IntegrityError("not a recording", subject=path.name, hint=f"rm {path}") from error
    if defects:
        raise IntegrityError("; ".join(defects[:3]), subject=path.name, hint=f"rm {path}")
    return tuple(one for one in found if one is not None)


def record_here(item: "Installation", probe: ServerProbe) -> tuple[Reference, ...]:
    """Ask a served model its known questions, keep the answers, and return them.

    Raises:
        IntegrityError: an answer is wrong by its words: nothing is kept.
        UsageError: its bundle knows no questions.
        ServeError: the server does not answer.
        SpaceError: the disk is full: what was kept before stays.
    """
    if not item.manifest.known_answers:
        raise UsageError("its bundle has no known answers to record", subject=item.recipe)
    found = [probe.observe(item.manifest.model.name, one) for one in item.manifest.known_answers]
    for known, seen in zip(item.manifest.known_answers, found, strict=True):
        judged = judge(known, [], seen)
        if judged.level == "broken":
            raise IntegrityError(
                judged.why,
                subject=item.recipe,
                hint="a model with wrong answers cannot be a reference: llava-pack health --deep",
            )
    kept = tuple(replace(one, recorded="install") for one in found)
    others = [one for one in recorded_here(item) if not _replaced(one, kept)]
    document = json.dumps([records.encode(one) for one in (*others, *kept)], indent=1)
    path = _path(item)
    with room_on(path.parent):
        files.write(path, f"{document}\n".encode())
    return kept


def black_like(known: KnownAnswer) -> str:
    """Return a black picture of the size of a question's, as base64 of a PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(known.picture_png))) as picture:
        size = picture.size
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def _replaced(one: Reference, kept: Sequence[Reference]) -> bool:
    key = (one.answer, one.precision, one.made_on)
    return any((new.answer, new.precision, new.made_on) == key for new in kept)


def _path(item: "Installation") -> Path:
    """Return the file beside the generations: a generation itself stays as it was verified."""
    return item.root.parent.parent / f"recorded-{item.bundle_id[:16]}.json"
