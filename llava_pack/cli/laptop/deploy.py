"""`llava-pack deploy`: from a recipe to a page in the browser, on a server that ssh reaches."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AcceptLicense, AsJson, IndexHost
from llava_pack.cli.language import translated
from llava_pack.cli.laptop.build import accepted_terms
from llava_pack.cli.laptop.deploy_lines import machine_lines, reached_as, step_line
from llava_pack.cli.laptop.options import PackChoices
from llava_pack.cli.laptop.side import need_laptop
from llava_pack.cli.parameters import expanded
from llava_pack.cli.ssh_options import SshOptions
from llava_pack.cli.unwinding import unwinding
from llava_pack.format.errors import UsageError
from llava_pack.format.text import human_bytes
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.client.ssh import RemoteHost
    from llava_pack.client.ssh_tunnel import Remote
    from llava_pack.deploy.estimate import Step
    from llava_pack.deploy.record import BuiltBundle
    from llava_pack.deploy.steps import Deployment
    from llava_pack.deploy.work import DeployWork


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """How `deploy` goes about it, as it was typed."""

    prefix: Annotated[
        str | None,
        typer.Option(help="Folder on the server. Default: where llava-pack is, or belongs."),
    ] = None
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on the server, on its loopback.")
    ] = 7860
    local_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on this laptop. Default: a free one.")
    ] = None
    service: Annotated[
        bool, typer.Option("--service", help="Serve as a systemd service, from boot on.")
    ] = False
    account: Annotated[
        str | None, typer.Option(help="With --service as root: the account that serves.")
    ] = None
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Look for newer packages and weights.")
    ] = False
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder here. Default: in the cache.")
    ] = None
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="With --without-wheels: the package index of the server, or a file there that "
            "holds its URL; may be repeated.",
        ),
    ] = None
    index_host: IndexHost = None
    accept_license: AcceptLicense = None
    card: Annotated[
        bool, typer.Option("--card", help="Print the bundle's id and size, to compare.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print bytes and minutes of each step, and exit.")
    ] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the work.")] = False
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the page's address, and open no browser.")
    ] = False
    check: Annotated[
        bool, typer.Option("--check", help="Check through the tunnel, and close it again.")
    ] = False
    as_json: AsJson = False

    @property
    def install_options(self) -> Iterator[str]:
        """Yield what the installer is told beside what to install."""
        for option, values in {"--index": self.index, "--index-host": self.index_host}.items():
            yield from (word for value in values or () for word in (option, value))

    def __post_init__(self) -> None:
        idle = {
            "--card": self.card,
            "--check": self.check,
            "--no-open": self.no_open,
            "--yes": self.yes,
            "--local-port": self.local_port,
            "--accept-license": self.accept_license,
        }
        if self.dry_run and (typed := [name for name, is_on in idle.items() if is_on]):
            raise UsageError(
                "has no meaning with --dry-run", subject=", ".join(typed), hint="leave it out"
            )
        if self.account is not None and not self.service:
            raise UsageError("has no meaning without --service", subject="--account")
        if self.prefix is not None and not self.prefix.startswith("/"):
            raise UsageError(
                f"expected a folder of the server from / on, got {self.prefix}",
                subject="--prefix",
                hint="for example --prefix /data/llava-pack",
            )


@expanded
def deploy(
    *,
    pack: PackChoices,
    destination: Annotated[
        str,
        typer.Argument(metavar="USER@HOST", help="Or a host from your ssh configuration."),
    ],
    ssh: SshOptions,
    how: DeployOptions,
) -> None:
    """Do it all: from a recipe to the page in your browser.

    It probes the server, plans and builds the bundle for it, sends, installs and serves it there,
    checks its health, opens a tunnel and shows the page. The server needs ssh, and no network. Run
    again, it resumes, and does nothing where nothing changed; with --upgrade it looks for newer
    packages and weights. Ctrl-C closes the tunnel, and the server goes on.

    \b
    Examples:
      llava-pack deploy llava-v1.5-7b root@gpu01 -p 42354
      llava-pack deploy llava-v1.5-7b ada@gpu01 -J ada@bastion --dry-run
      llava-pack deploy llava-v1.5-7b ada@gpu01 --upgrade --yes
      llava-pack deploy demo ada@gpu01 --check --json
    """
    need_laptop("deploy")
    if pack.without_wheels != bool(how.index):
        raise UsageError(
            "each needs the other: wheels that are left out come from the index of the server",
            subject="--without-wheels and --index",
            hint="give both, or none",
        )
    from llava_pack.client.ssh import connected
    from llava_pack.deploy.estimate import steps_of
    from llava_pack.deploy.record import Records
    from llava_pack.deploy.remote_commands import RemoteCommands
    from llava_pack.deploy.steps import Deployment
    from llava_pack.deploy.work import Wanted
    from llava_pack.fetch.cache import Cache

    login = ssh.login(destination)
    asked = pack.request_for(None, how.out)  # a mistake is said before a password is asked for
    wanted = Wanted(
        destination=" ".join(login.typed[1:]),
        options=lambda profile: pack.for_machine(asked, profile),
        typed=repr(pack),
        upgrade=how.upgrade,
        prefix=how.prefix,
        port=how.port,
        service=how.service,
        account=how.account,
        install=tuple(how.install_options),
        reached_as=reached_as(destination, ssh.ssh_port, ssh.jump),
        out=None if how.out is None else how.out.absolute(),
    )
    progress, cache = console.progress(), Cache()
    with unwinding(), connected(login, console.say) as host:
        server = RemoteCommands(host, progress)
        deployment = Deployment(wanted, server, Records(cache), cache, progress)
        with _resumable():
            work = deployment.look()
            steps: tuple[Step, ...] = ()
            if work.sends:
                steps = tuple(steps_of(work, server.rate(), deployment.missing_bytes(work)))
            _show(work, steps, how)
            if how.dry_run:
                return
            bundle, remote = _done(deployment, work, how)
        _open(host, work, bundle, remote, how)


def _show(work: "DeployWork", steps: "Sequence[Step]", how: DeployOptions) -> None:
    """Print what will be done, what of it moves bytes, and about how long it takes.

    Args:
        work: what is to do.
        steps: none where the server has the bundle.
        how: what was asked for.
    """
    if how.as_json and how.dry_run:
        rows = [asdict(step) for step in steps]
        fields = {"recipe": work.recipe, "prefix": work.prefix, "steps": rows}
        console.document("deploy", fields)
        return
    tell = console.verbatim if how.dry_run else console.talk
    for line in machine_lines(work):
        tell(line)
    if not work.sends:
        done = translated("nothing changed: it is built, sent and installed already")
        tell(f"{console.mark('ok')} {done}")
        return
    for step in steps:
        tell(step_line(step))


def _done(
    deployment: "Deployment", work: "DeployWork", how: DeployOptions
) -> "tuple[BuiltBundle, Remote]":
    """Do the work, and return the bundle that is served, and where."""
    recipe = work.options.recipe.value
    accepted = accepted_terms(recipe, how.accept_license or []) if work.builds else frozenset()
    if work.sends and not how.yes:
        _confirm()
    bundle = deployment.build(work, accepted)
    if how.card:
        console.data(f"recipe    {work.recipe}")
        console.data(f"size      {human_bytes(bundle.size_bytes)}")
        console.data(f"id        {bundle.bundle_id}")
    if work.sends:
        deployment.install(work, bundle, deployment.send(work, bundle))
    remote = deployment.serve(work)
    console.say(f"{console.mark('ok')} health: {deployment.health(work)}")
    return bundle, remote


def _confirm() -> None:
    """Ask before the work.

    Raises:
        UsageError: there is nobody to ask.
        Exit: the answer is no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "there is no terminal to ask at", subject="deploy", hint="add --yes to go on"
        )
    if not typer.confirm(translated("Go on?"), default=True, err=True):
        raise typer.Exit


