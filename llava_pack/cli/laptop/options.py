"""What `plan`, `lock`, `build` and `deploy` are asked alike: recipe, target, packages, layout."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llava_pack.checkpoint.kind import TOWER_CHOICES, TowerChoice
from llava_pack.cli import console
from llava_pack.format.errors import UsageError
from llava_pack.format.manifest import Engine
from llava_pack.format.precision import Quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llava_pack.assemble.planning import BuildOptions
    from llava_pack.fetch.mirrors import Mirror
    from llava_pack.lock.choice import Asked
    from llava_pack.lock.profile import TargetProfile

_HERE = Path("here")
"""As --target: this machine. A file of that name is given by its whole path."""


@dataclass(frozen=True, kw_only=True)
class PackChoices:
    """What is packed, as it was typed."""

    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .toml file.")]
    platform: Annotated[
        str | None,
        typer.Option(
            help="Platform of the target: ARCH-manylinux_2_N. Default: x86_64-manylinux_2_35"
        ),
    ] = None
    python: Annotated[
        str, typer.Option(help="Python version of the target, or 'target' to use the target's own.")
    ] = ""
    require_python: Annotated[
        bool,
        typer.Option(
            "--require-python", help="Stop if no CPython can be fetched for the bundle to carry."
        ),
    ] = False
    cuda: Annotated[
        Literal["none", "12", "13"] | None,
        typer.Option(help="CUDA of the target's torch; 12 needs driver 525.60, 13 needs 580.65."),
    ] = None
    torch_backend: Annotated[
        str | None, typer.Option(help="Passed on to uv, for example cpu, cu126 or pypi.")
    ] = None
    exclude_newer: Annotated[
        str | None,
        typer.Option(help="Use no package newer than this date, for example 2026-10-31."),
    ] = None
    runtime: Annotated[
        Engine | None,
        typer.Option(
            help="Runtime on the target: llava-pack's engine, LLaVA's own code, or vLLM, SGLang or "
            "LMDeploy in an environment of their own, which decides the layout."
        ),
    ] = None
    layout: Annotated[
        Literal["original", "hf"] | None,
        typer.Option(
            "--format",
            help="Layout of the packed model: as published, or transformers-native (hf).",
        ),
    ] = None
    quantize: Annotated[
        Quantized | None,
        typer.Option(help="Quantize while packing, on this machine's CPU; implies --format hf."),
    ] = None
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge an adapter or a projector into its base.")
    ] = False
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Take the model from here instead: a folder that was downloaded before, or "
            "ms:OWNER/NAME. It is compared with the recipe.",
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Take the base of an adapter from here instead."),
    ] = None
    tower: Annotated[
        list[str] | None,
        typer.Option(
            metavar="packed|stock|SOURCE",
            help="Pack the vision tower inside the checkpoint, or the stock one; or take the stock "
            "one from SOURCE. May be given twice: which one, and from where.",
        ),
    ] = None
    without_wheels: Annotated[
        bool,
        typer.Option(
            "--without-wheels",
            help="Leave the wheels out; the server fetches them from its own package index.",
        ),
    ] = False

    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Fetch from mirrors: cn for China, or a .toml file of your own. Your own settings "
            "go first.",
        ),
    ] = None

    @property
    def asked(self) -> "Asked":
        """Return what was typed about platform and packages."""
        from llava_pack.lock.choice import Asked

        return Asked(
            platform=self.platform,
            python=self.python or None,
            cuda=self.cuda,
            torch_backend=self.torch_backend,
            exclude_newer=self.exclude_newer,
        )

    @property
    def tower_choice(self) -> TowerChoice | None:
        """Return which tower was chosen, where one was.

        Raises:
            UsageError: both were.
        """
        chosen = [one for one in TOWER_CHOICES if one in (self.tower or ())]
        if len(chosen) > 1:
            raise UsageError(
                f"expected one of {', '.join(chosen)}, got both", subject="--tower", hint="drop one"
            )
        return chosen[0] if chosen else None

    @property
    def typed_sources(self) -> "Mapping[str, str]":
        """Return where parts of the recipe shall come from, as it was typed.

        Raises:
            UsageError: two towers.
        """
        towers = [one for one in self.tower or () if one not in TOWER_CHOICES]
        if len(towers) > 1:
            raise UsageError(
                f"expected one source, got {', '.join(towers)}", subject="--tower", hint="drop one"
            )
        typed = {"model": self.model, "base": self.base, "vision_tower": (*towers, None)[0]}
        return {part: text for part, text in typed.items() if text is not None}

    def request_for(self, profile: "TargetProfile | None", out: Path | None) -> "BuildOptions":
        """Return what a build is asked for; the recipe in it has the runtime that was chosen.

        Args:
            profile: facts of the machine, None where they are not known.
            out: the bundle's folder; None for the recipe's name with `-bundle` in this folder.

        Raises:
            RecipeError: there is no such recipe, or nothing of it fits what was said.
        """
        from llava_pack.assemble.build import release_now
        from llava_pack.assemble.model_sources import given_sources
        from llava_pack.assemble.planning import BuildOptions
        from llava_pack.assemble.runtimes import with_runtime
        from llava_pack.lock.choice import choose
        from llava_pack.recipe import find_recipe, read_recipe

        file = read_recipe(find_recipe(self.recipe))
        found = with_runtime(file.value, self.runtime)
        return BuildOptions(
            recipe=replace(file, value=found),
            out=out if out is not None else Path(f"{found.name}-bundle"),
            choice=choose(found, profile, self.asked),
            release=release_now(os.environ, time.time()),
            target=profile,
            runtime=self.runtime,
            format=self.layout,
            quantize=self.quantize,
            merge=self.merge,
            tower=self.tower_choice,
            sources=given_sources(found, self.typed_sources),
            mirror=self._mirror(),
            require_python=self._needs_python(),
            without_wheels=self.without_wheels,
        )

    def for_machine(self, request: "BuildOptions", profile: "TargetProfile") -> "BuildOptions":
        """Return a request that was made before the machine was known, for that machine.

        Raises:
            PreflightError: no wheel can run on that system.
        """
        from llava_pack.lock.choice import choose

        choice = choose(request.recipe.value, profile, self.asked)
        return replace(request, choice=choice, target=profile)

    def _needs_python(self) -> bool:
        """Return whether the bundle must carry a CPython.

        Raises:
            UsageError: the target's own was asked for too.
        """
        if self.require_python and self.python == "target":
            raise UsageError(
                "has no meaning with --python target, which carries none",
                subject="--require-python",
                hint="leave one of them out",
            )
        return self.require_python

    def _mirror(self) -> "Mirror":
        """Return the mirror beside what the person has set, and print what it changes.

        Raises:
            UsageError: there is no such mirror.
        """
        from llava_pack.fetch.mirrors import USUAL, find_mirror, own_settings

        if self.mirror is None:
            return USUAL
        from huggingface_hub import get_token

        chosen, own = find_mirror(self.mirror), own_settings(os.environ, Path.cwd())
        for line in chosen.lines(self.mirror, own, token=get_token() is not None):
            console.say(line)
        return chosen.beside(own)


@dataclass(frozen=True, kw_only=True)
class PackOptions(PackChoices):
    """What is packed and what for, as it was typed."""

    target: Annotated[
        Path | None,
        typer.Option(
            help="The server's profile, as saved by `llava-pack probe`, or 'here' if this "
            "machine is the server; it determines the build."
        ),
    ] = None

    def request(self, out: Path | None = None) -> "BuildOptions":
        """Return what a build is asked for, for the machine whose profile was saved.

        Args:
            out: the bundle's folder; None for the recipe's name with `-bundle` in this folder.

        Raises:
            RecipeError: there is no such recipe, or nothing of it fits what was said.
            UsageError: the target's facts cannot be read.
        """
        return self.request_for(self._profile(), out)

    def _profile(self) -> "TargetProfile | None":
        from llava_pack.cli.laptop.probe import probe_here
        from llava_pack.lock.profile import parse_profile, read_profile

        if self.target == _HERE:
            return parse_profile(probe_here())
        return None if self.target is None else read_profile(self.target)
