"""What the page is told of the server: how the models stand, and what it takes of pictures."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, get_args

import llava_pack
from llava_pack.engine.inputs.picture_formats import FORMATS
from llava_pack.engine.limits import MAX_SEED, SHRUNK_SIDE, Limits
from llava_pack.format.text import Language
from llava_pack.serve.admission.bodies import MAX_BODY_BYTES
from llava_pack.serve.api.sampler_fields import MAX_TOKENS
from llava_pack.serve.port import PHASE_WORDS, Served

_JSON_NUMBER = 2**53 - 1
"""The largest whole number that JavaScript holds exactly. Source: ECMA-262, MAX_SAFE_INTEGER."""


def page_facts(models: Iterable[Served]) -> dict[str, Any]:
    """Return what the page asks for every few seconds."""
    return {
        "version": llava_pack.__version__,
        "models": [_model_facts(model) for model in models],
        "limits": picture_limits(),
    }


def picture_limits() -> Mapping[str, Any]:
    """Return what the server takes; what is beyond, the page makes smaller or says."""
    limits = Limits()
    return {
        "size_bytes": limits.size_bytes,
        "pixels": limits.pixels,
        "side_pixels": limits.side_pixels,
        "count": limits.count,
        "total_pixels": limits.total_pixels,
        "shrunk_side": SHRUNK_SIDE,
        "body_bytes": MAX_BODY_BYTES,
        "max_tokens": MAX_TOKENS,
        "max_seed": min(MAX_SEED, _JSON_NUMBER),
        "formats": {
            suffix: kind.media_type
            for kind in FORMATS
            if kind.name != "HEIC" or find_spec("pillow_heif") is not None
            for suffix in kind.suffixes
        },
    }


def _model_facts(model: Served) -> dict[str, Any]:
    status, info, vitals = model.status, model.info, model.vitals
    return {
        "name": model.name,
        "phase": status.phase,
        "words": {name: PHASE_WORDS[name][status.phase] for name in get_args(Language)},
        "loaded": status.done_bytes / status.total_bytes if status.total_bytes else None,
        "precision": info.precision if info else None,
        "device": info.device if info else None,
        "context_tokens": info.context_tokens if info else None,
        "running": vitals.running,
        "waiting": vitals.waiting,
    }
