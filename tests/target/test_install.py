"""install.sh and the installer as a black box: what is there when they have ended."""

import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest

from llava_pack.format.progress import Silent
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.format.text import human_bytes
from llava_pack.installation.installed import installed as the_installed
from llava_pack.installation.plans import plan_of
from llava_pack.serve.supervision.plans import LoadOptions
from llava_pack.target.next_step import next_step
from tests.support.bundle import SMOKE_PASSES, SMOKE_WRONG
from tests.support.namespaces import unshared

CONFIG = "model/tiny-llava/config.json"
WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
SYSTEMD = Path("/run/systemd/system").is_dir()
SERVE = ["serve", "--as-root"] if os.geteuid() == 0 else ["serve"]
SHELLS = ["dash", "bash --posix", "busybox ash"]


def last_line(done):
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_bundle_is_installed_and_the_last_line_runs(host, medium, shell):
    done = host.install_sh(medium(), body=shell)
    assert done.returncode == 0, done.stderr
    assert last_line(done) == next_step(host.prefix).command
    if SYSTEMD and os.geteuid() == 0:
        return  # it would make an account
    said = subprocess.run(["sh", "-c", last_line(done)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(host.prefix), *SERVE]
    assert sorted(path.name for path in host.prefix.iterdir()) == [
        "bin",
        "lock",
        "models",
        "place",
        "store",
    ]


def test_the_config_names_the_tower_where_it_landed(host, medium):
    host.install_sh(medium())
    generation = host.prefix / "models/tiny/generations/1"
    config = json.loads((generation / CONFIG).read_text())
    assert config["mm_vision_tower"] == str(generation / "model/tower")
    assert list(config) == ["model_type", "mm_vision_tower", "hidden_size"]


def test_weights_are_links_into_the_store_that_nobody_writes(host, medium):
    host.install_sh(medium())
    generation = host.prefix / "models/tiny/generations/1"
    placed = (generation / WEIGHTS).stat()
    assert placed.st_nlink == 2
    assert stat.S_IMODE(placed.st_mode) == 0o444
    assert (generation / CONFIG).stat().st_nlink == 1
    assert not (generation / ".build").exists()
    objects = [path for path in (host.prefix / "store").rglob("*") if path.is_file()]
    sums = [line.split()[0] for line in (generation / "SHA256SUMS").read_text().splitlines()]
    for path in objects:
        said = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
        assert said.stdout.split()[0] == path.name
        assert path.name in sums


def test_the_receipt_says_what_was_checked(host, medium):
    answer = '{"name": "seen", "text": "red", "reference": "build"}'
    tiny = medium(smoke=SMOKE_PASSES.replace('"answers": []', f'"answers": [{answer}]'))
    host.install_sh(tiny)
    receipt = json.loads((host.prefix / "models/tiny/current/receipt.json").read_text())
    assert receipt["bundle_id"] == tiny.id
    assert receipt["verified"] == {"by": "--expect", "signature": "unsigned"}
    assert receipt["smoke"]["ok"] is True
    assert receipt["hashed_with"].startswith("hashlib of Python 3.")
    assert sum(receipt["placed"].values()) == receipt["size_bytes"]
    assert {fact["level"] for fact in receipt["preflight"]} == {"ok"}
    assert receipt["silence"]["installer"] == receipt["silence"]["smoke test"] == "fenced"
    assert list(receipt["step_ms"]) == sorted(["place", "python", "venv", "model", "smoke"])
    seal = json.loads((host.prefix / "models/tiny/current/seal.json").read_text())
    assert set(seal) >= {WEIGHTS, CONFIG, MANIFEST_NAME}
    page = (host.prefix / "models/tiny/current/receipt.txt").read_text()
    asked = "✓ known answer seen, against what build recorded: 'red'"
    for text in (tiny.id, "by            --expect", "✓ arch:", "fenced", WEIGHTS, asked):
        assert text in page


def test_the_first_32_digits_are_enough_and_json_ends_it(host, medium):
    tiny = medium()
    short = type(tiny)(tiny.root, tiny.id[:32].upper())
    done = host.install_sh(short, "--json")
    body = json.loads(done.stdout)
    assert body["bundle_id"] == tiny.id
    assert body["next"] == next_step(host.prefix).command
    assert body["unchanged"] is False


def test_installing_again_changes_nothing(host, medium):
    tiny = medium()
    host.install_sh(tiny)
    before = (host.prefix / "models/tiny/current/receipt.json").stat().st_ino
    began_s = time.monotonic()
    done = host.install_sh(tiny, "--json")
    assert time.monotonic() - began_s < 60, "a fraction of a second, on a machine that is free"
    assert json.loads(done.stdout)["unchanged"] is True
    assert (host.prefix / "models/tiny/current/receipt.json").stat().st_ino == before
    assert host.current() == 1


def test_a_generation_that_was_tampered_with_is_installed_anew(host, medium):
    tiny = medium()
    host.install_sh(tiny)
    weights = host.prefix / "models/tiny/generations/1" / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(b"something else, in the store too")
    assert host.install_sh(tiny).returncode == 0
    assert host.current() == 2
    again = host.prefix / "models/tiny/generations/2" / WEIGHTS
    assert again.read_bytes() == (tiny.root / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", ["a space", "modèle 漢", 'quote\'d "$HOME"'])
def test_any_prefix_will_do(host, medium, name):
    host.prefix = host.prefix / name
    done = host.install_sh(medium())
    assert done.returncode == 0, done.stderr
    if SYSTEMD and os.geteuid() == 0:
        return
    run = ["sh", "-c", last_line(done)]
    said = subprocess.run(run, capture_output=True, text=True, check=True, env={"HOME": "/x"})
    assert said.stdout == f"{host.prefix} {' '.join(SERVE)}\n"


def test_a_relative_prefix_is_taken_from_where_one_stands(host, medium, tmp_path):
    host.prefix = "here/below"
    done = host.install_sh(medium(), cwd=tmp_path)
    assert last_line(done) == next_step(tmp_path / "here/below").command


def test_a_bundle_with_its_own_python_and_the_real_uv(host, medium):
    done = host.install_sh(medium(standalone=True, real_uv=True))
    assert done.returncode == 0, done.stderr
    generation = host.prefix / "models/tiny/generations/1"
    assert (generation / "python/bin/python3").is_file()
    assert host.run("hello") == f"{host.prefix} hello"


def test_a_dry_run_writes_nothing(host, medium, cli):
    tiny = medium()
    done = host.install_sh(tiny, "--dry-run")
    assert (done.returncode, done.stdout) == (0, "nothing was written\n")
    assert not host.prefix.exists()
    ended = cli("install", tiny.root, "--expect", tiny.id, "--prefix", host.prefix, "--dry-run")
    assert ended.code == 0
    assert not host.prefix.exists()
    copied = sum(path.stat().st_size for path in tiny.root.rglob("*") if path.is_file())
    found = json.loads(host.install_sh(tiny, "--dry-run", "--json").stdout)
    assert 0 < found["copy_bytes"] < copied
    assert f"would copy {human_bytes(found['copy_bytes'])} (or clone it" in done.stderr
    disk = next(one for one in found["findings"] if one["name"] == "disk")
    assert re.fullmatch(r"\d+ bytes", disk["value"])
    assert re.search(r"✓ disk: [0-9.]+ GB \(need at least [0-9.]+ [kM]B\)", done.stderr)


def test_settings_and_files_of_the_place_change_nothing(host, medium, tmp_path):
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json.py", "llava_pack.target.py", "sitecustomize.py", "usercustomize.py"):
        (here / name).write_text(trap)
    for name in ("uv.toml", "pyproject.toml", "pylock.toml"):
        (here / name).write_text("not = [toml")
    env = {
        "PYTHONPATH": str(here),
        "PYTHONHOME": "/nonexistent",
        "PYTHONSTARTUP": str(here / "json.py"),
        "UV_CONFIG_FILE": str(here / "uv.toml"),
        "UV_INDEX_URL": "http://localhost:1/simple",
        "UV_NO_CACHE": "1",
        "PIP_INDEX_URL": "http://localhost:1/simple",
        "LD_LIBRARY_PATH": str(here),
        "OPENSSL_CONF": str(here / "uv.toml"),
        "TAR_OPTIONS": "--nonsense",
        "CDPATH": str(here),
        "ENV": str(here / "json.py"),
        "XDG_CONFIG_HOME": str(here),
    }
    done = host.install_sh(medium(standalone=True), env=env, cwd=here)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("mask", ["000", "077"])
def test_another_umask_opens_nothing_and_closes_nothing(host, medium, mask):
    done = host.install_sh(medium(), wrap=("sh", "-c", f'umask {mask}; exec "$@"', "sh"))
    assert done.returncode == 0
    paths = [host.prefix, *host.prefix.rglob("*")]
    kinds = [(path, path.lstat()) for path in paths if not path.is_symlink()]
    writable = [path for path, facts in kinds if facts.st_mode & 0o022]
    assert writable == []
    closed = [path for path, facts in kinds if not facts.st_mode & 0o004]
    assert closed == [], "another account could not serve"


def test_large_files_are_moved_off_the_medium_where_that_is_asked_for(host, medium):
    tiny = medium()
    done = host.install_sh(tiny, "--consume", "--no-downtime")
    assert done.returncode == 0, done.stderr
    assert not (tiny.root / WEIGHTS).exists()
    assert host.install_sh(tiny, "--consume").returncode == 0


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"floors": {"arch": "riscv64"}}, 3, "arch: expected riscv64"),
        ({"floors": {"glibc": "99.1"}}, 3, "glibc: expected at least 99.1"),
        ({"floors": {"cpu_flags": ("flying",)}}, 3, "without flying"),
        ({"floors": {"platform": "plan9"}}, 3, "os: expected plan9"),
        ({"floors": {"disk_bytes": 2**52}}, 7, "disk: expected at least"),
        ({"floors": {"disk_inodes": 2**52}}, 7, "inodes: expected at least"),
        ({"floors": {"memory_bytes": {"nf4": 2**52}}}, 7, "memory: expected at least"),
        ({"python": "3.99"}, 3, "3.99"),
    ],
)
@pytest.mark.parametrize("way", ["cli", "sh"])
def test_a_machine_that_cannot_run_it_is_left_as_it_was(host, medium, cli, way, fields, code, said):
    tiny = medium(**fields)
    if way == "sh":
        done = host.install_sh(tiny)
        got, text = done.returncode, done.stderr
    else:
        ended = cli("install", tiny.root, "--expect", tiny.id, "--prefix", host.prefix)
        got, text = ended.code, ended.err
    assert got == code
    assert said in text
    assert not host.prefix.exists()


