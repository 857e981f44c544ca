"""`deploy` from Windows: from a recipe to a page, on a server that has ssh and no route."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.sshd import OfflineSshd
from tests.windows.world import windows_path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Give what is typed after the recipe, and where it is installed."""
    folder = tmp_path_factory.mktemp("deploy")
    home = folder / "home"
    for place in (home, folder / "sshd"):
        place.mkdir()
    path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
    with OfflineSshd(folder / "sshd", {"SetEnv": f"HOME={home} PATH={path}"}) as sshd:
        options = [part for one in sshd.options for part in ("-o", one)]
        prefix = home / "llava-pack"
        place = [f"{sshd.user}@gpu01", "-p", sshd.port, *options, "--prefix", prefix]
        yield [*place, "--python", "target", "--yes", "--check", "--json"], prefix
        if (prefix / "bin" / "llava-pack").exists():
            subprocess.run([prefix / "bin" / "llava-pack", "stop", "--force"], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="the server's namespace needs root")
def test_one_line_leads_to_a_page_and_a_second_time_changes_nothing(windows, on_linux, server):
    place, prefix = server
    first = windows.run("deploy", windows_path(on_linux.recipe), *place)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    [receipt] = prefix.glob("models/*/current/receipt.json")
    facts = json.loads(receipt.read_text())
    assert facts["bundle_id"] == told["bundle_id"]
    assert facts["silence"]["routes"] == []
    again = windows.run("deploy", windows_path(on_linux.recipe), *place)
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stderr
    assert json.loads(again.stdout) == told
