"""Which runtime a bundle gets: llava-pack's own engine, or LLaVA's own code with pins that work."""

from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.lock.platform import Platform
from llava_pack.lock.torch_build import Cuda, TorchChoice
from llava_pack.recipe import Engine, Recipe

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
# What llava-pack's own commands on the target import beside them.
_OWN = ("packaging>=24.2", "typer>=0.20", "uv>=0.9")
_OLD_GLIBC_MINOR = 24
_OLD_NOTE = "torch below 2.5 (CUDA 12.1): what this C library can have of bitsandbytes is 0.42"
_OLD_TORCH = ("torch>=2.3,<2.5",)
"""On glibc before 2.24 bitsandbytes is 0.42, whose newest kernels are for CUDA 12.3; torch 2.5 is
the first with 12.4. Source: the members of bitsandbytes-0.42.0-py3-none-any.whl."""


def with_runtime(recipe: Recipe, engine: Engine | None) -> Recipe:
    """Return the recipe with the runtime that a person asks for, checked.

    Raises:
        UsageError: LLaVA's own code cannot load that layout.
        RecipeError: it would take the model for something else, by its name.
    """
    if engine is not None and engine != recipe.runtime.engine:
        python = UPSTREAM_PYTHON if engine == "upstream" else recipe.runtime.python
        runtime = recipe.runtime.model_copy(update={"engine": engine, "python": python})
        recipe = recipe.model_copy(update={"runtime": runtime})
    if recipe.runtime.engine == "upstream":
        _check_upstream(recipe)
    return recipe


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
