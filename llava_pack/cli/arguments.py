"""Options that many commands take."""

from pathlib import Path
from typing import Annotated

import typer

Prefix = Annotated[
    Path | None,
    typer.Option(
        envvar="LLAVA_PACK_PREFIX",
        help="Installation folder. Default: /opt/llava-pack as root, else your data folder.",
    ),
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Only this model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
