"""The command tree; each command's module is imported here and keeps its heavy imports inside."""

from typing import Annotated

import typer

import llava_pack
from llava_pack.cli import console
from llava_pack.cli.ask import ask
from llava_pack.cli.build import build
from llava_pack.cli.chat import chat
from llava_pack.cli.demo import demo
from llava_pack.cli.explain import explain
from llava_pack.cli.health import NagiosCommand, health
from llava_pack.cli.inspect import inspect
from llava_pack.cli.install import install
from llava_pack.cli.keygen import keygen
from llava_pack.cli.keys import app as keys
from llava_pack.cli.lock import lock
from llava_pack.cli.logs import logs
from llava_pack.cli.plan import plan
from llava_pack.cli.probe import probe
from llava_pack.cli.serve import serve
from llava_pack.cli.service import app as service
from llava_pack.cli.start import start, swap
from llava_pack.cli.status import status
from llava_pack.cli.stop import stop
from llava_pack.cli.support_bundle import support_bundle
from llava_pack.cli.target import gc, generations, revert, uninstall
from llava_pack.cli.tunnel import tunnel
from llava_pack.cli.verify import verify

app = typer.Typer(
    name="llava-pack",
    help="Carry LLaVA across an air gap: build a verified bundle here, install and serve it there.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        console.data(f"llava-pack {llava_pack.__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version_flag: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Carry LLaVA across an air gap."""


app.command()(probe)
app.command()(plan)
app.command()(lock)
app.command()(keygen)
app.command()(build)
app.command()(demo)
app.command()(verify)
app.command()(inspect)
app.command()(install)
app.command()(generations)
app.command()(revert)
app.command()(gc)
app.command()(uninstall)
app.command()(chat)
app.command()(ask)
app.command()(serve)
app.command()(status)
app.command()(logs)
app.command()(start)
app.command()(swap)
app.command()(stop)
app.command(cls=NagiosCommand)(health)
app.command()(explain)
app.command("support-bundle")(support_bundle)
app.command()(tunnel)
app.add_typer(keys)
app.add_typer(service)
