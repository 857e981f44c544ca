"""How ssh reaches a server, as every command that logs in takes it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llava_pack.client.ssh import Login


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """What the person's own ssh is told beside the server's name."""

    ssh_port: Annotated[
        int | None, typer.Option("-p", "--ssh-port", help="Port of the server's sshd.")
    ] = None
    jump: Annotated[
        str | None, typer.Option("-J", "--jump", help="A bastion to go through, as in ssh -J.")
    ] = None
    ssh_option: Annotated[
        list[str] | None, typer.Option("-o", "--ssh-option", help="Passed to ssh as -o.")
    ] = None

    def login(self, destination: str) -> "Login":
        """Return how to log in to USER@HOST, or to a host of the person's ssh configuration."""
        from llava_pack.client.ssh import Login

        options = tuple(self.ssh_option or ())
        return Login(destination=destination, port=self.ssh_port, jump=self.jump, options=options)