@contextmanager
def _resumable() -> Iterator[None]:
    """Say how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        console.say()
        console.say("stopped; what is done stays done: run the same command again to go on")
        raise


def _open(
    host: "RemoteHost",
    work: "DeployWork",
    bundle: "BuiltBundle",
    remote: "Remote",
    how: DeployOptions,
) -> None:
    """Open the tunnel and the page, and keep them until Ctrl-C."""
    from llava_pack.client.ssh_tunnel import free_port, opened
    from llava_pack.deploy import browser

    here = free_port(how.local_port or remote.port, exactly=how.local_port is not None)
    with opened(host, remote, here) as passage:
        passage.check(remote, bundle.bundle_id)
        url = f"http://localhost:{here}/" + (f"#token={remote.token}" if remote.token else "")
        if how.as_json:
            fields = {"recipe": work.recipe, "bundle_id": bundle.bundle_id, "page": url}
            console.document("deploy", {**fields, "prefix": work.prefix})
        else:
            console.verbatim(url)
        program = shlex.quote(f"{work.prefix}/bin/llava-pack")
        stop = pasted([*host.login.typed, f"{program} stop"])
        if how.check:
            console.say(f"the server goes on; to stop it: {stop}")
            return
        with nullcontext() if how.no_open else browser.shown(url) as is_open:
            if is_open is False:
                console.say("no browser can be opened from here: open this address in yours")
            elif is_open:
                console.say("if your browser shows nothing, open this address in it")
            console.say(f"Ctrl-C closes the tunnel; the server goes on. To stop it: {stop}")
            passage.wait()
