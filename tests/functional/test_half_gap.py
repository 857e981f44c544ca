"""Bundles without wheels, from the build to a model that answers."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from tests.conftest import ROOT
from tests.support.index import LoopbackIndex
from tests.support.tiny_wheels import write_tiny_wheels
from tests.support.traces import addresses, traced

OWN = re.compile(r"llava_pack-.*\.whl")


@pytest.fixture
def offline(tmp_path):
    """Give the environment of a laptop whose only packages are tiny ones."""
    index = {"PIP_FIND_LINKS": str(write_tiny_wheels(tmp_path / "wheels")), "PIP_NO_INDEX": "1"}
    index |= {"UV_OFFLINE": "1", "LLAVA_PACK_CACHE": str(tmp_path / "cache")}
    return index | {"SOURCE_DATE_EPOCH": "1790000000"}


@pytest.fixture
def run(command_line, offline, tmp_path):
    def command(name, *options, code=0):
        done = command_line(name, *options, "--json", env=offline, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return command


@pytest.fixture
def build(run):
    known = ("--python", "target", "--no-record", "--replace")
    return lambda *options: run("build", "demo", *known, *options)


def components(bundle):
    bill = json.loads((bundle / "sbom/bundle.cdx.json").read_text())
    return [{**part, "bom-ref": "", "properties": []} for part in bill["components"]]


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_a_server_fetches_itself_is_named_and_does_not_travel(build, run, tmp_path):
    bundle = tmp_path / "demo-bundle"
    whole = build()
    filled = {path.name: path.stat().st_size for path in (bundle / "wheels").iterdir()}
    bill, licences = components(bundle), names(bundle / "licenses")
    lock = (bundle / "lock/pylock.toml").read_bytes()
    lean = build("--without-wheels")
    [own] = [path.name for path in (bundle / "wheels").iterdir()]
    assert OWN.fullmatch(own)
    assert lean["left_out"] == len(filled) - 1
    assert lean["left_out_bytes"] == sum(filled.values()) - filled[own]
    assert lean["size_bytes"] < whole["size_bytes"]
    assert (components(bundle), names(bundle / "licenses")) == (bill, licences)
    assert (bundle / "lock/pylock.toml").read_bytes() == lock
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    assert manifest["format"] == 2
    left_out = [entry for entry in manifest["files"] if entry["origin"]["kind"] == "index"]
    assert {entry["path"].rpartition("/")[2] for entry in left_out} == filled.keys() - {own}
    check = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=bundle, check=False).returncode == 0
    verified = run("verify", bundle, "--expect", lean["bundle_id"])
    assert len(verified["left_out"]) == lean["left_out"]
    assert "--index URL" in (bundle / "START-HERE.txt").read_text()
    assert build()["bundle_id"] == whole["bundle_id"]
    assert {path.name for path in (bundle / "wheels").iterdir()} == filled.keys()


def test_the_plan_says_what_crosses_and_what_the_server_fetches(run):
    whole = run("plan", "demo", "--python", "target")
    lean = run("plan", "demo", "--python", "target", "--without-wheels")
    assert whole["target_fetch_bytes"] == 0
    assert lean["bundle_bytes"] + lean["target_fetch_bytes"] == whole["bundle_bytes"]
    assert lean["target_bytes"] == whole["target_bytes"]


def test_a_lock_decides_whether_wheels_travel(run, tmp_path):
    options = ("--python", "target", "--without-wheels")
    run("lock", "demo", *options, "--out", tmp_path / "lock.json")
    lean = run("build", "demo", *options, "--no-record")
    locked = ("--locked", tmp_path / "lock.json", "--no-record")
    assert run("build", "demo", *locked)["bundle_id"] == lean["bundle_id"]
    error = run("build", "demo", *locked, "--without-wheels", code=2)
    assert error["subject"] == "--locked"


def test_the_card_and_the_plan_say_it_to_people(command_line, offline, tmp_path):
    arguments = ("demo", "--python", "target", "--without-wheels")
    card = command_line("build", *arguments, "--no-record", env=offline, cwd=tmp_path)
    assert re.search(
        r"wheels    \d+, .* GB: the server fetches them from its index, URL", card.stdout
    )
    assert card.stdout.splitlines()[-1].endswith(" --index URL")
    assert "from a folder here, and the server's index must have them: " in card.stderr
    plan = command_line("plan", *arguments, env=offline, cwd=tmp_path)
    assert re.search(r"the server fetches .* of wheels itself, from its own index", plan.stdout)


def test_it_builds_on_the_server_itself_for_the_machine_at_hand(command_line, offline, tmp_path):
    """Headless: root without HOME, whose pip and uv have no configuration of their own."""
    command = [sys.executable, "-m", "llava_pack", "build", "demo", "--target", "here"]
    command += ["--python", "target", "--no-record", "--json"]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **offline},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "demo-bundle/MANIFEST.json").read_text())
    here = platform.libc_ver()[1].replace(".", "_")
    assert manifest["lock"]["platform"] == f"{platform.machine()}-manylinux_{here}"


@pytest.mark.engine
def test_a_server_fetches_its_wheels_and_answers(command_line, tmp_path):
    bundle, prefix, log = tmp_path / "bundle", tmp_path / "prefix", tmp_path / "trace"
    arguments = ["demo", "--python", "target", "--without-wheels", "--no-record", "--out", bundle]
    built = command_line("build", *arguments, "--json")
    assert built.returncode == 0, built.stderr
    identity = json.loads(built.stdout.splitlines()[-1])["bundle_id"]
    wheels = tmp_path / "index"
    wheels.mkdir()
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    for entry in manifest["files"]:
        if entry["origin"]["kind"] == "index":
            held = Cache().path(entry["sha256"])
            (wheels / entry["path"].rpartition("/")[2]).symlink_to(held)
    with LoopbackIndex([wheels]) as index:
        command = [*traced(log), "sh", str(ROOT / "installers/install.sh"), "--bundle", str(bundle)]
        command += ["--expect", identity, "--prefix", str(prefix), "--index", index.simple_url]
        path = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            command, env=path, cwd="/", capture_output=True, text=True, check=False, timeout=800
        )
    assert done.returncode == 0, done.stderr
    if log.exists():
        port = int(index.url.rpartition(":")[2])
        assert addresses(log, "sh") == {("127.0.0.1", port)}
    used = len({path.lstat().st_ino for path in prefix.rglob("*")})
    assert used <= manifest["floors"]["disk_inodes"] <= 1.1 * used
    program = Path(prefix, "bin/llava-pack")
    checked = subprocess.run(
        [program, "health", "--deep", "--json"], capture_output=True, text=True, check=False
    )
    findings = json.loads(checked.stdout)["findings"]
    levels = {found["layer"]: found["level"] for found in findings}
    assert (levels["integrity"], levels["environment"]) == ("ok", "ok"), findings
