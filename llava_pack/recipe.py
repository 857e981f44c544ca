"""Recipes: what a person asks for, one TOML file each, read once into frozen values."""

import difflib
import json
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from llava_pack.format.errors import RecipeError
from llava_pack.format.manifest import Engine
from llava_pack.format.paths import component_defect
from llava_pack.format.precision import DEFAULT_PRECISION, Precision
from llava_pack.shipped import shipped

OLDEST_MINOR = 11
"""Of Python, that llava-pack runs on."""


def _name(text: str) -> str:
    if defect := component_defect(text):
        raise ValueError(defect)
    return text


def _python(text: str) -> str:
    minor = text.removeprefix("3.")
    if not (text.startswith("3.") and minor.isdecimal() and int(minor) >= OLDEST_MINOR):
        raise ValueError(f"expected Python 3.{OLDEST_MINOR} or newer")
    return text


Name = Annotated[str, AfterValidator(_name)]
SourceText = Annotated[str, StringConstraints(pattern=r"^[a-z]+:.+$")]
"""A scheme and a place. Which there are, and how each is written: `llava_pack.fetch.schemes`."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Licence(_Part):
    """What the weights may be used for; `gated` where whoever builds has to accept its terms."""

    id: str
    url: str
    gated: bool = False


class ExpectedFile(_Part):
    """A file that the source must have; sizes and digests where they are known."""

    path: str
    size_bytes: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class SourcePart(_Part):
    """What comes from a source of its own; `name` is that of its folder in the bundle."""

    source: SourceText
    name: Name
    files: tuple[ExpectedFile, ...] = ()


class BasePart(SourcePart):
    """The language model, or the LLaVA, that an adapter or a projector was trained on."""

    licence: Licence | None = None


class ModelPart(SourcePart):
    """Where the checkpoint comes from.

    With `base`, `source` holds an adapter or a projector. `values` are what a config.json says
    beside the base's own, for a projector that came without one.
    """

    format: Literal["original", "hf"] = "original"
    conv_mode: str
    base: BasePart | None = None
    values: dict[str, str | int | float | bool] = Field(default_factory=dict)


class TowerPart(SourcePart):
    """Where the CLIP vision tower comes from."""

    licence: Licence | None = None


class RuntimePart(_Part):
    """The engine, its Python and the requirement ranges that narrow llava-pack's own."""

    engine: Engine = "transformers"
    python: Annotated[str, AfterValidator(_python)] = "3.11"
    cuda: Literal["none", "12", "13"] = "12"
    requirements: tuple[str, ...] = ()


class ServingPart(_Part):
    """What `serve` starts with on the target."""

    precision: Precision = DEFAULT_PRECISION
    context_tokens: int = Field(default=4096, ge=64)
    slots: int = Field(default=8, ge=1, le=256)


class KnownAnswerPart(_Part):
    """A picture beside the recipe, a question, and the words that its answer must contain."""

    name: Name
    picture: str
    prompt: str
    contains: tuple[str, ...] = Field(min_length=1)


class Recipe(_Part):
    """One model and all that it takes to serve it.

    Source: docs/reference/recipe.md.
    """

    name: Name
    title: str
    unverified: tuple[str, ...] = ()
    licence: Licence
    model: ModelPart
    vision_tower: TowerPart | None = None
    runtime: RuntimePart = RuntimePart()
    serving: ServingPart = ServingPart()
    known_answers: tuple[KnownAnswerPart, ...] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        model, tower = self.model, self.vision_tower
        if model.format == "hf" and tower is not None:
            raise ValueError("a model of format 'hf' includes its vision tower")
        if model.format == "original" and tower is None:
            raise ValueError("a model of format 'original' needs [vision_tower]")
        if model.values and model.base is None:
            raise ValueError("model.values are only for a projector, which needs [model.base]")
        names = [part.name.lower() for part in self.parts().values()]
        if len(set(names)) < len(names):
            raise ValueError("the names of model, base and vision_tower must differ")
        return self

    def parts(self) -> dict[str, SourcePart]:
        """Return what comes from a source of its own: `model`, `base` and `vision_tower`."""
        parts: dict[str, SourcePart | None] = {
            "model": self.model,
            "base": self.model.base,
            "vision_tower": self.vision_tower,
        }
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """A recipe as a command read it, once.

    Attributes:
        value: what it says.
        folder: where it lies; relative sources and pictures start there.
        text: its bytes, whose digest a lock has.
    """

    value: Recipe
    folder: Path
    text: bytes


