"""A bundle on several media, or a part of one: `carry` on the laptop, `install.sh --collect` here."""

import errno
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from llava_pack.cli import main
from llava_pack.crossing.digest_list import parse_digest_list
from llava_pack.crossing.parity import par2_program
from llava_pack.format.digest_list import short_form
from llava_pack.format.errors import IntegrityError, SignatureError, SpaceError
from llava_pack.format.part import PART_NAME, MediumPart, parse_part, render_part
from llava_pack.format.progress import Silent
from llava_pack.format.sums import parse_sums
from llava_pack.target import installer
from llava_pack.target.collect import typed_folder
from llava_pack.target.inventory import read_listing
from tests.support.bundle import BASE_PYTHON, CHECKOUT, WHEEL, BundleSimulator, change
from tests.target.conftest import Medium

CHUNK = 65_536
WEIGHTS = random.Random(1).randbytes(8_000_000)
SHARD = "model/tiny-llava/model-00001-of-00001.safetensors"
MEDIUM_BYTES = 3_300_000


@pytest.fixture
def whole(tmp_path):
    root = tmp_path / "laptop/tiny"
    ids = BundleSimulator(weights=WEIGHTS, chunk_bytes=CHUNK, standalone=True).write(root)
    return Medium(root, ids)


def carry(whole, to, *options):
    assert main(["carry", str(whole.root), "--to", str(to), *map(str, options)]) == 0
    return sorted(path for path in to.iterdir() if path.is_dir())


def store(host):
    return {path.name for path in (host.prefix / "store/sha256").rglob("*") if path.is_file()}


def error(done):
    return json.loads(done.stdout.splitlines()[-1])