def test_every_problem_of_a_machine_is_named_at_once(host, medium):
    floors = {"arch": "riscv64", "glibc": "99", "disk_bytes": 2**52}
    done = host.install_sh(medium(floors=floors))
    assert done.returncode == 3
    for name in ("arch", "glibc", "disk"):
        assert f"{name}: expected" in done.stderr


def test_a_bundle_that_is_not_whole_is_named_beside_what_the_machine_lacks(host, medium):
    broken = medium(floors={"arch": "riscv64"})
    (broken.root / WEIGHTS).unlink()
    done = host.install_sh(broken)
    assert done.returncode == 3
    assert re.search(r"✗ arch: \w+ \(need riscv64\); fix: build with --platform", done.stderr)
    assert re.search(rf"✗ files: 1 of \d+ files differ: {WEIGHTS}: missing", done.stderr)
    assert "✓ prefix: " in done.stderr
    assert not host.prefix.exists()


def test_a_python_that_does_not_run_is_passed_over(host, medium, tmp_path):
    broken = tmp_path / "shims"
    broken.mkdir()
    for name in ("python3", "python3.11", "python3.99", "python"):
        (broken / name).write_text("#!/bin/sh\nexit 127\n")
        (broken / name).chmod(0o755)
    env = {"PATH": f"{broken}:/usr/bin:/bin"}
    done = host.install_sh(medium(python="3.99"), env=env)
    assert done.returncode == 3
    assert f"{broken}/python3.99 (broken)" in done.stderr


