"""Several versions, several models, one prefix: list, go back, give space back, remove."""

import os
import subprocess
import sys

import pytest

from llava_pack.format.errors import InstallError
from llava_pack.format.progress import Silent
from llava_pack.installation.installed import installed
from llava_pack.installation.integrity import changed_files
from llava_pack.target import generations, receipt
from llava_pack.target.programs import SEARCH_PATH
from tests.target.namespaces import AS_A_USER, allowed

WEIGHTS = "model-00001-of-00001.safetensors"


def test_the_new_version_is_listed_as_current(host, two, cli):
    rows = cli("generations", "--prefix", host.prefix, "--json").document["generations"]
    shown = [(row["generation"], row["current"], row["bundle_id"]) for row in rows]
    assert shown == [(1, False, two[0].id), (2, True, two[1].id)]
    assert "* tiny 2" in cli("generations", "--prefix", host.prefix).out


@pytest.mark.skipif(os.geteuid() == 0 and not allowed(*AS_A_USER), reason="no user namespaces here")
def test_an_installation_at_home_is_read_where_nothing_can_be_written(host, medium, tmp_path):
    share = tmp_path / "home/.local/share"
    host.prefix = share / "llava-pack"
    assert host.install_sh(medium()).returncode == 0
    share.chmod(0o555)
    host.prefix.chmod(0o555)
    wrap = AS_A_USER if os.geteuid() == 0 else ()
    command = [*wrap, sys.executable, "-m", "llava_pack", "generations"]
    environ = {"PATH": SEARCH_PATH, "HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "* tiny 1" in done.stdout


def test_the_installation_says_where_everything_is(host, two):
    found = installed(host.prefix)
    assert (found.recipe, found.number, found.bundle_id) == ("tiny", 2, two[1].id)
    assert found.model_dir == host.prefix / "models/tiny/generations/2/model/tiny-llava"
    assert found.vision_tower_dir == host.prefix / "models/tiny/generations/2/model/tower"
    assert found.venv_python.exists()
    assert found.manifest.serving.precision == "nf4"
    with pytest.raises(InstallError, match="other"):
        installed(host.prefix, "other")
    with pytest.raises(InstallError, match="none installed"):
        installed(host.prefix / "elsewhere")


def test_going_back_and_forth(host, two, cli):
    ended = cli("revert", "--prefix", host.prefix)
    assert (ended.code, host.current()) == (0, 1)
    assert cli("revert", "--prefix", host.prefix).code == 14
    assert host.current() == 1
    assert cli("revert", "--prefix", host.prefix, "--generation", 2, "--json").code == 0
    assert host.current() == 2
    assert cli("revert", "--prefix", host.prefix, "--generation", 7).code == 14


def test_a_version_that_is_there_is_activated_without_installing(host, two, cli):
    assert host.install_sh(two[0]).returncode == 8
    assert host.install_sh(two[0], "--allow-downgrade").returncode == 0
    assert host.current() == 1
    assert len(list((host.prefix / "models/tiny/generations").iterdir())) == 2


def test_old_versions_and_their_files_go(host, two, cli):
    assert cli("gc", "--prefix", host.prefix).code == 0
    assert len(generations.listing(host.prefix)) == 2
    ended = cli("gc", "--prefix", host.prefix, "--keep", 1, "--json")
    assert ended.document["generations"] == ["tiny/1"]
    assert ended.document["store_bytes"] > 0
    assert host.run("x") == f"{host.prefix} x"
    contents = [p.read_bytes() for p in (host.prefix / "store").rglob("*") if p.is_file()]
    assert b"newer weights" in contents
    assert b"weights of a very small model" not in contents


def test_two_models_share_the_store_and_part_again(host, medium, cli):
    host.install_sh(medium("one", recipe="one"))
    before = len([path for path in (host.prefix / "store").rglob("*") if path.is_file()])
    host.install_sh(medium("two", recipe="two"))
    after = len([path for path in (host.prefix / "store").rglob("*") if path.is_file()])
    assert after == before
    assert generations.recipes(host.prefix) == ("one", "two")
    assert installed(host.prefix).recipe == "two"
    assert cli("uninstall", "--prefix", host.prefix, "--recipe", "two").code == 0
    assert generations.recipes(host.prefix) == ("one",)
    assert host.run("x") == f"{host.prefix} x"
    assert cli("uninstall", "--prefix", host.prefix, "--recipe", "two").code == 0


def test_nothing_is_left_behind_but_what_is_not_ours(host, two, cli):
    (host.prefix / "notes.txt").write_text("mine")
    assert cli("uninstall", "--prefix", host.prefix).code == 0
    assert [path.name for path in host.prefix.iterdir()] == ["notes.txt"]
    again = cli("uninstall", "--prefix", host.prefix)
    assert (again.code, f"nothing is installed under {host.prefix}" in again.err) == (0, True)
    assert [path.name for path in host.prefix.iterdir()] == ["notes.txt"]


def test_a_folder_that_was_never_a_prefix_is_left_alone(tmp_path, cli):
    """A mistyped --prefix may have a bin, a run and a logs of its own."""
    for name in ("bin", "logs", "run", "store"):
        (tmp_path / "usr" / name).mkdir(parents=True)
    before = sorted((tmp_path / "usr").iterdir())
    ended = cli("uninstall", "--prefix", tmp_path / "usr", "--json")
    assert (ended.code, ended.document["generations"]) == (0, [])
    assert sorted((tmp_path / "usr").iterdir()) == before
    assert cli("uninstall", "--prefix", tmp_path / "absent").code == 0
    assert not (tmp_path / "absent").exists()


def test_the_command_runs_where_the_current_environment_is_broken(host, two):
    place = host.prefix / "models" / "tiny" / "generations"
    said = host.run("--version")
    (place / "2" / "venv" / "bin" / "python").unlink()
    assert host.run("--version") == said
    (place / "1" / "venv" / "bin" / "python").unlink()
    with pytest.raises(subprocess.CalledProcessError) as failure:
        host.run("--version")
    assert failure.value.returncode == 14
    assert "install the bundle again" in failure.value.stderr


@pytest.fixture
def one(host, medium):
    assert host.install_sh(medium()).returncode == 0
    return installed(host.prefix)


def test_a_link_that_goes_away_is_read_again_and_noted(one):
    weights = one.model_dir / WEIGHTS
    extra = one.root / "another-name"
    extra.hardlink_to(weights)
    assert receipt.broken(one.root) == (f"model/tiny-llava/{WEIGHTS}",)
    extra.unlink()
    assert changed_files(one, Silent()) == ()
    assert receipt.broken(one.root) == ()


def test_bytes_that_were_changed_are_found_whatever_their_dates_say(one):
    weights = one.model_dir / WEIGHTS
    before = weights.stat()
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[::-1])
    weights.chmod(0o444)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed_files(one, Silent()) == (f"model/tiny-llava/{WEIGHTS}",)
    assert receipt.broken(one.root) == (f"model/tiny-llava/{WEIGHTS}",)


@pytest.mark.parametrize("what", ["seal.json", "MANIFEST.json", "an extra file"])
def test_what_is_missing_or_new_is_named(one, what):
    if what == "an extra file":
        (one.model_dir / "modeling.py").write_text("import os")
    else:
        (one.root / what).unlink()
    assert changed_files(one, Silent()) == (
        {"an extra file": "model/tiny-llava/modeling.py"}.get(what, what),
    )


def test_files_that_two_models_share_stay_as_they_were_noted(host, medium, one, cli):
    assert host.install_sh(medium("two", recipe="two")).returncode == 0
    assert receipt.broken(one.root) == ()
    assert cli("uninstall", "--prefix", host.prefix, "--recipe", "two").code == 0
    assert receipt.broken(one.root) == ()
