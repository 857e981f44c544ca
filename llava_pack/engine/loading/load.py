"""From a checkpoint's folder to an engine; torch is imported once the environment is set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.checkpoint.model import Checkpoint, read_checkpoint
from llava_pack.checkpoint.template_choice import TemplateChoice, choose_template
from llava_pack.engine import environment
from llava_pack.engine.batching.scheduler import SlotEngine
from llava_pack.engine.loading.options import DEFAULT_SLOTS, Options
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.port import (
    ContextLengthError,
    Engine,
    EngineInfo,
    Failed,
    Message,
    Picture,
    Request,
)
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import PreflightError, SpaceError, UsageError
from llava_pack.format.precision import DEFAULT_PRECISION, QUANTIZED
from llava_pack.format.progress import Progress, Silent

_GREY = bytes((128, 128, 128))


def load_engine(  # noqa: PLR0913 - the options of one thing
    model_dir: Path,
    *,
    vision_tower: Path | None = None,
    model_base: Path | None = None,
    tower: TowerChoice | None = None,
    precision: str = "auto",
    device: str = "auto",
    slots: int = DEFAULT_SLOTS,
    context_tokens: int | None = None,
    conv_mode: str | None = None,
    gpus: int | None = None,
    picture_mode: PictureMode = DEFAULT_PICTURE_MODE,
    progress: Progress | None = None,
) -> Engine:
    """Return an engine for a checkpoint of any kind of LLaVA, warmed up.

    Args:
        model_dir: the folder of a checkpoint, an adapter or a projector.
        vision_tower: the tower's folder, where the checkpoint does not say it.
        model_base: what an adapter or a projector was trained on.
        tower: which one, where the one inside the checkpoint is another than the one beside it.
        precision: of the language model; towers and projectors are never quantized. `auto` is
            what a checkpoint was quantized to ahead, else nf4.
        device: `auto` takes CUDA, then MPS, then the CPU.
        slots: requests that run at once; fewer where memory is short.
        context_tokens: longest prompt with its answer; at most what the model was trained for.
        conv_mode: the conversation template; None lets the checkpoint choose.
        gpus: how many may share the layers, where one does not hold them; None for all that are
            visible.
        picture_mode: how whoever decodes pictures for it makes them RGB; the engine tells it on.
        progress: hears the phases and the bytes.

    Raises:
        UsageError: an option is unknown, out of range, or not for this checkpoint.
        CheckpointError: the checkpoint or its tower is missing, damaged or not supported.
        PreflightError: this machine has no such device, or it cannot do that precision.
        SpaceError: the model does not fit into memory.
    """
    options = Options(
        vision_tower=vision_tower,
        model_base=model_base,
        tower=tower,
        precision=precision,
        device=device,
        slots=slots,
        context_tokens=context_tokens,
        conv_mode=conv_mode,
        gpus=gpus,
        picture_mode=picture_mode,
    )
    progress = progress or Silent()
    checkpoint = read_checkpoint(model_dir, options.vision_tower, options.model_base, options.tower)
    options = replace(options, precision=_precision(options.precision, checkpoint))
    template = _template(options.conv_mode, checkpoint)
    environment.prepare()
    progress.start("libraries", None)
    engine = SlotEngine(_assemble(checkpoint, options, template, progress))
    _warm_up(engine, progress)
    return engine


def _precision(wanted: str, checkpoint: Checkpoint) -> str:
    """Return the precision to load in: what was quantized ahead stays as it is."""
    ahead = checkpoint.quantized
    if wanted == "auto":
        return ahead or DEFAULT_PRECISION
    if ahead is not None and wanted != ahead:
        raise UsageError(
            f"{checkpoint.model.folder.name} was quantized to {ahead} ahead of time, got {wanted}",
            subject="--precision",
            hint=f"leave it out, or use --precision {ahead}",
        )
    return wanted


def _template(wanted: str | None, checkpoint: Checkpoint) -> TemplateChoice:
    """Return how the model is asked, before the libraries are loaded."""
    return choose_template(
        checkpoint.model.folder,
        texts=checkpoint.texts,
        converted=checkpoint.native,
        wanted=wanted,
    )


def pick_device(wanted: str, precision: str) -> str:
    """Return the device to load on; `auto` takes the best that the precision runs on.

    Raises:
        PreflightError: the one asked for is not there, or cannot do the precision.
    """
    import torch

    have = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and precision not in QUANTIZED,
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, there in have.items() if there)
    if wanted == "mps" and precision in QUANTIZED:
        raise PreflightError(f"{precision} runs on cuda and cpu, got mps", hint="--precision fp16")
    if not have[wanted]:
        built = f"torch {torch.__version__}, built with CUDA {torch.version.cuda or 'none'}"
        raise PreflightError(
            f"no {wanted} device was found ({built})",
            subject="--device",
            hint="check nvidia-smi and the driver, or use --device cpu",
        )
    return wanted


def _assemble(
    checkpoint: Checkpoint, options: Options, template: TemplateChoice, progress: Progress
) -> Any:
    with environment.importing():
        device = pick_device(options.device, options.precision)
        from llava_pack.engine.loading.assembly import assemble

    progress.done()
    try:
        return assemble(checkpoint, options, template, device, progress)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise SpaceError(
            f"not enough memory on {device} to load it in {options.precision}",
            subject=checkpoint.model.folder.name,
            hint="use a lower precision (--precision nf4), or free some memory",
        ) from error


def _warm_up(engine: Engine, progress: Progress) -> None:
    """Answer one question, so that nothing is repacked or compiled while people wait.

    Raises:
        CheckpointError: the model cannot answer.
    """
    progress.start("warm-up", None)
    info: EngineInfo = engine.info
    picture = (Picture(2, 1, _GREY * 2),) if info.image_tokens else ()
    fits = info.context_tokens > info.image_tokens + 128
    message = Message("user", (*picture, "Hi") if fits else ("Hi",))
    engine.submit(
        Request(request_id="warm-up", messages=(message,), sampling=Sampling(max_tokens=2))
    )
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Failed) and event.kind != ContextLengthError.kind:
                raise event.error()
    progress.done()
