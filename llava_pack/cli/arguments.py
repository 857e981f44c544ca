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
SshPort = Annotated[int | None, typer.Option("-p", "--ssh-port", help="Port of the server's sshd.")]
Jump = Annotated[
    str | None, typer.Option("-J", "--jump", help="A bastion to go through, as in ssh -J.")
]
SshOption = Annotated[
    list[str] | None, typer.Option("-o", "--ssh-option", help="Passed to ssh as -o.")
]
