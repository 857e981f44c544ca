"""A unit of systemd that serves what is installed, as a value."""

import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from llava_pack.format.errors import InstallError, UsageError
from llava_pack.shipped import shipped
from llava_pack.target import environment
from llava_pack.target.generations import base_folder

_SYSTEM_UNITS = Path("/etc/systemd/system")
_STARTED = re.compile(r'^ExecStart="((?:[^"\\]|\\.)*)"', re.MULTILINE)
_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One unit of systemd, not yet written."""

    name: str
    system: bool
    prefix: Path
    arguments: tuple[str, ...]
    account: str | None
    network: str = ""
    """Of the machines that hold the model together; empty where this one holds it alone."""

    @property
    def path(self) -> Path:
        """Where it belongs.

        Raises:
            UsageError: a user's unit, and the account has no home folder.
        """
        if self.system:
            return _SYSTEM_UNITS / f"{self.name}.service"
        if (home := base_folder("XDG_CONFIG_HOME", ".config")) is None:
            raise UsageError(
                "this account has no home folder for a user unit",
                subject="service",
                hint="llava-pack serve --detach, or have root run: llava-pack service install "
                "--system --account NAME",
            )
        return home / "systemd" / "user" / f"{self.name}.service"

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the variables whose values it holds: the installation's and its arguments'."""
        names = {*environment.chosen(os.environ), *environment.kept(self.arguments)}
        return tuple(sorted(names & os.environ.keys()))

    def text(self) -> str:
        """Return the unit, filled in; no value can end its line or be expanded."""
        template = "llava-pack.service" if self.system else "llava-pack-user.service"
        program = str(self.prefix / "bin" / "llava-pack")
        run, logs = (f"-{self.prefix}/{name}" for name in ("run", "logs"))
        reached = " ".join(["localhost", *([self.network] if self.network else [])])
        silent = f"IPAddressDeny=any\nIPAddressAllow={reached}"
        values = {
            "PREFIX": str(self.prefix).replace("%", "%%"),
            "COMMAND": " ".join(_word(word) for word in (program, "serve", *self.arguments)),
            "ENVIRONMENT": " ".join(map(_quoted, self._environment())),
            "WRITABLE": f"{_quoted(run)} {_quoted(logs)}",
            "ACCOUNT": self.account or "",
            "ADDRESSES": silent if _on_loopback(self.arguments) else "# it also serves other hosts",
        }
        text = (shipped("installers") / "units" / template).read_text(encoding="utf-8")
        return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text)

    def _environment(self) -> tuple[str, ...]:
        """Return what the service starts with: its prefix, and what is kept.

        Raises:
            UsageError: a value could not stand in a unit.
        """
        for name in self.kept:
            if not os.environ[name].isprintable():
                raise UsageError(
                    f"expected printable text in {name}, got other characters",
                    subject=environment.KEEP,
                )
        return (f"LLAVA_PACK_PREFIX={self.prefix}", *(f"{n}={os.environ[n]}" for n in self.kept))

    def systemctl(self, *arguments: str) -> None:
        """Ask systemd.

        Raises:
            InstallError: it could not be done.
        """
        command = ["systemctl", *([] if self.system else ["--user"]), *arguments]
        bus = {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}"}  # which ssh without PAM leaves out
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**bus, **os.environ}
        )
        if done.returncode != 0:
            scope = "" if self.system else "--user "
            raise InstallError(
                f"{' '.join(command)} exited with code {done.returncode}: "
                f"{done.stderr.strip():.400}",
                subject=self.name,
                hint=f"journalctl {scope}-u {self.name} shows why",
            )


def astray() -> tuple[tuple[Path, str], ...]:
    """Return the units of llava-pack here whose program is not there, as after a move, and that."""
    home = base_folder("XDG_CONFIG_HOME", ".config")
    folders = [_SYSTEM_UNITS, *([home / "systemd" / "user"] if home else [])]
    found = []
    for unit in (unit for folder in folders for unit in sorted(folder.glob("llava-pack*.service"))):
        with suppress(OSError):
            started = _STARTED.search(unit.read_text(encoding="utf-8", errors="replace"))
            program = _unquoted(started[1]) if started else ""
            if program and not Path(program).exists():
                found.append((unit, program))
    return tuple(found)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text).replace("%%", "%").replace("$$", "$")


def _on_loopback(arguments: tuple[str, ...]) -> bool:
    words = [word for argument in arguments for word in argument.split("=", 1)]
    hosts = [after for word, after in pairwise(words) if word == "--host"]
    return all(host.startswith(_LOOPBACK) for host in hosts)


def _quoted(text: str) -> str:
    """Return a value as systemd reads it back. Source: systemd.syntax(7), "Quoting"."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _word(text: str) -> str:
    """Return a word of a command line. Source: systemd.service(5), "Command lines"."""
    return _quoted(text).replace("$", "$$")
