"""What only a server can do, said in one line where somebody tries it on a Windows PC."""

import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from llava_pack.format.errors import UsageError

_HELP = frozenset({"--help", "-h"})


def need_server(command: str, hint: str = "", platform: str = sys.platform) -> None:
    """Refuse what installs, serves or looks after a server, where no server can be.

    Args:
        command: as it was typed.
        hint: the command of this side that is meant instead, if there is one.
        platform: as `sys.platform` names it.

    Raises:
        UsageError: this machine runs Windows.
    """
    if platform == "win32":
        raise UsageError(
            "this command is for the Linux server; this machine runs Windows",
            subject=command,
            hint=hint or f"ssh USER@HOST -p PORT, and there: llava-pack {command}",
        )


class ServerCommand(TyperCommand):
    """A command that says where it runs before it reads its options; its help is for everybody."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        """Parse the command line."""
        _refuse(info_name, args)
        return super().make_context(info_name, args, *rest, **more)


class ServerGroup(TyperGroup):
    """A group of such commands."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        """Parse the command line."""
        _refuse(info_name, args)
        return super().make_context(info_name, args, *rest, **more)


def _refuse(name: str | None, arguments: Sequence[str]) -> None:
    if _HELP.isdisjoint(arguments):
        need_server(name or "")
