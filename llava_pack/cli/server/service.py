"""`llava-pack service`: serving that starts at boot, and again when it fails or stalls."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.cli.server.service_files import first_client_key, give_folders, keep_join_key
from llava_pack.format import files
from llava_pack.format.errors import InstallError, PreflightError, UsageError
from llava_pack.installation.prefix import chosen_prefix
from llava_pack.installation.unit import Unit
from llava_pack.serve.nodes.addresses import network_of, value_of

if sys.platform != "win32":  # where its help can be read, and nothing run
    import pwd

_SYSTEMD = Path("/run/systemd/system")
_NAME = re.compile(r"llava-pack(-[A-Za-z0-9_-]+)?")

app = typer.Typer(
    name="service",
    help="Run the server as a systemd unit, from boot on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

System = Annotated[
    bool | None,
    typer.Option(
        "--system/--user",
        help="A system unit or a user unit. Default: a system unit if run as root.",
    ),
]
Account = Annotated[
    str | None,
    typer.Option(help="Account of a system unit. Default: the owner, unless that is root."),
]
Name = Annotated[str, typer.Option(help="Name of the unit, if a machine has several.")]
Arguments = Annotated[
    list[str] | None, typer.Argument(help="Arguments of `serve`; its options after --.")
]


@app.command()
def install(
    arguments: Arguments = None,
    system: System = None,
    account: Account = None,
    name: Name = "llava-pack",
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Write or update the unit; start it now and at every boot.

    If there are no keys yet, it makes one for clients, which outlives every start, and prints the
    path of its file.

    \b
    Examples:
      llava-pack service install
      llava-pack service install llava-v1.5-7b -- --port 7861
      sudo llava-pack service install --account llava
    """
    unit = _unit(arguments, system=system, account=account, name=name, prefix=prefix)
    if not _SYSTEMD.is_dir():
        raise PreflightError(
            "systemd is not running here",
            subject="service",
            hint="llava-pack service show prints the unit: run its ExecStart with another init",
        )
    joins = value_of("--join", unit.arguments) is not None
    try:
        give_folders(unit)
        keep_join_key(unit)
        key_file = None if joins else first_client_key(unit)
    except OSError as error:
        raise InstallError(
            f"the service's account cannot be given this folder: {error.strerror}",
            subject=str(error.filename),
            hint="check it: ls -ld; the service's account writes there and nowhere else",
        ) from error
    if unit.kept:
        console.say(f"every account can read in the unit: {', '.join(unit.kept)}")
    lingers = unit.system or _lingers()  # first: without a login, it is what starts the manager
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    files.write(unit.path, unit.text().encode(), 0o644)
    unit.systemctl("daemon-reload")
    unit.systemctl("enable", unit.name)
    unit.systemctl("restart", unit.name)
    if not lingers:
        console.say("! it stops when you log out, and does not start at boot; have root run once:")
        console.say(f"  loginctl enable-linger {_name_of(os.geteuid()) or os.geteuid()}")
    program = f"{unit.prefix}/bin/llava-pack"
    if as_json:
        fields = {"unit": str(unit.path), "system": unit.system, "lingers": lingers}
        fields |= {"key_file": str(key_file) if key_file else None, "next": f"{program} tunnel"}
        console.document("service", fields)
        return
    if joins:
        console.say(f"{unit.path} is active; how far it is:")
        console.verbatim(f"{program} status")
        return
    if value_of("--nodes", unit.arguments) is not None:
        console.say("the lines for the other nodes, as the account of the service:")
        console.say(f"  {shlex.join([program, 'serve', '--detach', *unit.arguments])}")
    if key_file is not None:
        console.say(f"a key for clients, which outlives every start, is in {key_file}; to show it:")
        console.say(f"  cat {shlex.quote(str(key_file))}")
    console.say(f"more keys, one for each client: {program} keys add NAME")
    console.say(f"{unit.path} is active; how a laptop reaches it:")
    console.verbatim(f"{program} tunnel")


@app.command()
def remove(system: System = None, name: Name = "llava-pack", as_json: AsJson = False) -> None:
    """Stop the service and remove its unit, not the installation.

    \b
    Examples:
      llava-pack service remove
      sudo llava-pack service remove --system
    """
    unit = Unit(
        name=_checked(name), system=_is_system(system), prefix=Path("/"), arguments=(), account=None
    )
    if not unit.path.exists():
        raise UsageError(
            "there is no such service",
            subject=str(unit.path),
            hint="llava-pack service remove --system, or --user",
        )
    unit.systemctl("disable", "--now", unit.name)
    unit.path.unlink()
    unit.systemctl("daemon-reload")
    if as_json:
        console.document("service", {"unit": str(unit.path), "removed": True})
        return
    console.say(f"{unit.path} is removed")


@app.command()
def show(
    arguments: Arguments = None,
    system: System = None,
    account: Account = None,
    name: Name = "llava-pack",
    prefix: Prefix = None,
) -> None:
    """Print the unit that `install` would write.

    \b
    Examples:
      llava-pack service show
      llava-pack service show --system --account llava > llava-pack.service
    """
    unit = _unit(arguments, system=system, account=account, name=name, prefix=prefix)
    console.verbatim(f"# {unit.path}\n{unit.text()}")


def _unit(
    arguments: list[str] | None,
    *,
    system: bool | None,
    account: str | None,
    name: str,
    prefix: Path | None,
) -> Unit:
    place, of_system = chosen_prefix(prefix), _is_system(system)
    if account is not None and not of_system:
        raise UsageError(
            "a user unit runs as the account that owns it",
            subject="--account",
            hint="add --system, as root, or leave it out",
        )
    from llava_pack.installation.installed import installed
    from llava_pack.target.ownership import check_prefix

    installed(place)
    chosen = account or (_name_of(place.stat().st_uid) if of_system else None)
    if of_system and chosen in {"root", ""}:
        raise UsageError(
            "a system service runs as an account of its own, expected --account",
            subject="service",
            hint="useradd --system --shell /usr/sbin/nologin llava, then --account llava",
        )
    if of_system and not _exists(chosen or ""):
        raise UsageError(f"there is no account {chosen}", subject="--account")
    if of_system:
        check_prefix(place, pwd.getpwnam(str(chosen)).pw_uid)
    if "--detach" in (arguments or ()):
        raise UsageError(
            "systemd runs it in the background already", subject="--detach", hint="leave it out"
        )
    if control := [word for word in arguments or () if not word.isprintable()]:
        raise UsageError(f"expected printable text, got {control[0]!r}", subject="service")
    return Unit(
        name=_checked(name),
        system=of_system,
        prefix=place,
        arguments=tuple(arguments or ()),
        account=chosen,
        network=network_of(arguments or ()),
    )


def _is_system(system: bool | None) -> bool:
    return os.geteuid() == 0 if system is None else system


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"expected llava-pack or llava-pack-NAME, got {name}", subject="--name")
    return name


def _name_of(uid: int) -> str:
    """Return the name of an account, empty where its number has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


def _lingers() -> bool:
    """Let this account's services run without a login, and say whether they do."""
    done = subprocess.run(["loginctl", "enable-linger"], capture_output=True, check=False)
    return done.returncode == 0