def test_three_media_in_any_order_complete_an_installation(whole, host, tmp_path):
    media = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    assert len(media) >= 3
    expected = len(media)
    for number, folder in enumerate(reversed(media), start=1):
        done = host.install_sh(Medium(folder, whole.id), "--collect", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        if number < expected:
            assert told["complete"] is False
            assert "still missing: medium 1 of" in done.stderr
            assert host.current() is None
            assert "need:" not in done.stderr
            assert parse_digest_list((host.prefix / "need.json").read_text()).digests
    assert told["bundle_id"] == whole.id
    assert host.current() == 1
    assert not (host.prefix / "need.json").exists()
    assert not (host.prefix / "collecting").exists()


def test_all_media_at_once(whole, host, tmp_path):
    first, *rest = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    more = [word for folder in rest for word in ("--bundle", str(folder))]
    done = host.install_sh(Medium(first, whole.id), *more)
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


def test_each_medium_can_be_verified_by_itself(whole, tmp_path, capsys):
    media = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    capsys.readouterr()
    for folder in media:
        assert main(["verify", str(folder), "--expect", whole.id, "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["medium"] == int(folder.name.split("-")[-1].split("of")[0])
        assert told["absent"]
    spoiled = next(path for path in folder.rglob("*.piece-*"))
    change(spoiled, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert main(["verify", str(folder), "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    (defect,) = told["defects"]
    assert defect["path"] == spoiled.relative_to(folder).as_posix()
    spoiled.unlink()
    assert main(["verify", str(folder), "--json"]) == 4
    (defect,) = json.loads(capsys.readouterr().out)["defects"]
    assert defect["problem"] == "missing"


def test_an_update_carries_what_changed(whole, host, tmp_path, capsys):
    assert host.install_sh(whole).returncode == 0
    newer = Medium(
        tmp_path / "laptop/newer",
        BundleSimulator(
            weights=WEIGHTS, chunk_bytes=CHUNK, standalone=True, release=1_800_000_000
        ).write(tmp_path / "laptop/newer"),
    )
    have = tmp_path / "have.txt"
    assert main(["have", "--short", "--prefix", str(host.prefix)]) == 0
    have.write_text(capsys.readouterr().out)
    assert len(have.read_text()) < 2000
    assert (
        main(
            ["carry", str(newer.root), "--to", str(tmp_path / "usb"), "--have", str(have), "--json"]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (medium,) = told["media"]
    folder = Path(medium["folder"])
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    listed = {"SHA256SUMS", "MANIFEST.json", "START-HERE.txt", PART_NAME}
    archives = {name for name in names if name.startswith("runtime/")}  # with the time in them
    assert names - archives == {*listed, WHEEL, "lock/pylock.toml"}
    prefix = ["--prefix", str(host.prefix)]
    assert main(["verify", str(folder), "--have", str(host.prefix)]) == 0
    assert main(["install", str(folder), "--expect", newer.id, *prefix]) == 0
    assert host.current() == 2


def test_the_script_says_what_is_here_with_nothing_installed(whole, host, tmp_path):
    change(whole.root / SHARD, lambda data: data[:-1] + b"!")
    script = CHECKOUT / "installers/install.sh"
    command = ["sh", str(script), "--have", "--prefix", str(host.prefix)]
    none = subprocess.run(command, capture_output=True, text=True, check=True)
    assert none.stdout == ""
    full = subprocess.run(
        [*command, "--bundle", str(whole.root)], capture_output=True, text=True, check=True
    )
    good = {line.split()[0] for line in (whole.root / "SHA256SUMS").read_text().splitlines()}
    found = parse_digest_list(full.stdout)
    assert len(good - found.digests) == 1
    for shell in ("dash", "bash", "busybox ash"):
        short = subprocess.run(
            [*shell.split(), *command[1:], "--short", "--bundle", str(whole.root)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert all(digest in parse_digest_list(short.stdout) for digest in found.digests)
    assert not host.prefix.exists()


def test_a_flipped_byte_costs_one_chunk(whole, host, tmp_path, capsys):
    bad = tmp_path / "media/tiny"
    shutil.copytree(whole.root, bad)
    change(bad / SHARD, lambda data: data[:70_000] + b"\0\0" + data[70_002:])
    done = host.install_sh(Medium(bad, whole.id), "--collect", "--json")
    assert done.returncode == 4
    assert SHARD in done.stderr
    need = json.loads((host.prefix / "need.json").read_text())
    assert need["pieces"] == [{"path": SHARD, "offset": CHUNK, "size_bytes": CHUNK}]
    assert need["files"] == []
    assert main(["carry", str(whole.root), "--to", str(tmp_path / "usb"), "--need",
                 str(host.prefix / "need.json")]) == 0  # fmt: skip
    (folder,) = (tmp_path / "usb").iterdir()
    assert (folder / f"{SHARD}.piece-{CHUNK}").stat().st_size == CHUNK
    assert (folder / "install.sh").exists()
    done = host.install_sh(Medium(folder, whole.id), "--collect")
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


def test_a_file_that_is_bad_on_one_medium_is_taken_from_another(whole, host, tmp_path):
    copies = [tmp_path / f"media-{number}" for number in (1, 2)]
    for folder, name in zip(copies, (SHARD, WHEEL), strict=True):
        shutil.copytree(whole.root, folder)
        change(folder / name, lambda data: data[:-1] + b"!")
    one, two = copies
    done = host.install_sh(Medium(one, whole.id), "--bundle", str(two))
    assert done.returncode == 0, done.stderr


def test_a_medium_of_another_bundle_is_refused(whole, host, tmp_path):
    other = tmp_path / "media/other"
    BundleSimulator(release=1_800_000_000).write(other)
    done = host.install_sh(Medium(other, whole.id), "--bundle", str(whole.root))
    assert done.returncode == 5
    done = host.install_sh(whole, "--bundle", str(other))
    assert done.returncode == 5
    assert "expected a medium of bundle" in done.stderr
    assert not store(host)


def test_what_operating_systems_leave_is_counted_and_ignored(whole, host, capsys):
    for name in (".DS_Store", "._install.sh", "model/Thumbs.db", "wheels/desktop.ini"):
        (whole.root / name).write_bytes(b"litter")
    for name in ("System Volume Information", "$RECYCLE.BIN", "lost+found", ".Trashes"):
        (whole.root / name).mkdir()
        (whole.root / name / "inside").write_bytes(b"never read")
    assert main(["verify", str(whole.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["litter"] == 8
    done = host.install_sh(whole)
    assert done.returncode == 0, done.stderr
    assert "8 files of operating systems are ignored" in done.stderr


def test_a_stranger_is_still_refused(whole, host):
    (whole.root / "DS_Store").write_bytes(b"not litter")
    assert host.install_sh(whole, "--collect").returncode == 4
    assert not store(host)


def test_killed_while_it_collects(whole, host, tmp_path):
    first, *rest = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    script = CHECKOUT / "installers/install.sh"
    for delay_s in (0.05, 0.2, 0.4, 0.6):
        command = ["sh", str(script), "--collect", "--bundle", str(first), "--expect", whole.id]
        command += ["--prefix", str(host.prefix)]
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        process = subprocess.Popen(command, env=env, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(delay_s)
        os.killpg(process.pid, 9)
        process.wait()
    for folder in (first, *rest):
        done = host.install_sh(Medium(folder, whole.id), "--collect")
        assert done.returncode == 0, done.stderr
    assert host.current() == 1


def test_gc_keeps_what_was_collected_and_uninstall_does_not(whole, host, tmp_path, medium):
    assert host.install_sh(medium("old", recipe="old")).returncode == 0
    first, *_ = carry(whole, tmp_path / "carried", "--media", MEDIUM_BYTES)
    options = ("--collect", "--recipe", "tiny")
    assert host.install_sh(Medium(first, whole.id), *options).returncode == 0
    before = store(host)
    assert main(["gc", "--prefix", str(host.prefix)]) == 0
    assert store(host) == before
    assert main(["uninstall", "--prefix", str(host.prefix)]) == 0
    assert not host.prefix.exists()


def test_recovery_volumes_mend_a_medium_while_it_is_collected(host, tmp_path):
    root = tmp_path / "laptop/tiny"
    par2 = {"runtime/par2": par2_program().read_bytes()}
    simulator = BundleSimulator(weights=WEIGHTS, chunk_bytes=CHUNK, standalone=True, extra=par2)
    whole = Medium(root, simulator.write(root))
    size = 2 * MEDIUM_BYTES
    first, *rest = carry(whole, tmp_path / "media", "--media", size, "--parity", "10%")
    for folder in (first, *rest):
        assert main(["verify", str(folder)]) == 0
    piece = next(path for folder in rest for path in folder.rglob("*.piece-*"))
    change(piece, lambda data: data[:70_000] + b"\0\0" + data[70_002:])
    change(first / WHEEL, lambda data: data[:99] + b"\0" + data[100:])
    for folder in (first, *rest):
        done = host.install_sh(Medium(folder, whole.id), "--collect")
        assert done.returncode == 0, done.stderr
    assert host.current() == 1
    assert main(["repair", str(first), "--expect", whole.id]) == 0
    assert main(["verify", str(first)]) == 0
    folder = next(folder for folder in rest if piece.is_relative_to(folder))
    assert main(["repair", str(folder), "--expect", whole.id]) == 0
    assert main(["verify", str(folder)]) == 0


LONG = "model/tiny-llava/nvidia_cublas_cu12-12.8.4.1-py3-none-manylinux_2_27.manylinux2014_x86_64"


@pytest.fixture
def cut(tmp_path):
    """Give a medium with recovery data and a name that was cut as on a CD, its list being whole."""
    par2 = {
        "runtime/par2": par2_program().read_bytes(),
        LONG: random.Random(2).randbytes(1_500_000),
    }
    root = tmp_path / "laptop/tiny"
    simulator = BundleSimulator(weights=WEIGHTS, chunk_bytes=CHUNK, standalone=True, extra=par2)
    whole = Medium(root, simulator.write(root))
    (folder,) = carry(whole, tmp_path / "media", "--parity", "5%")
    short = folder / LONG[: len("model/tiny-llava/") + 64]
    (folder / LONG).rename(short)
    return Medium(folder, whole.id), short


def flip(path, at=70_000):
    change(path, lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("bad", ["another file", "that file"])
def test_recovery_volumes_and_a_name_that_was_cut(cut, host, bad):
    medium, short = cut
    flip(medium.root / SHARD if bad == "another file" else short)
    done = host.install_sh(medium, "--collect")
    assert done.returncode == 0, done.stderr
    assert "need:" not in done.stderr
    assert host.current() == 1


@pytest.mark.parametrize("bad", ["another file", "that file"])
def test_a_name_that_was_cut_is_repaired_under_that_name(cut, bad):
    medium, short = cut
    flip(medium.root / SHARD if bad == "another file" else short)
    before = sorted(medium.root.rglob("*"))
    assert main(["repair", str(medium.root), "--expect", medium.id]) == 0
    assert main(["verify", str(medium.root)]) == 0
    assert sorted(medium.root.rglob("*")) == before


def test_a_bad_piece_is_asked_for_by_its_bad_chunk_alone(host, whole, tmp_path, capsys):
    media = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    folder, piece = next((one, path) for one in media for path in one.rglob("*.piece-*"))
    change(piece, lambda data: bytes([data[0] ^ 1]) + data[1:])
    capsys.readouterr()
    assert main(["repair", str(folder), "--expect", whole.id]) == 4
    said = capsys.readouterr().err
    assert len(parse_digest_list(said).digests) == 1
    need = tmp_path / "need"
    need.write_text(said)
    assert main(["carry", str(whole.root), "--to", str(tmp_path), "--need", str(need)]) == 0
    (brought,) = tmp_path.glob("*-repair")
    for one in (*media, brought):
        host.install_sh(Medium(one, whole.id), "--collect")
    assert host.current() == 1


def test_one_medium_is_not_carried_as_the_bundle(whole, tmp_path, capsys):
    *_, last = media = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    assert main(["carry", str(last), "--to", str(tmp_path / "more")]) == 2
    said = capsys.readouterr().err
    assert f"medium {len(media)} of {len(media)} of a bundle" in said
    assert "build the bundle again" not in said


def test_what_another_bundle_needs_is_refused_with_both_ids(whole, tmp_path, capsys):
    root = tmp_path / "laptop/other"
    other = BundleSimulator(weights=WEIGHTS[::-1], standalone=True).write(root)
    sums = parse_sums((root / "SHA256SUMS").read_bytes())
    need = tmp_path / "need.json"
    facts = {"kind": "need", "bundle_id": other, "digests": sorted(sums.values())}
    need.write_text(json.dumps(facts))
    ask = ["--to", str(tmp_path / "more"), "--need", str(need)]
    assert main(["carry", str(root), *ask]) == 0
    capsys.readouterr()
    assert main(["carry", str(whole.root), *ask]) == 2
    said = capsys.readouterr().err
    assert other in said
    assert whole.id in said


def test_recovery_volumes_are_made_once(whole, tmp_path, capsys):
    (folder, *_) = carry(whole, tmp_path / "media", "--parity", "5")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "parity").iterdir()}
    assert before
    carry(whole, tmp_path / "media", "--parity", "5")
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "parity").iterdir()} == before
    carry(whole, tmp_path / "media", "--parity", "20%")
    assert {path.name for path in (folder / "parity").iterdir()} != before.keys()
    carry(whole, tmp_path / "media")
    assert not (folder / "parity").exists()
    assert main(["verify", str(folder)]) == 0


def test_a_bad_piece_is_named_and_is_a_failure(whole, host, tmp_path):
    first, *rest = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    piece = next(path for folder in rest for path in folder.rglob("*.piece-*"))
    folder = next(folder for folder in rest if piece.is_relative_to(folder))
    assert host.install_sh(Medium(first, whole.id), "--collect").returncode == 0
    good = piece.read_bytes()
    for bad in (good[:10] + b"\0\0" + good[12:], good[:20_000], b""):
        piece.write_bytes(bad)
        done = host.install_sh(Medium(folder, whole.id), "--collect")
        assert done.returncode == 4
        assert piece.name in done.stderr
        assert "go on with the other media" in done.stderr
    need = json.loads((host.prefix / "need.json").read_text())
    assert [one["size_bytes"] for one in need["pieces"]] == [CHUNK]
    for other in rest:
        done = host.install_sh(Medium(other, whole.id), "--collect")
    assert done.returncode == 4
    assert "need:" in done.stderr
    piece.write_bytes(good)
    assert host.install_sh(Medium(folder, whole.id), "--collect").returncode == 0
    assert host.current() == 1


def test_what_was_taken_survives_a_kill_and_gc(whole, host, tmp_path, medium, monkeypatch):
    assert host.install_sh(medium("old", recipe="old")).returncode == 0
    first, second, *_ = carry(whole, tmp_path / "carried", "--media", MEDIUM_BYTES)
    request = installer.InstallRequest(
        bundle=second, expect=whole.id, prefix=host.prefix, collect=True
    )

    def fail(*_arguments, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("llava_pack.target.need.keep", fail)
        with pytest.raises(SpaceError):
            installer.install(request, Silent())
    partial = list((host.prefix / "store/partial").iterdir())
    assert partial
    assert main(["gc", "--prefix", str(host.prefix)]) == 0
    assert list((host.prefix / "store/partial").iterdir()) == partial
    assert host.install_sh(Medium(first, whole.id), "--collect").returncode == 0


def test_a_list_that_nobody_can_read_stops_no_installation(whole, host, capsys):
    (host.prefix / "collecting").mkdir(parents=True)
    (host.prefix / "collecting/x.json").write_text('{"format": 3}')
    assert host.install_sh(whole).returncode == 0
    assert main(["gc", "--prefix", str(host.prefix)]) == 4
    assert "gives up what was collected" in capsys.readouterr().err


def test_a_newer_bundle_ends_the_collection_of_an_older_one(whole, host, tmp_path):
    first, *_ = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    assert host.install_sh(Medium(first, whole.id), "--collect").returncode == 0
    newer = tmp_path / "newer"
    identity = BundleSimulator(release=1_800_000_000, standalone=True).write(newer)
    assert host.install_sh(Medium(newer, identity)).returncode == 0
    assert not (host.prefix / "collecting").exists()
    assert not (host.prefix / "need.json").exists()


def test_a_collection_that_is_given_up_leaves_nothing(whole, host, tmp_path):
    first, *_ = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    assert host.install_sh(Medium(first, whole.id), "--collect").returncode == 0
    assert main(["uninstall", "--prefix", str(host.prefix)]) == 0
    assert not host.prefix.exists()


def test_a_medium_is_tried_without_writing(whole, host, tmp_path):
    for folder in carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES):
        done = host.install_sh(Medium(folder, whole.id), "--collect", "--dry-run")
        if (folder / "installer").exists():
            assert done.returncode == 0, done.stderr
    assert not host.prefix.exists()


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox ash"])
def test_to_say_what_is_here_installs_nothing(whole, host, shell):
    os.mkfifo(whole.root / "licenses/fifo")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*shell.split(), str(CHECKOUT / "installers/install.sh"), "--have", "--bundle",
             str(whole.root), "--prefix", str(host.prefix)],
            stdout=full, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode != 0
    assert not host.prefix.exists()


def asked(*options, **more):
    """Ask the script what is here."""
    command = ["sh", str(CHECKOUT / "installers/install.sh"), "--have", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_the_script_says_what_every_folder_has(whole, host, tmp_path):
    more, less, *_ = carry(whole, tmp_path / "media a", "--media", MEDIUM_BYTES)
    prefix = ("--prefix", host.prefix)
    alone = [asked("--bundle", one, *prefix) for one in (less, more)]
    both = asked("--bundle", less, "--bundle", more, *prefix)
    assert both.returncode == 0, both.stderr
    digests = [set(one.stdout.split()) for one in (*alone, both)]
    assert digests[0] | digests[1] == digests[2]
    assert digests[0] < digests[2]


def test_the_script_says_where_nothing_is_installed(whole, host):
    done = asked("--short", "--prefix", host.prefix)
    assert (done.returncode, done.stdout) == (0, f"{short_form('have', [])}\n")
    assert done.stderr == f"nothing is installed under {host.prefix}\n"
    said = asked("--prefix", host.prefix, env={**os.environ, "LC_ALL": "zh_CN.UTF-8"}).stderr
    assert said == f"{host.prefix} 下没有安装任何内容\n"
    assert host.install_sh(whole).returncode == 0
    assert asked("--prefix", host.prefix).stderr == ""


@pytest.mark.parametrize(
    "options",
    [("--json",), ("--dry-run",), ("--collect",), ("--expect", "ab" * 32), ("--consume",)],
)
def test_what_the_script_would_ignore_beside_have_is_refused(host, options):
    done = asked("--prefix", host.prefix, *options)
    assert done.returncode == 2
    assert "--have goes with" in done.stderr


def test_a_folder_without_a_list_is_refused_by_have(host, tmp_path):
    done = asked("--prefix", host.prefix, "--bundle", tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "SHA256SUMS: missing" in done.stderr


def test_where_nothing_is_installed_it_is_said(whole, tmp_path, capsys):
    capsys.readouterr()
    nothing = str(tmp_path / "nothing")
    assert main(["have", "--prefix", nothing]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["verify", str(whole.root), "--have", nothing]) == 2
    assert "nothing is installed there" in capsys.readouterr().err
    assert main(["have", "--prefix", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert f"nothing is installed under {tmp_path}" in told.err


def test_verify_names_what_is_on_other_media(whole, host, tmp_path, capsys):
    media = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    capsys.readouterr()
    assert main(["verify", str(media[1])]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"medium 1 of {len(media)} has licenses/" in said
    assert " and 3 more medium 3 of " in said
    assert f"medium {len(media)} of {len(media)} has {SHARD}" in said
    assert f"medium 2 of {len(media)} has" not in said
    assert "on no medium" not in said


def test_verify_names_what_the_server_must_have(whole, host, tmp_path, capsys):
    have = tmp_path / "have"
    have.write_text(asked("--bundle", whole.root).stdout)
    change(have, lambda data: b"\n".join(data.split()[:4]) + b"\n")
    carried = carry(whole, tmp_path / "usb", "--have", have)
    capsys.readouterr()
    assert main(["verify", str(carried[0])]) == 0
    assert "on no medium, so the server must have them: " in capsys.readouterr().err
    (host.prefix / "store").mkdir(parents=True)
    assert main(["verify", str(carried[0]), "--have", str(host.prefix)]) == 0
    assert f"neither on a medium nor in {host.prefix}" in capsys.readouterr().err


def test_an_installation_says_what_was_stored_already(whole, host, tmp_path):
    *others, last = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    done = [host.install_sh(Medium(one, whole.id), "--collect") for one in (*others, last)]
    assert [" were here already" in one.stderr for one in done] == [False] * len(others) + [True]
    assert done[-1].stderr.index("placing files: ") < done[-1].stderr.index(" were here already")


@pytest.mark.parametrize("name", ["MANIFEST.json.piece-0", "install.sh.piece-7", "x.piece-1"])
def test_a_piece_of_what_is_never_divided_is_a_stranger(whole, host, name):
    (whole.root / name).write_bytes(b"evil")
    assert main(["verify", str(whole.root), "--expect", whole.id]) == 4
    assert host.install_sh(whole, "--collect").returncode == 4


def test_litter_without_end_hides_nothing(whole):
    for number in range(20_100):
        (whole.root / f"._{number}").touch()
    assert main(["verify", str(whole.root), "--expect", whole.id]) == 4


def test_a_part_with_a_hundred_thousand_pieces_is_read_in_seconds(whole, tmp_path):
    names = tuple(sorted(f"{SHARD}.piece-{number * CHUNK}" for number in range(60_000)))
    part = MediumPart(bundle_id=whole.id, medium=1, media=(names, ()))
    sums = {SHARD: "ab" * 32}
    began_s = time.monotonic()
    read = parse_part(render_part(part), whole.id, sums)
    assert [read.piece_end(SHARD, number * CHUNK, 0) for number in (0, 59_999)] == [CHUNK, 0]
    assert time.monotonic() - began_s < 20


def test_another_encoding_of_what_a_part_says_is_refused(whole):
    part = MediumPart(bundle_id=whole.id, medium=1, media=((SHARD,),))
    data = render_part(part)
    sums = {SHARD: "ab" * 32}
    assert parse_part(data, whole.id, sums) == part
    assert part.label == f"{whole.id[:8]} 1 of 1"
    twice = MediumPart(bundle_id=whole.id, medium=1, media=((SHARD, SHARD),))
    for bad in (data + b" ", data.replace(b'"medium":1', b'"medium":2'), data[:-2],
                data.replace(SHARD.encode(), b"model/other"), render_part(twice),
                data.replace(b'"parity":[]', b'"parity":["run.sh"]'), b"[]"):  # fmt: skip
        with pytest.raises(IntegrityError):
            parse_part(bad, whole.id, sums)
    with pytest.raises(IntegrityError):
        parse_part(data, "0" * 64, sums)


def test_a_medium_of_several_says_what_to_add(whole, host, tmp_path):
    first, *_ = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    done = host.install_sh(Medium(first, whole.id))
    assert done.returncode == 4
    assert "add --collect" in done.stderr


def test_the_folder_above_names_the_bundle_in_it(whole, host):
    done = host.install_sh(Medium(whole.root.parent, whole.id))
    assert done.returncode == 4
    assert f"did you mean {whole.root}?" in done.stderr
    assert main(["repair", str(whole.root.parent)]) == 2


def test_an_installer_that_is_bad_on_one_medium_is_taken_from_another(whole, host, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(whole.root, bad)
    change(bad / "installer/llava_pack/target/need.py", lambda data: data + b"#")
    done = host.install_sh(Medium(bad, whole.id), "--bundle", str(whole.root))
    assert done.returncode == 0, done.stderr


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def repaired(whole, said, to):
    """Carry what a server printed that it needs."""
    need = to.with_suffix(".need")
    need.write_text(said[said.index("need:") :].split("error:")[0])
    (folder,) = carry(whole, to, "--need", need)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["installer/llava_pack/target/need.py"],
        ["installer/llava_pack/target/__init__.py", "runtime/python-version.txt"],
        ["runtime/cpython-3.11.0-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"],
    ],
)
@pytest.mark.parametrize("kind", ["flipped", "missing"])
def test_a_bad_installer_is_asked_for_and_its_repair_starts_by_itself(
    whole, host, tmp_path, names, kind
):
    bad = tmp_path / "bad"
    shutil.copytree(whole.root, bad)
    sums = parse_sums((whole.root / "SHA256SUMS").read_bytes())
    archive = next(name for name in sums if name.startswith("runtime/cpython-"))
    names = [archive if name.startswith("runtime/cpython-") else name for name in names]
    for name in names:
        if kind == "missing":
            (bad / name).unlink()
        else:
            change(bad / name, flipped)
    done = host.install_sh(Medium(bad, whole.id), "--collect", "--json")
    assert done.returncode == 4
    assert error(done)["message"] == f"changed or missing: {' '.join(sorted(names))} "
    asked = parse_digest_list(done.stderr.split("error:")[0])
    assert {path for path, digest in sums.items() if digest in asked} >= {*names}
    assert len(asked.digests) == len(names)
    repair = repaired(whole, done.stderr, tmp_path / "usb")
    done = host.install_sh(Medium(repair, whole.id), "--collect")
    assert done.returncode == 4, done.stderr  # nobody said that more would come
    assert "go on with the other media" in done.stderr
    done = host.install_sh(Medium(bad, whole.id), "--collect")
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox ash"])
def test_what_an_installer_lacks_is_asked_for_in_the_words_of_have(whole, host, shell):
    names = sorted(path for path in (whole.root / "installer").rglob("*.py"))[:20]
    for path in names:
        change(path, lambda data: data + b"#")
    done = host.install_sh(whole, body=shell)
    assert done.returncode == 4
    digests = parse_sums((whole.root / "SHA256SUMS").read_bytes())
    wanted = {digests[path.relative_to(whole.root).as_posix()] for path in names}
    assert done.stderr.startswith(short_form("need", wanted) + "\n")


def test_a_manifest_that_is_bad_is_taken_from_another_medium_or_asked_for(whole, host, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(whole.root, bad)
    change(bad / "MANIFEST.json", flipped)
    request = ("--dry-run", "--bundle", str(whole.root))
    assert host.install_sh(Medium(bad, whole.id), *request).returncode == 0
    done = host.install_sh(Medium(bad, whole.id), "--collect")
    assert done.returncode == 4
    assert "MANIFEST.json: changed" in done.stderr
    said = done.stderr[done.stderr.index("need:") :].split()[0]
    repair = repaired(whole, said, tmp_path / "usb")
    assert host.install_sh(Medium(repair, whole.id), "--collect").returncode == 4
    done = host.install_sh(Medium(bad, whole.id), "--collect")
    assert done.returncode == 0, done.stderr
    assert host.current() == 1


@pytest.mark.parametrize("damage", [flipped, lambda data: data[:99], lambda _: b"", None])
@pytest.mark.parametrize("first", [False, True])
def test_a_medium_whose_list_is_bad_is_known_by_its_manifest(whole, host, tmp_path, damage, first):
    one, two = (tmp_path / name for name in ("one", "two"))
    shutil.copytree(whole.root, one)
    shutil.copytree(whole.root, two)
    (one / SHARD).unlink()  # only the other one has it
    if damage is None:
        (two / "SHA256SUMS").unlink()
    else:
        change(two / "SHA256SUMS", damage)
    media = (two, one) if first else (one, two)
    done = host.install_sh(Medium(media[0], whole.id), "--bundle", str(media[1]))
    assert done.returncode == 0, done.stderr
    assert f"! {two}/SHA256SUMS: changed; the list of another medium is used" in done.stderr
    assert host.current() == 1
    change(two / "MANIFEST.json", flipped)
    done = host.install_sh(Medium(media[0], whole.id), "--bundle", str(media[1]))
    assert done.returncode in {4, 5}, done.stderr
    bundle, other = media
    listed = {"expect": None, "others": (other,)}
    with pytest.raises((IntegrityError, SignatureError)):  # nobody named this list
        read_listing(bundle, **listed)


def test_a_repair_in_the_middle_forgets_no_medium(whole, host, tmp_path):
    first, *rest = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    wheel = flipped((first / WHEEL).read_bytes())
    (first / WHEEL).unlink()  # it is a link to the laptop's
    (first / WHEEL).write_bytes(wheel)
    done = host.install_sh(Medium(first, whole.id), "--collect")
    assert done.returncode == 4
    repair = repaired(whole, done.stderr, tmp_path / "usb")
    done = host.install_sh(Medium(repair, whole.id), "--collect", "--json")
    assert done.returncode == 0, done.stderr
    assert "need:" not in done.stderr
    assert f"still missing: medium 2 of {len(rest) + 1} (" in done.stderr
    numbers = list(range(2, len(rest) + 2))
    assert json.loads(done.stdout.splitlines()[-1])["media"] == numbers
    for folder in rest:
        done = host.install_sh(Medium(folder, whole.id), "--collect")
        assert done.returncode == 0, done.stderr
    assert host.current() == 1


@pytest.mark.parametrize(
    ("answer", "folder"),
    [
        ("\n", "."), ("/media/a\n", "/media/a"), ("'/media/my stick'\n", "/media/my stick"),
        ("/media/my\\ stick\n", "/media/my stick"), ("/media/my stick\n", "/media/my stick"),
        ("stick\n", "/start/stick"), ("it's\n", "/start/it's"), ("~root\n", "/root"),
    ],
)  # fmt: skip
def test_a_folder_is_typed_as_in_a_shell(answer, folder):
    assert typed_folder(answer, Path("/start")) == Path(folder)


def test_a_person_is_asked_for_the_next_medium(whole, host, tmp_path):
    first, *rest = carry(whole, tmp_path / "media", "--media", MEDIUM_BYTES)
    command = ["sh", str(CHECKOUT / "installers/install.sh"), "--collect", "--bundle", str(first)]
    command += ["--expect", whole.id, "--prefix", str(host.prefix)]
    path = f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}"
    typed = ["nonsense", *(f"'{folder}'" for folder in rest)]
    pid, terminal = os.forkpty()
    if not pid:
        os.execvpe("sh", command, {"PATH": path, "HOME": "/nonexistent"})  # noqa: S606 - on a terminal
    said = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        said += data
        if b"and press Enter" in data and typed:
            os.write(terminal, typed.pop(0).encode() + b"\n")
        if not data:
            break
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said.decode()
    assert b"nonsense: not a folder" in said
    assert b"insert medium 2 and press Enter" in said
    assert b"insert the next medium" not in said
    assert host.current() == 1