def test_a_chosen_python_that_is_another_one_is_refused(host, medium):
    done = host.install_sh(medium(python="3.99"), "--python", "/bin/true")
    assert done.returncode == 3
    assert "/bin/true" in done.stderr


def test_a_python_that_goes_with_an_old_generation_is_refused(host, medium, cli):
    tiny = medium()
    host.install_sh(medium("old", standalone=True))
    held = host.prefix / "models/tiny/generations/1/python/bin/python3"
    arguments = [tiny.root, "--expect", tiny.id, "--prefix", host.prefix, "--python", held]
    assert cli("install", *arguments).code == 3
    assert host.current() == 1


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--bundle"], ["--bundle", "/nonexistent"]])
def test_what_is_not_understood_is_a_usage_error(host, medium, arguments):
    assert host.install_sh(medium(), *arguments).returncode == 2


def test_a_prefix_that_cannot_be_made_is_a_preflight_failure(host, medium, tmp_path, cli):
    (tmp_path / "file").write_text("")
    host.prefix = tmp_path / "file" / "below"
    tiny = medium()
    assert host.install_sh(tiny).returncode == 3
    ended = cli("install", tiny.root, "--expect", tiny.id, "--prefix", host.prefix)
    assert ended.code == 3


@pytest.mark.namespace
@pytest.mark.skipif(not unshared("-rn"), reason="no network namespaces here")
def test_it_works_where_there_is_no_network_at_all(host, medium):
    done = host.install_sh(medium(real_uv=True), wrap=("unshare", "-rn"))
    assert done.returncode == 0, done.stderr
    assert host.run("x") == f"{host.prefix} x"


@pytest.mark.namespace
@pytest.mark.skipif(not unshared("-rm"), reason="no mount namespaces here")
def test_a_tmp_without_programs_and_a_home_that_is_read_only_do_not_matter(host, medium, tmp_path):
    home, tmp = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    tmp.mkdir()
    mount = f"mount -t tmpfs -o noexec none {tmp} && mount -t tmpfs -o ro none {home}"
    env = {"HOME": str(home), "TMPDIR": str(tmp)}
    wrap = ("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh")
    done = host.install_sh(medium(standalone=True), env=env, wrap=wrap)
    assert done.returncode == 0, done.stderr
    assert host.run("x") == f"{host.prefix} x"


