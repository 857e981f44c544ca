"""`llava-pack deploy`: from a recipe to a page, on a server that has ssh and no route."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from llava_pack.fetch.cache import Cache
from tests.support.hub import LoopbackHub
from tests.support.sshd import PROGRAM, OfflineSshd

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        PROGRAM is None or os.geteuid() != 0, reason="needs sshd, and root for its namespace"
    ),
]
_DONE_S = 600


@dataclass(frozen=True)
class Laptop:
    """Where `deploy` is typed, and the server that it goes to."""

    place: tuple[str, ...]
    """Destination and options of ssh."""
    environ: dict[str, str]
    cache: Path
    prefix: Path
    """On the server; where root installs by itself is not for tests."""

    def line(self, recipe: object, *options: str) -> list[str]:
        command = [sys.executable, "-m", "llava_pack", "deploy", str(recipe), *self.place]
        return [*command, "--prefix", str(self.prefix), "--python", "target", *options]

    def deploy(self, recipe: object, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.line(recipe, *options),
            capture_output=True,
            text=True,
            check=False,
            timeout=_DONE_S,
            env=self.environ,
            stdin=subprocess.DEVNULL,
        )

    def there(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run the installed llava-pack, which needs nothing of the namespace for that."""
        command = [str(self.prefix / "bin" / "llava-pack"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, demo_hub: LoopbackHub) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("deploy")
    home, cache = folder / "home", folder / "cache"
    for place in (home, cache, folder / "sshd"):
        place.mkdir()
    for part in Cache().root.iterdir():  # what is fetched already, without what was deployed
        if part.name not in {"bundles", "deployments"}:
            (cache / part.name).symlink_to(part)
    own = {"HF_ENDPOINT": demo_hub.url, "LLAVA_PACK_CACHE": str(cache)}
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
    settings = {"SetEnv": f"HOME={home} XDG_DATA_HOME={home} PATH={path}"}
    with OfflineSshd(folder / "sshd", settings) as server:
        ssh = [part for one in server.options for part in ("-o", one)]
        place = (f"{server.user}@gpu01", "-p", str(server.port), *ssh)
        one = Laptop(place, {**os.environ, **own}, cache, home / "llava-pack")
        yield one
        with suppress(FileNotFoundError):
            one.there("stop", "--force")


def test_a_dry_run_tells_bytes_and_times_and_changes_nothing(
    laptop: Laptop, demo_recipe: Path
) -> None:
    done = laptop.deploy(demo_recipe, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sizes = {step["name"]: step["size_bytes"] for step in told["steps"]}
    assert list(sizes) == ["build", "send", "install", "serve", "health"]
    assert sizes["build"] > 0 < sizes["send"]
    assert all(step["about_s"] > 0 for step in told["steps"])
    assert not laptop.prefix.exists()
    assert not list((laptop.cache / "bundles").glob("*/SHA256SUMS"))


def test_a_dry_run_is_told_in_chinese(laptop: Laptop, demo_recipe: Path) -> None:
    chinese = replace(laptop, environ={**laptop.environ, "LANG": "zh_CN.UTF-8", "LC_ALL": ""})
    done = chinese.deploy(demo_recipe, "--dry-run")
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if re.match(r"[a-z]+ {2,}", line)]
    assert [line.split()[0] for line in steps] == ["build", "send", "install", "serve", "health"]
    assert steps[0].endswith("下载并打包")
    assert all(not line.isascii() and " about " not in line for line in steps)


def test_what_would_not_run_there_is_refused_before_anything_heavy(
    laptop: Laptop, demo_recipe: Path
) -> None:
    done = laptop.deploy(demo_recipe, "--cuda", "12", "--yes", "--check")
    assert done.returncode == 3, done.stderr
    assert "the bundle would not run there" in done.stderr
    assert not laptop.prefix.exists()


def test_without_a_terminal_the_work_has_to_be_confirmed(laptop: Laptop, demo_recipe: Path) -> None:
    done = laptop.deploy(demo_recipe, "--check")
    assert done.returncode == 2, done.stderr
    assert "--yes" in done.stderr
    assert not laptop.prefix.exists()


@pytest.fixture(scope="module")
def deployed(laptop: Laptop, demo_recipe: Path) -> dict[str, str]:
    """Deploy once: what follows runs the same command again."""
    done = laptop.deploy(demo_recipe, "--yes", "--check", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_one_command_leads_to_a_page_without_network_on_the_far_side(
    laptop: Laptop, deployed: dict[str, str]
) -> None:
    assert deployed["page"].startswith("http://localhost:")
    [receipt] = laptop.prefix.glob("models/*/current/receipt.json")
    facts = json.loads(receipt.read_text())
    assert facts["bundle_id"] == deployed["bundle_id"]
    assert facts["verified"]["by"] == "--expect"
    assert facts["verified"]["expect"] == "over ssh from 127.0.0.1, by llava-pack deploy"
    assert facts["silence"]["routes"] == []
    assert not any((laptop.prefix / "received").glob("*")), "what was installed is not kept twice"


def test_run_again_it_changes_nothing_and_shows_the_page(
    laptop: Laptop, deployed: dict[str, str], demo_recipe: Path, demo_hub: LoopbackHub
) -> None:
    asked = len(demo_hub.asked)
    before = laptop.there("status", "--json").stdout
    done = laptop.deploy(demo_recipe, "--check", "--card")
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stderr
    assert deployed["bundle_id"] in done.stdout
    assert len(demo_hub.asked) == asked, "neither packages nor weights are looked for"
    pids = [[one["pid"] for one in json.loads(text)["servers"]] for text in
            (before, laptop.there("status", "--json").stdout)]  # fmt: skip
    assert pids[0] == pids[1]


def test_ctrl_c_closes_the_tunnel_and_leaves_the_server(
    laptop: Laptop, deployed: dict[str, str], demo_recipe: Path
) -> None:
    command = laptop.line(demo_recipe, "--no-open", "--json")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=laptop.environ
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        page = json.loads(run.stdout.readline())["page"]
        url, _, token = page.partition("/#token=")
        said = httpx.get(
            f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )
        assert said.status_code == 200
        run.send_signal(signal.SIGINT)
        talk = run.stderr.read()
    assert run.returncode == 130
    assert "to stop it" in talk.lower()
    assert "bin/llava-pack stop" in talk
    assert json.loads(laptop.there("status", "--json").stdout)["servers"]


def test_an_upgrade_without_anything_newer_builds_nothing(
    laptop: Laptop, deployed: dict[str, str], demo_recipe: Path
) -> None:
    done = laptop.deploy(demo_recipe, "--upgrade", "--check", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle_id"] == deployed["bundle_id"]
