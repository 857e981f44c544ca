"""The conversation template of a recipe: that there is one, and that the model can take it."""

from collections.abc import Mapping

from llava_pack.assemble.packing import Packing
from llava_pack.assemble.sources import Identified
from llava_pack.checkpoint.kind import STORED
from llava_pack.checkpoint.template_choice import choose_template
from llava_pack.checkpoint.templates import OWN, RAW, check_conv_mode, template_names
from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.recipe import Recipe


def check_named(recipe: Recipe, packing: Packing) -> None:
    """Check what a recipe names as its template; nothing is asked for.

    Raises:
        RecipeError: there is no such template, or a bundle cannot have it.
    """
    conv_mode, subject = recipe.model.conv_mode, f"{recipe.name}: model.conv_mode"
    try:
        check_conv_mode(conv_mode)
    except UsageError as error:
        raise RecipeError(error.message, subject=subject) from error
    if conv_mode == RAW:
        raise RecipeError(
            "any client's text could become special tokens",
            subject=subject,
            hint=f"use one of: {template_names()}",
        )
    if conv_mode == OWN and not packing.converted:
        raise RecipeError(
            f"{OWN} is for a model of format 'hf', which is packed with its own",
            subject=subject,
            hint=f"use one of: {template_names()}",
        )


def check_vocabulary(recipe: Recipe, identified: Mapping[str, Identified]) -> None:
    """Check that the vocabulary has the template's tokens, by the small files.

    Raises:
        CheckpointError: it lacks some, or the model's own chat template cannot be used.
        RecipeError: another template is named for a model that is packed with its own.
    """
    if identified["model"].kind in STORED:
        if recipe.model.conv_mode != OWN:
            raise RecipeError(
                f"the model is packed with its own chat template, expected {OWN!r}, "
                f"got {recipe.model.conv_mode!r}",
                subject=f"{recipe.name}: model.conv_mode",
            )
        return
    folder = identified.get("base", identified["model"]).listed.folder
    choose_template(folder, name=recipe.model.name, wanted=recipe.model.conv_mode)