@pytest.mark.namespace
@pytest.mark.skipif(not unshared("-rm"), reason="no mount namespaces here")
@pytest.mark.parametrize("size", ["16k", "200k", "400k"])
def test_a_disk_that_fills_up_is_a_space_failure(host, medium, tmp_path, size):
    small = tmp_path / "small"
    small.mkdir()
    host.prefix = small / "prefix"
    mount = f'mount -t tmpfs -o size={size} none {small} && exec "$@"'
    tiny = medium(floors={"disk_bytes": 1}, weights=os.urandom(300_000))
    done = host.install_sh(tiny, wrap=("unshare", "-rm", "sh", "-c", mount, "sh"))
    assert done.returncode == 7, done.stderr
    assert "space" in done.stderr


@pytest.mark.parametrize("way", ["install.sh", "install"])
def test_a_known_answer_that_is_wrong_for_the_model_is_accepted_by_name(host, medium, cli, way):
    bundle = medium(smoke=SMOKE_WRONG)

    def enter(*options):
        if way == "install.sh":
            done = host.install_sh(bundle, *options)
            return done.returncode, done.stderr
        ended = cli(
            "install", bundle.root, "--prefix", host.prefix, "--expect", bundle.id, *options
        )
        return ended.code, ended.err

    code, said = enter()
    assert code == 14
    assert "the known answer was not given: square: expected 'red', got 'a dog'" in said
    assert (
        "hint: if that is right for this model: the same command with --accept-answer square"
        in said
    )
    code, said = enter("--accept-answer", "circle")
    assert code == 2
    assert "no such known answer, expected one of square" in said
    assert host.current() is None
    code, said = enter("--accept-answer", "square")
    assert code == 0, said
    folder = host.prefix / "models/tiny/current"
    [answer] = json.loads((folder / "receipt.json").read_text())["smoke"]["answers"]
    assert (answer["ok"], answer["accepted"]) == (False, True)
    assert "! wrong and accepted: known answer square" in (folder / "receipt.txt").read_text()
    item = the_installed(host.prefix)
    assert item.accepted_answers == {"square"}
    assert item.right_answers == ()
    assert plan_of(item, LoadOptions(), Silent()).known_answers == ()


@pytest.mark.parametrize("told", ["right", "nothing"])
def test_an_answer_that_is_accepted_later_is_installed_anew_unless_it_is_right(host, medium, told):
    """Engines of others are asked when they serve: their installation has told nothing of it."""
    right = '"answers": [{"name": "square", "ok": True, "text": "red"}]'
    asked = (
        '"answers": [{"name": one, "ok": False, "accepted": True} for one in options.accept_answer]'
    )
    smoke = SMOKE_PASSES.replace('"answers": []', right if told == "right" else asked)
    bundle = medium(smoke=smoke)
    assert host.install_sh(bundle).returncode == 0
    for generation in (1 if told == "right" else 2,) * 2:  # and the third time nothing is done
        done = host.install_sh(bundle, "--accept-answer", "square")
        assert done.returncode == 0, done.stderr
        assert f"generation {generation}" in done.stderr
    if told == "nothing":
        page = (host.prefix / "models/tiny/current/receipt.txt").read_text()
        assert "! accepted without being asked: known answer square" in page


def test_an_answer_that_is_computed_otherwise_is_offered_to_nobody(host, medium):
    computed = SMOKE_WRONG.replace('"ok": False,', '"ok": False, "stage": "projector",')
    done = host.install_sh(medium(smoke=computed))
    assert done.returncode == 14
    assert "the known answer was not given: square" in done.stderr
    assert "hint: the computation differs from the recorded one" in done.stderr
    assert "--accept-answer" not in done.stderr


def test_a_bundle_of_before_answers_could_be_accepted_says_so(host, medium):
    option = 'parser.add_argument("--accept-answer", action="append", default=[])\n'
    old = SMOKE_PASSES.replace(option, "")
    assert old != SMOKE_PASSES
    done = host.install_sh(medium(smoke=old), "--accept-answer", "square")
    assert done.returncode == 14
    assert "--accept-answer: the bundle is too old for it" in done.stderr
    assert "unrecognized" not in done.stderr


@pytest.mark.parametrize("name", ["", "-x", "a b", "$(id)", "*"])
def test_the_name_of_an_accepted_answer_is_a_name(host, medium, name):
    done = host.install_sh(medium(), "--accept-answer", name)
    assert done.returncode == 2
    assert "needs the name of a known answer" in done.stderr
