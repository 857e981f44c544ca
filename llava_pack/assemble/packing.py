"""In which layout a model is packed: what the recipe has, and what a person asks for."""

from dataclasses import dataclass
from typing import Literal

from llava_pack.assemble.runtimes import packed_for
from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.format.errors import UsageError
from llava_pack.format.precision import Quantized
from llava_pack.recipe import Recipe

Format = Literal["original", "hf"]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How the model goes into the bundle.

    Attributes:
        format: layout of the packed folder.
        converted: it was published in that layout, and is packed as it is.
        merge: adapter or projector are put into their base.
        precision: of weights quantized ahead of time.
        tower: the one inside the checkpoint, or the stock one, where a person chose.
    """

    format: Format = "original"
    converted: bool = False
    merge: bool = False
    precision: Quantized | None = None
    tower: TowerChoice | None = None

    @property
    def tower_beside(self) -> bool:
        """Whether the tower has a folder of its own."""
        return self.format == "original"

    @property
    def key(self) -> str:
        """Return what decides the layout, as a text."""
        return f"{self.format} {self.converted} {self.merge} {self.precision} {self.tower}"


def choose_packing(
    recipe: Recipe,
    *,
    wanted: Format | None = None,
    precision: Quantized | None = None,
    merge: bool = False,
    tower: TowerChoice | None = None,
) -> Packing:
    """Return how a recipe's model is packed, from what a person asks for.

    Quantizing implies the transformers-native layout; that layout implies merging, and so does
    LLaVA's own code: a merged model has no pickled parts, which it would load.

    Raises:
        UsageError: what is asked for is not possible for this recipe.
    """
    if recipe.model.format == "hf":
        if wanted == "original" or precision is not None or tower is not None:
            options = {f"--quantize {precision}": precision, f"--tower {tower}": tower}
            asked = next((name for name, typed in options.items() if typed), "--format")
            raise UsageError(
                "the recipe's model is packed in the layout that it was converted to",
                subject=asked,
                hint="use the recipe of the original checkpoint, for example llava-v1.5-7b",
            )
        _check_merge(recipe, merge=merge)
        return Packing(format="hf", converted=True, merge=merge)
    runtime, native = packed_for(recipe), wanted == "hf" or precision is not None
    if native and not runtime.native:
        raise UsageError(
            f"{runtime.title} reads the original layout, and quantizes while it loads",
            subject="--format hf" if precision is None else f"--quantize {precision}",
            hint=f"leave it out, or leave out --runtime {recipe.runtime.engine}",
        )
    _check_merge(recipe, merge=merge)
    if precision is not None and wanted == "original":
        raise UsageError(
            "quantized weights have the transformers-native layout",
            subject="--format original",
            hint="leave out --format, or --quantize",
        )
    return Packing(
        format="hf" if native else "original",
        merge=merge or ((native or runtime.merges) and recipe.model.base is not None),
        precision=precision,
        tower=tower,
    )


def _check_merge(recipe: Recipe, *, merge: bool) -> None:
    """Refuse to merge where there is nothing to merge into."""
    if merge and recipe.model.base is None:
        raise UsageError(
            "the recipe has nothing to merge: it names no [model.base]", subject="--merge"
        )
