"""Where a command runs, said where somebody tries it elsewhere."""

import pytest
from typer.main import get_command

from llava_pack.cli.app import SERVER, app
from llava_pack.cli.server_side import ServerCommand, ServerGroup, need_server
from llava_pack.format.errors import UsageError


def test_a_windows_pc_is_told_where_a_servers_command_runs():
    with pytest.raises(UsageError) as caught:
        need_server("serve", platform="win32")
    assert str(caught.value) == (
        "serve: this command is for the Linux server; this machine runs Windows"
    )
    assert caught.value.hint == "ssh USER@HOST -p PORT, and there: llava-pack serve"


def test_the_command_that_is_meant_can_be_named():
    with pytest.raises(UsageError) as caught:
        need_server("tunnel", hint="llava-pack tunnel USER@HOST", platform="win32")
    assert caught.value.hint == "llava-pack tunnel USER@HOST"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_elsewhere_it_goes_on(platform):
    need_server("serve", platform=platform)


def test_every_command_of_the_server_says_it():
    """`health` and `support-bundle` have something to do on a laptop too."""
    for name, command in get_command(app).commands.items():
        if command.rich_help_panel == SERVER and name not in {"health", "support-bundle"}:
            assert isinstance(command, ServerCommand | ServerGroup), name
