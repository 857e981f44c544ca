"""Options that many commands take."""

from pathlib import Path
from typing import Annotated

import typer

from llava_pack.format.errors import UsageError
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME
from llava_pack.target.environment import IDENTIFIER, KEEP


def _bundle(folder: Path) -> Path:
    """Return a folder that can be meant as a bundle, be it damaged or incomplete.

    Raises:
        UsageError: it is no folder, or has neither a list of files nor a manifest.
    """
    if any((folder / name).exists() for name in (SUMS_NAME, MANIFEST_NAME)):
        return folder
    meant = folder.with_name(f"{folder.name}-bundle") if folder.name else folder
    raise UsageError(
        "not a bundle, which is a folder with SHA256SUMS",
        subject=str(folder),
        hint=f"did you mean {meant}?"
        if (meant / SUMS_NAME).exists()
        else "pass the folder that `llava-pack build` wrote",
    )


Bundle = Annotated[Path, typer.Argument(callback=_bundle, help="The folder of the bundle.")]


def _names(names: list[str] | None) -> list[str] | None:
    """Return names of variables.

    Raises:
        UsageError: one is no name.
    """
    for name in names or ():
        if not IDENTIFIER.fullmatch(name):
            raise UsageError(f"expected the name of a variable, got {name}", subject=KEEP)
    return names


KeepEnv = Annotated[
    list[str] | None,
    typer.Option(
        KEEP,
        metavar="NAME",
        callback=_names,
        help="Keep this environment variable, which bin/llava-pack would leave out. Repeatable.",
    ),
]
Prefix = Annotated[
    Path | None,
    typer.Option(
        envvar="LLAVA_PACK_PREFIX",
        help="Installation folder. Default: /opt/llava-pack as root, else your data folder.",
    ),
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Only this model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
IndexHost = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="Another host that keeps the files of that index."),
]
AcceptLicense = Annotated[
    list[str] | None,
    typer.Option(help="The id of a licence whose terms you accept; may be repeated."),
]
