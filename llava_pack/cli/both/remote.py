"""Another machine's server, as `chat` and `ask` both take it: through ssh, or at a URL."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.both.sampling import QuestionOptions
from llava_pack.cli.loading import ModelOptions
from llava_pack.cli.parameters import Ways, names_of
from llava_pack.cli.ssh_options import SshOptions
from llava_pack.cli.unwinding import unwinding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llava_pack.client.api_server import ApiServer


@dataclass(frozen=True, kw_only=True)
class RemoteOptions(SshOptions):
    """Which other machine's server answers; none of them means this machine."""

    via: Annotated[
        str | None,
        typer.Option(
            metavar="USER@HOST",
            help="On the laptop: ask the server that runs there, through your own ssh.",
        ),
    ] = None
    url: Annotated[
        str | None,
        typer.Option(help="Ask the server at this address, for example one behind a proxy."),
    ] = None
    key_file: Annotated[Path | None, typer.Option(help="With --url: file with the API key.")] = None

    @property
    def elsewhere(self) -> bool:
        """Return whether the server is on another machine."""
        return bool(self.via or self.url)

    @contextmanager
    def server(self, model: str | None) -> "Iterator[ApiServer]":
        """Reach the server during the block: this machine's where no other is named.

        Raises:
            PackError: it cannot be reached, or does not have that model.
        """
        from llava_pack.client.api_server import at_url, exposed, through_tunnel

        if self.via:
            with unwinding(), through_tunnel(self.login(self.via), model, console.say) as server:
                yield server
        elif self.url:
            if exposed(self.url, self.key_file):
                console.warning(
                    "the key and the pictures travel unencrypted: use https, or --via USER@HOST"
                )
            yield at_url(self.url, self.key_file, model)
        else:
            from llava_pack.client.completions import find_server

            yield find_server(model)


def ways_of(*own: str) -> Ways:
    """Return the ways of a command that asks: through ssh, at a URL, or on this machine.

    Args:
        own: the command's own options, which go with every way.
    """
    common = (*own, *names_of(QuestionOptions))
    return {
        "via": (*names_of(SshOptions), *common),
        "url": ("key_file", *common),
        "": (*names_of(ModelOptions), *common),
    }
