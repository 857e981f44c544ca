"""Bundles made on Windows: byte for byte those of Linux, resumed, signed, verified."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from llava_pack.shipped import shipped
from tests.support.waiting import until
from tests.windows.conftest import DEMO
from tests.windows.run import PYTHONS
from tests.windows.world import windows_path

ARGUMENTS = ("--no-record", "--json")


def _build(windows, on_linux, out, *options, python="3.13"):
    done = windows.run(
        "build", windows_path(on_linux.recipe), "--locked", windows_path(on_linux.lock),
        "--out", out, *ARGUMENTS, *options, python=python,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundle(windows, on_linux):
    """Build the demo once with the newest Python."""
    _build(windows, on_linux, "bundle")
    return windows.folder / "bundle"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_same_lock_gives_the_same_bundle_on_linux_and_windows(
    windows, on_linux, python, tmp_path
):
    out = tmp_path / "bundle"
    card = _build(windows, on_linux, windows_path(out), python=python)
    assert (out / "SHA256SUMS").read_bytes() == (on_linux.bundle / "SHA256SUMS").read_bytes()
    assert card["bundle_id"]
    check = ["sha256sum", "--quiet", "--check", "SHA256SUMS"]
    assert subprocess.run(check, cwd=out, check=False).returncode == 0, "of coreutils"


def test_the_lock_itself_is_the_same(windows, on_linux, tmp_path):
    done = windows.run(
        "lock", windows_path(on_linux.recipe), "--python", "target", "--out", "here.lock.json"
    )
    assert done.returncode == 0, done.stderr
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    there = tmp_path / "there.lock.json"
    command = [
        sys.executable,
        "-m",
        "llava_pack",
        "lock",
        str(on_linux.recipe),
        "--python",
        "target",
    ]
    environ = {**kept, **windows.environ, "LLAVA_PACK_CACHE": str(tmp_path / "cache")}
    subprocess.run([*command, "--out", there], env=environ, check=True)
    assert (windows.folder / "here.lock.json").read_bytes() == there.read_bytes()


def test_a_build_that_was_killed_goes_on(windows, on_linux):
    out = windows.folder / "killed"
    started = windows.started(
        "build", windows_path(on_linux.recipe), "--locked", windows_path(on_linux.lock),
        "--out", "killed", *ARGUMENTS,
    )  # fmt: skip
    with started as process:
        assert process.stdout is not None
        assert any("stage wheels" in line for line in process.stdout)
        until(
            lambda: [
                path for path in windows.folder.glob("killed*/.journal") if path.stat().st_size
            ]
        )
        process.kill()
    assert not out.exists(), "it was killed before its end"
    _build(windows, on_linux, "killed")
    assert (out / "SHA256SUMS").read_bytes() == (on_linux.bundle / "SHA256SUMS").read_bytes()


def test_an_earlier_bundle_is_replaced(windows, on_linux, bundle):
    (bundle / "START-HERE.txt").write_text("changed")
    _build(windows, on_linux, "bundle")
    assert windows.run("verify", "bundle").returncode == 0
    assert [path.name for path in windows.folder.glob("bundle*")] == ["bundle"]


def test_a_read_only_folder_is_a_source_like_any_other(windows, on_linux, tmp_path):
    """The attribute of Windows keeps a file from being removed under any of its names."""
    models = tmp_path / "demo-model"
    shutil.copytree(on_linux.recipe.parent, tmp_path, dirs_exist_ok=True)
    for name in ("llava-v1-demo", "clip-demo"):
        shutil.copytree(DEMO / name, models / name)
        for path in (models / name).iterdir():
            path.chmod(0o444)
    recipe = tmp_path / "own.toml"
    recipe.write_bytes((shipped("bundles") / "demo.toml").read_bytes())
    for _ in range(2):
        done = windows.run(
            "build", windows_path(recipe), "--python", "target", "--no-record", "--out", "own"
        )
        assert done.returncode == 0, done.stderr
    assert windows.run("verify", "own").returncode == 0


def test_a_bundle_is_signed_and_its_signature_checked(windows, on_linux, bundle, tmp_path):
    assert windows.run("keygen", "release.key", "--no-passphrase").returncode == 0
    card = _build(windows, on_linux, "signed", "--sign", "release.key")
    good = windows.run("verify", "signed", "--trust-key", "release.pub.pem", "--json")
    assert good.returncode == 0, good.stderr
    tools = json.loads(good.stdout)["trust"]["tools"]
    assert sorted(tool.rpartition("\\")[2].lower() for tool in tools) == [
        "openssl.exe",
        "ssh-keygen.exe",
    ]
    assert windows.run("verify", "signed", "--trust-key", card["key"]).returncode == 0
    assert windows.run("keygen", "other.key", "--no-passphrase").returncode == 0
    bad = windows.run("verify", "signed", "--trust-key", "other.pub.pem")
    assert bad.returncode == 5, bad.stderr


def test_a_key_with_a_passphrase_signs_too(windows, tmp_path):
    (windows.folder / "secret.txt").write_text("correct horse battery staple\r\n")
    made = windows.run("keygen", "kept.key", "--passphrase-file", "secret.txt")
    assert made.returncode == 0, made.stderr
    assert "readable by other accounts" not in made.stderr, "modes say nothing on Windows"
    assert b"ENCRYPTED" in (windows.folder / "kept.key").read_bytes()
    again = windows.run("keygen", "kept.key", "--no-passphrase")
    assert again.returncode == 2, "a key is never overwritten"


def test_a_changed_byte_is_found(windows, bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    with (copy / "install.sh").open("ab") as stream:
        stream.write(b"\n")
    done = windows.run("verify", windows_path(copy))
    assert done.returncode == 4
    assert "install.sh" in done.stderr


def test_inspect_reads_a_bundle_and_a_checkpoint(windows, bundle):
    told = json.loads(windows.run("inspect", "bundle", "--json").stdout)
    assert told["kind"] == "bundle"
    model = next((bundle / "model").glob("llava*"))
    assert windows.run("inspect", windows_path(model)).returncode == 0


def test_plan_says_what_would_be_built(windows, on_linux):
    done = windows.run("plan", windows_path(on_linux.recipe), "--python", "target", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["recipe"] == "demo"
    assert plan["bundle_bytes"] > 0


def test_the_card_can_be_pasted_into_cmd(windows, on_linux):
    out = r"my bundles\demo"
    done = windows.run(
        "build", windows_path(on_linux.recipe), "--locked", windows_path(on_linux.lock),
        "--no-record", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert rf'llava-pack send "{out}" USER@SERVER -p PORT' in lines
    assert rf'scp -P PORT -r "{out}" USER@SERVER:demo' in lines
    assert rf'robocopy "{out}" E:\demo /MIR /IS /IT /R:3 /W:5' in lines
    assert any(line.startswith("B=~/demo; ") for line in lines), "the server's lines are for sh"
