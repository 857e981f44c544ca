"""What a folder really is: a Hub cache's, a training's with all its files, or of another program.

Source: huggingface_hub file_download.py (layout of the cache: refs, snapshots, blobs);
modelscope-hub 0.5 _download.py (snapshots by revision, `master` without one); transformers
trainer.py and trainer_utils.py, deepspeed runtime/engine.py (what a training leaves).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.findings import SHOWN, listed
from llava_pack.checkpoint.kind import STORED, classify
from llava_pack.checkpoint.quantized import quantized_ahead
from llava_pack.format.errors import CheckpointError

_CACHED = "--"
"""In the name of a cache's folder: models--OWNER--NAME of the Hub, OWNER--NAME of ModelScope."""
_REF = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LEFTOVERS = re.compile(
    r"global_step\d+|zero_to_fp32\.py|latest|training_args\.bin|trainer_state\.json"
    r"|trainer_log\.jsonl|optimizer\.(?:pt|bin)|optimizer_\d+|scheduler\.(?:pt|bin)"
    r"|rng_state(?:_\d+)?\.pth|scaler\.pt|pytorch_model_fsdp_\d+|zero_pp_rank_.+\.pt|runs|args\.json"
)
_INTERMEDIATE = re.compile(r"checkpoint-\d+")
_PUBLISHED = "use the checkpoint that it was made from, in safetensors or pytorch_model.bin files"
_FOREIGN = (
    (re.compile(r".+\.gguf"), "GGUF weights are for llama.cpp", _PUBLISHED),
    (re.compile(r"quant(?:ize)?_config\.json"), "quantized by AutoAWQ or AutoGPTQ", _PUBLISHED),
)
_WEIGHTS = re.compile(r"[^/]+\.(?:safetensors|bin)")
_SHARDED = (
    "join what DeepSpeed wrote in parts where it was trained: python zero_to_fp32.py . "
    "pytorch_model.bin"
)


def checkpoint_folder(folder: Path) -> Path:
    """Return the folder that holds a checkpoint: of a hub's cache, the snapshot of its main branch.

    Raises:
        CheckpointError: the cache has no snapshot, or several and none is `main`.
    """
    snapshots = folder / "snapshots"
    if not (_CACHED in folder.name and snapshots.is_dir()):
        return folder
    main = folder / "refs" / "main"
    commit = main.read_text(errors="replace").strip() if main.is_file() else ""
    if _REF.fullmatch(commit) and (snapshots / commit).is_dir():
        return snapshots / commit
    there = sorted(path for path in snapshots.iterdir() if path.is_dir())
    if snapshots / "master" in there:
        return snapshots / "master"
    if len(there) == 1:
        return there[0]
    named = ", ".join(path.name for path in there[:SHOWN]) or "none"
    raise CheckpointError(
        f"is a cache of the Hub with {len(there)} snapshots ({named}), expected one",
        subject=folder.name,
        hint="name the folder of one: snapshots/COMMIT in it"
        if there
        else "download it again: the cache holds no whole snapshot",
    )


def checkpoint_name(folder: Path) -> str:
    """Return what a checkpoint is called; a snapshot of a hub's cache, as its repository.

    >>> checkpoint_name(Path("hub/models--liuhaotian--llava-v1.5-7b/snapshots/4481d270"))
    'llava-v1.5-7b'
    >>> checkpoint_name(Path("models/llava-v1.5-7b"))
    'llava-v1.5-7b'
    >>> checkpoint_name(Path("out/llava-v1.5-7b-ours/checkpoint-500"))
    'llava-v1.5-7b-ours_checkpoint-500'

    Source of the last: haotian-liu/LLaVA llava/mm_utils.py get_model_name_from_path.
    """
    above = folder.parent
    if _INTERMEDIATE.fullmatch(folder.name):
        return f"{above.name}_{folder.name}"
    if above.name == "snapshots" and _CACHED in above.parent.name:
        return above.parent.name.rpartition("--")[2]
    return folder.name


def leftover_defects(names: Collection[str]) -> list[Defect]:
    """Return one warning that names what training left and serving does not use.

    Args:
        names: of files and folders; those of a Hub list have their folder in front.
    """
    roots = sorted({PurePosixPath(name).parts[0] for name in names})
    left = [name for name in roots if _LEFTOVERS.fullmatch(name)]
    if not left:
        return []
    return [Defect("warn", listed(left), "left by training, not used")]


def foreign_defects(names: Collection[str], config: Mapping[str, Any]) -> list[Defect]:
    """Return that the weights are in a form that another program reads, and what to take.

    Those of a model for other runtimes are packed as they are.
    """
    if classify(names, config) in STORED:
        return []
    try:
        quantized_ahead(config)
    except CheckpointError as error:
        return [defect_of(error)]
    return list(_foreign(names))


def _foreign(names: Collection[str]) -> Iterator[Defect]:
    if any(_WEIGHTS.fullmatch(name) for name in names):  # then others lie beside what is read
        names = [name for name in names if not name.endswith(".gguf")]
    for pattern, text, hint in _FOREIGN:
        first = next((name for name in sorted(names) if pattern.fullmatch(name)), None)
        if first is not None:
            yield Defect("fail", first, text, hint)


def no_weights_hint(names: Collection[str]) -> str:
    """Return what to do with a folder that has no weights, by its files and folders."""
    return _SHARDED if any(re.match(r"global_step\d+|zero_to_fp32", one) for one in names) else ""