@dataclass(frozen=True, kw_only=True)
class RecipeSizes:
    """About how large a shipped recipe is.

    Attributes:
        fetch_bytes: of its weights, as they are published.
        nf4_bytes: of GPU memory for one request in nf4, at the recipe's context length.
    """

    fetch_bytes: int
    nf4_bytes: int


@dataclass(frozen=True, kw_only=True)
class KnownRecipe:
    """A recipe by the name that `build` takes; sizes are known of the shipped ones."""

    name: str
    recipe: Recipe
    sizes: RecipeSizes | None


def known_recipes(folder: Path | None = None) -> tuple[KnownRecipe, ...]:
    """Return the shipped recipes, and those of a folder, by default the current one.

    A TOML file that is no recipe is left out.
    """
    table = json.loads((shipped("bundles") / "sizes.json").read_text(encoding="utf-8"))
    found = [
        KnownRecipe(
            name=name,
            recipe=read_recipe(find_recipe(name)).value,
            sizes=RecipeSizes(
                fetch_bytes=round(table[name]["fetch_gb"] * 1e9),
                nf4_bytes=round(table[name]["nf4_gb"] * 1e9),
            ),
        )
        for name in recipe_names()
    ]
    for path in sorted((folder or Path()).glob("*.toml")):
        with suppress(RecipeError):
            found.append(KnownRecipe(name=str(path), recipe=read_recipe(path).value, sizes=None))
    return tuple(found)


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes, sorted."""
    return tuple(sorted(path.stem for path in shipped("bundles").glob("*.toml")))


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a shipped recipe, or of a path that ends in `.toml`.

    Raises:
        RecipeError: there is no such recipe.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    else:
        path = shipped("bundles") / f"{name_or_path}.toml"
    if path.is_file() and (name_or_path.endswith(".toml") or name_or_path in recipe_names()):
        return path
    similar = similar_recipes(name_or_path)
    meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
    raise RecipeError(
        f"unknown recipe, expected a shipped one or the path of a .toml file{meant}",
        subject=name_or_path,
        hint="llava-pack recipes lists them; try one: llava-pack build demo --dry-run",
    )


def similar_recipes(typed: str) -> tuple[str, ...]:
    """Return what was perhaps meant: shipped recipes, and .toml files of the same folder.

    >>> similar_recipes("liuhaotian/LLaVA-v1.5-7b")[0]
    'llava-v1.5-7b'
    """
    last = typed.replace("\\", "/").rpartition("/")[2].lower()
    names = {name.lower(): name for name in recipe_names()}
    place = Path(typed).parent if typed.endswith(".toml") else Path()
    with suppress(OSError, ValueError):
        names |= {path.name.lower(): str(path) for path in place.glob("*.toml")}
    same = [name for name in (last, f"{last}.toml") if name in names]
    return tuple(names[name] for name in same or difflib.get_close_matches(last, names))


def read_recipe(path: Path) -> RecipeFile:
    """Read and check one recipe.

    Raises:
        RecipeError: the file is not TOML, or does not say what a recipe must say.
    """
    try:
        text = path.read_bytes()
        value = Recipe.model_validate(tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"not TOML: {error}", subject=path.name) from error
    except ValidationError as error:
        defects = "; ".join(
            f"{'.'.join(str(step) for step in item['loc']) or 'recipe'}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise RecipeError(
            defects, subject=path.name, hint="docs/reference/recipe.md lists every field"
        ) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", subject=path.name) from error
    return RecipeFile(value=value, folder=path.parent, text=text)
