"""The command tree; each command's module is imported here and keeps its heavy imports inside."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import llava_pack
from llava_pack.cli import console
from llava_pack.cli.both.ask import ask
from llava_pack.cli.both.chat import chat
from llava_pack.cli.both.explain import explain
from llava_pack.cli.both.inspect import inspect
from llava_pack.cli.both.repair import repair
from llava_pack.cli.both.tunnel import tunnel
from llava_pack.cli.both.verify import verify
from llava_pack.cli.laptop.build import build
from llava_pack.cli.laptop.carry import carry
from llava_pack.cli.laptop.demo import demo
from llava_pack.cli.laptop.deploy import deploy
from llava_pack.cli.laptop.doctor import doctor
from llava_pack.cli.laptop.keygen import keygen
from llava_pack.cli.laptop.lock import lock
from llava_pack.cli.laptop.plan import plan
from llava_pack.cli.laptop.probe import probe
from llava_pack.cli.laptop.recipes import recipes
from llava_pack.cli.laptop.send import send
from llava_pack.cli.server.generations import gc, generations, revert, uninstall
from llava_pack.cli.server.have import have
from llava_pack.cli.server.health import NagiosCommand, health
from llava_pack.cli.server.install import install
from llava_pack.cli.server.keys import app as keys
from llava_pack.cli.server.logs import logs
from llava_pack.cli.server.serve import serve
from llava_pack.cli.server.service import app as service
from llava_pack.cli.server.start import start
from llava_pack.cli.server.status import status
from llava_pack.cli.server.stop import stop
from llava_pack.cli.server.support_bundle import support_bundle
from llava_pack.cli.server.swap import swap
from llava_pack.cli.server_side import ServerCommand, ServerGroup

LAPTOP = "On the laptop"
SERVER = "On the server"
BOTH = "On both"
FIRST_STEPS = (deploy, build, install, serve, tunnel, chat)
"""What a newcomer needs, in its order; they come first in their panels."""


class Panels(TyperGroup):
    """A group whose help has a panel for each side of the air gap, one whole line a command."""

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write the panels, their names aligned."""
        width = max(map(len, self.commands))
        for panel in (LAPTOP, SERVER, BOTH):
            with formatter.section(panel):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str())
                        for name, command in self.commands.items()
                        if getattr(command, "rich_help_panel", None) == panel
                    ]
                )


app = typer.Typer(
    name="llava-pack",
    cls=Panels,
    help="Carry LLaVA across an air gap: build a verified bundle here, install and serve it there."
    f"\n\nThe first steps: {', '.join(step.__name__ for step in FIRST_STEPS)}.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        console.verbatim(f"llava-pack {llava_pack.__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version_flag: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Carry LLaVA across an air gap."""


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _add(panel: str, *commands: Callable[..., None], cls: type[TyperCommand] | None = None) -> None:
    """Put commands into a panel, named as their functions are."""
    for command in commands:
        name = command.__name__.replace("_", "-")
        line = _first_line(command.__doc__)
        app.command(name, cls=cls, rich_help_panel=panel, short_help=line)(command)


def _add_group(panel: str, group: typer.Typer) -> None:
    line = _first_line(group.info.help)
    app.add_typer(group, cls=ServerGroup, rich_help_panel=panel, short_help=line)


_add(LAPTOP, deploy, build, probe, plan, doctor, recipes, lock, send, carry, keygen, demo)
_add(SERVER, install, serve, status, logs, start, swap, stop, cls=ServerCommand)
_add(SERVER, health, cls=NagiosCommand)
_add(SERVER, support_bundle)
_add(SERVER, generations, revert, gc, have, uninstall, cls=ServerCommand)
_add_group(SERVER, keys)
_add_group(SERVER, service)
_add(BOTH, tunnel, chat, ask, verify, repair, inspect, explain)
