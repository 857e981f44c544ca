"""In which layout a model is packed: what the recipe has, and what a person asks for."""

from dataclasses import dataclass
from typing import Literal

from llava_pack.assemble.runtimes import PackedRuntime, packed_for
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
        tokenizer: name of a folder for tokenizer and processor, as the transformers-native layout
            has them, beside a model in the original one; None for none.
    """

    format: Format = "original"
    converted: bool = False
    merge: bool = False
    precision: Quantized | None = None
    tower: TowerChoice | None = None
    tokenizer: str | None = None

    @property
    def tower_beside(self) -> bool:
        """Whether the tower has a folder of its own."""
        return self.format == "original"

    @property
    def key(self) -> str:
        """Return what decides the layout, as a text."""
        beside = f" {self.tokenizer}" if self.tokenizer else ""
        return f"{self.format} {self.converted} {self.merge} {self.precision} {self.tower}{beside}"


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
    every runtime but llava-pack's own engine: a merged model has no pickled parts to be loaded, and
    needs no base beside it.

    Raises:
        UsageError: what is asked for is not possible for this recipe.
    """
    runtime = packed_for(recipe)
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
        merge = merge or (runtime.merges and recipe.model.base is not None)
        return Packing(format="hf", converted=True, merge=merge)
    _check_loads(runtime, wanted, precision)
    _check_merge(recipe, merge=merge)
    if precision is not None and wanted == "original":
        raise UsageError(
            "quantized weights have the transformers-native layout",
            subject="--format original",
            hint="leave out --format, or --quantize",
        )
    layout = "hf" if precision is not None else wanted or runtime.layouts[0]
    merges = layout == "hf" or runtime.merges
    apart = layout == "original" and runtime.profile is not None
    return Packing(
        format=layout,
        merge=merge or (merges and recipe.model.base is not None),
        precision=precision,
        tower=tower,
        tokenizer=f"{recipe.model.name}-tokenizer" if apart else None,
    )


def _check_loads(
    runtime: PackedRuntime, wanted: Format | None, precision: Quantized | None
) -> None:
    """Refuse a layout that the runtime does not load, and weights that it does not."""
    hint = "leave it out, or use llava-pack's own engine: --runtime transformers"
    if precision is not None and precision not in runtime.quantized:
        have = "".join(f" but {one}" for one in sorted(runtime.quantized))
        raise UsageError(
            f"{runtime.title} loads no weights that were quantized ahead{have}",
            subject=f"--quantize {precision}",
            hint=hint,
        )
    if wanted is not None and wanted not in runtime.layouts:
        layouts = {"original": "the original layout", "hf": "the transformers-native layout (hf)"}
        known = " or ".join(layouts[one] for one in runtime.layouts)
        raise UsageError(
            f"the layout that {runtime.title} loads is {known}",
            subject=f"--format {wanted}",
            hint=hint,
        )


def _check_merge(recipe: Recipe, *, merge: bool) -> None:
    """Refuse to merge where there is nothing to merge into."""
    if merge and recipe.model.base is None:
        raise UsageError(
            "the recipe has nothing to merge: it names no [model.base]", subject="--merge"
        )
