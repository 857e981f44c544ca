"""How an installed model is served by an engine of others: what of it is asked for, and had."""

import json
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError, UsageError, reason_of
from llava_pack.format.manifest import Manifest
from llava_pack.format.precision import QUANTIZED
from llava_pack.profiles.profile import Profile
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.supervision.plans import EnginePlan, LoadOptions

_PACKAGES = "lib/python3*/site-packages"


def engine_plan(
    plan: EnginePlan,
    options: LoadOptions,
    manifest: Manifest,
    profile: Profile,
    *,
    python: Path,
    tokenizer_dir: Path | None,
) -> EnginePlan:
    """Return how an engine of others serves an installed model.

    Args:
        plan: as llava-pack's own engine would.
        options: what the command line said.
        manifest: of the bundle.
        profile: of the engine.
        python: the interpreter of the engine's environment.
        tokenizer_dir: where tokenizer and processor were installed, None for in the model.

    Raises:
        UsageError: an option asks for what the engine does not have.
        InstallError: the engine is not in its environment, or files of the model cannot be read.
    """
    engine = manifest.serving.engine
    title = RUNTIMES[engine].title
    if options.conv_mode is not None:
        raise UsageError(
            f"{title} has only the model's own conversation template",
            subject="--conv-mode",
            hint="leave it out, or build the bundle with llava-pack's engine",
        )
    return replace(
        plan,
        python=python,
        engine=engine,
        version=installed_version(python, profile.package),
        architecture=_architecture(plan.model_dir),
        tokenizer_dir=tokenizer_dir,
        tokens=special_tokens(tokenizer_dir or plan.model_dir),
        references=manifest.references,
        vision_tower=None,
        conv_mode=None,
        precision=_precision(options, manifest, profile),
        device=_device(options, manifest),
        gpus=options.gpus or manifest.serving.gpus,
    )


def _precision(options: LoadOptions, manifest: Manifest, profile: Profile) -> str:
    """Return the precision: what was quantized ahead stays so, and nothing else is.

    Raises:
        UsageError: the engine does not have it, or not for this model.
    """
    own = manifest.serving.precision
    asked = own if options.precision in {None, "auto"} else str(options.precision)
    had = (
        [own]
        if own in QUANTIZED
        else [one for one in profile.loads.precisions if one not in QUANTIZED]
    )
    if asked not in had or asked not in profile.loads.precisions:
        title = RUNTIMES[manifest.serving.engine].title
        raise UsageError(
            f"expected {' or '.join(had)} for this model with {title}, got {asked}",
            subject="--precision",
            hint="leave it out; a bundle is built for another one by llava-pack build --quantize",
        )
    return asked


def _device(options: LoadOptions, manifest: Manifest) -> str:
    """Return where it computes: an engine's wheels are for GPUs, or for none.

    Raises:
        UsageError: they are for the other.
    """
    own = "cpu" if manifest.floors.driver is None else "cuda"
    if options.device not in {None, "auto", own}:
        raise UsageError(
            f"expected {own}, which this bundle's {RUNTIMES[manifest.serving.engine].title} is "
            f"for, got {options.device}",
            subject="--device",
            hint="leave it out, or build a bundle for this machine: llava-pack build --target FILE",
        )
    return own


def installed_version(python: Path, package: str) -> str:
    """Return the version of a package in the environment of an interpreter.

    Raises:
        InstallError: it is not there.
    """
    places = [str(place) for place in python.parent.parent.glob(_PACKAGES)]
    for one in distributions(name=package, path=places):
        return one.version
    raise InstallError(
        f"expected {package} there, got none",
        subject=str(python.parent.parent),
        hint="llava-pack health --deep, or install the bundle again",
    )


def special_tokens(folder: Path) -> tuple[str, ...]:
    """Return the texts of which a tokenizer makes special tokens, sorted.

    Raises:
        InstallError: its `tokenizer.json` cannot be read.
    """
    added = _read(folder / "tokenizer.json").get("added_tokens", ())
    return tuple(sorted(str(one["content"]) for one in added if one["special"]))


def _architecture(model_dir: Path) -> str:
    """Return the first architecture that a model's `config.json` names, empty where none is."""
    return str(next(iter(_read(model_dir / "config.json").get("architectures") or ()), ""))


def _read(path: Path) -> dict[str, Any]:
    """Return what a JSON file of the model holds.

    Raises:
        InstallError: it cannot be read.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InstallError(
            f"cannot be read: {reason_of(error)}",
            subject=str(path),
            hint="llava-pack health --deep",
        ) from error
    return fields
