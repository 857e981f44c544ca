"""What is installed and current, for the commands of an installation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.manifest import Manifest, parse_manifest
from llava_pack.format.sums import ENGINE_LOCK, MANIFEST_NAME
from llava_pack.target import generations, receipt, venv


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A complete generation, ready to be served."""

    prefix: Path
    recipe: str
    number: int
    root: Path
    model_dir: Path
    vision_tower_dir: Path | None
    venv_python: Path
    manifest: Manifest
    bundle_id: str
    smoke: Mapping[str, Any]
    """What its smoke test found."""
    engine_python: Path | None = None
    """Of the environment of an engine of others, None where none serves it."""
    tokenizer_dir: Path | None = None
    """Where tokenizer and processor lie beside the model."""
    kept: tuple[str, ...] = ()
    """Names of the caller's variables that it was tested with."""

    @property
    def accepted_answers(self) -> frozenset[str]:
        """The known answers that were wrong when it was installed, and were accepted."""
        answers = [one for one in self.smoke.get("answers", ()) if isinstance(one, dict)]
        return frozenset(str(one.get("name")) for one in answers if one.get("accepted"))

    @property
    def right_answers(self) -> tuple[KnownAnswer, ...]:
        """The known answers that the model has to give."""
        accepted = self.accepted_answers
        return tuple(one for one in self.manifest.known_answers if one.name not in accepted)


def chosen_recipe(prefix: Path, recipe: str | None) -> str:
    """Return the recipe that is meant: the one named, else the one activated last.

    Raises:
        InstallError: it is not installed, or nothing is.
    """
    names = generations.recipes(prefix)
    if recipe in names:
        return str(recipe)
    if recipe is None and names:
        return names[-1]
    raise InstallError(
        f"expected {recipe or 'an installed model'}, got {', '.join(names) or 'none installed'}",
        subject=str(prefix),
        hint="sh install.sh --bundle DIR --expect ID",
    )


def installed(prefix: Path, recipe: str | None = None) -> Installation:
    """Return the current generation of a recipe, or of the one activated last.

    Raises:
        InstallError: there is none, or it is not complete.
    """
    name = chosen_recipe(prefix, recipe)
    number = generations.current_number(prefix, name)
    root = generations.generation_folder(prefix, name, number or 0)
    proof = receipt.read(root)
    if proof is None or not (root / MANIFEST_NAME).is_file():
        raise InstallError(
            "the current generation is not complete",
            subject=str(root),
            hint=f"{prefix}/bin/llava-pack revert, or install the bundle again",
        )
    manifest = parse_manifest((root / MANIFEST_NAME).read_bytes())
    tower, tokenizer = manifest.model.vision_tower, manifest.model.tokenizer
    return Installation(
        prefix=prefix,
        recipe=proof.recipe,
        number=proof.generation,
        root=root,
        model_dir=root / manifest.model.path,
        vision_tower_dir=root / tower if tower is not None else None,
        venv_python=root / "venv" / "bin" / "python",
        engine_python=venv.interpreters(manifest, root).get(ENGINE_LOCK),
        tokenizer_dir=root / tokenizer if tokenizer is not None else None,
        manifest=manifest,
        bundle_id=proof.bundle_id,
        smoke=proof.smoke,
        kept=proof.kept,
    )
