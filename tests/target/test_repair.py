"""`llava-pack repair`: a damaged bundle, or a part of one, is as it was, or it is said what remains."""

import os
import shutil

import pytest

from llava_pack.crossing.digest_list import parse_digest_list
from llava_pack.crossing.parity import par2_program, protect
from llava_pack.format.errors import PackError
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.part import MediumPart, render_part
from llava_pack.format.progress import Silent
from llava_pack.format.sums import MANIFEST_NAME, parse_sums
from llava_pack.installation import repair
from tests.support.bundle import change, seal

WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
CONFIG = "model/tiny-llava/config.json"


@pytest.fixture
def protected(medium):
    """Give a bundle whose files are all protected, its weights being most of it."""
    made = medium(weights=os.urandom(500_000), extra={"runtime/par2": par2_program().read_bytes()})
    paths = [*parse_sums((made.root / "SHA256SUMS").read_bytes())]
    protect(made.root, paths, 30, Silent())
    return made


@pytest.fixture
def fix(cli):
    def run(medium, *options, code=0):
        ended = cli("repair", medium.root, "--expect", medium.id, *options)
        assert ended.code == code, ended.err
        return ended

    return run


def flip(path):
    change(path, lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])


def listed(root):
    return {
        path: (root / path).read_bytes() for path in parse_sums((root / "SHA256SUMS").read_bytes())
    }


def beside(root):
    return {path.name for path in root.parent.iterdir()}


def test_parity_is_no_extra_file_and_no_evidence(protected, cli, host):
    assert cli("verify", protected.root, "--expect", protected.id).code == 0
    (protected.root / "parity/parity.par2").write_text("anything")
    assert cli("verify", protected.root, "--expect", protected.id).code == 0
    (protected.root / "parity/run.sh").write_text("anything")
    ended = cli("verify", protected.root, "--expect", protected.id)
    assert ended.code == 4
    assert "parity/run.sh: extra" in ended.err
    (protected.root / "parity/run.sh").unlink()
    assert host.install_sh(protected).returncode == 0


def test_nothing_bad_is_said(protected, fix):
    assert "nothing to repair" in fix(protected).err
    facts = fix(protected, "--json").document
    assert (facts["ok"], facts["bad"], facts["repaired"], facts["exit_code"]) == (True, [], [], 0)


def test_every_kind_of_damage_is_undone_in_place(protected, fix):
    root, before = protected.root, listed(protected.root)
    around = beside(root)
    mode = (root / "install.sh").stat().st_mode
    flip(root / WEIGHTS)
    flip(root / "install.sh")
    (root / CONFIG).unlink()
    (root / "model/tower/config.json").write_bytes(b"")
    (root / "lock/pylock.toml").write_bytes(b"longer than it was" * 100)
    ended = fix(protected)
    assert listed(root) == before
    assert f"{WEIGHTS}: rebuilt" in ended.err
    assert ended.out.strip() == protected.id
    assert (root / "install.sh").stat().st_mode == mode
    assert beside(root) == around


def test_a_manifest_that_went_bad_is_rebuilt_too(protected, fix):
    before = listed(protected.root)
    flip(protected.root / MANIFEST_NAME)
    flip(protected.root / WEIGHTS)
    fix(protected)
    assert listed(protected.root) == before
    assert parse_manifest(before[MANIFEST_NAME])


def test_a_dry_run_writes_nothing_and_names_what_is_bad(protected, fix):
    flip(protected.root / WEIGHTS)
    bad = (protected.root / WEIGHTS).read_bytes()
    facts = fix(protected, "--dry-run", "--json", code=4).document
    assert (facts["bad"], facts["repaired"], facts["dry_run"]) == ([WEIGHTS], [], True)
    assert (protected.root / WEIGHTS).read_bytes() == bad
    said = fix(protected, "--dry-run", code=4).err
    assert "without --dry-run" in said
    assert "only the repair shows whether that is enough" in said
    assert "bad files: 1, at most 500.0 kB" in said


def test_too_much_damage_says_what_to_bring_and_leaves_the_bad_files(protected, fix):
    change(protected.root / WEIGHTS, lambda data: bytes(len(data)))
    (protected.root / "runtime/par2").unlink()
    facts = fix(protected, "--json", code=4).document
    assert facts["bring"] == [WEIGHTS, "runtime/par2"]
    assert facts["lacking_bytes"] > 100_000
    assert (protected.root / WEIGHTS).is_file()
    said = fix(protected, code=4).err
    assert "short" in said
    assert "--need -" in said
    asked = parse_digest_list(said)
    sums = parse_sums((protected.root / "SHA256SUMS").read_bytes())
    assert asked.digests == {sums[path][:8] for path in facts["bring"]}


def test_without_recovery_data_it_says_what_would_help(protected, fix):
    shutil.rmtree(protected.root / "parity")
    flip(protected.root / WEIGHTS)
    said = fix(protected, code=4).err
    assert "there is no recovery data" in said
    assert "need:" in said
    assert "carry BUNDLE --to DIR --need -" in said


def test_verify_names_each_bad_file_once_and_what_to_do(protected, cli):
    flip(protected.root / WEIGHTS)
    ended = cli("verify", protected.root, "--expect", protected.id)
    assert (ended.code, ended.err.count(WEIGHTS)) == (4, 1)
    assert f"llava-pack repair {protected.root}" in ended.err
    shutil.rmtree(protected.root / "parity")
    ended = cli("verify", protected.root, "--expect", protected.id)
    assert (ended.code, ended.err.count(WEIGHTS)) == (4, 1)
    assert "need:" in ended.err
    assert "carry BUNDLE --to DIR --need -" in ended.err


def test_what_it_does_not_cover_remains(medium, fix):
    made = medium()
    protect(made.root, [CONFIG], 100, Silent())
    flip(made.root / CONFIG)
    flip(made.root / WEIGHTS)
    facts = fix(made, "--json", code=4).document
    assert (facts["repaired"], facts["bring"]) == ([CONFIG], [WEIGHTS])


def test_a_medium_with_a_part_of_the_files_is_whole_by_itself(protected, fix):
    root = protected.root
    shutil.rmtree(root / "wheels")
    some = [path for path in listed_names(root) if (root / path).is_file()]
    part = MediumPart(bundle_id=protected.id, medium=1, media=(tuple(some), ()))
    (root / "PART.json").write_bytes(render_part(part))
    protect(root, some, 30, Silent())
    assert f"{len(some)} of {len(listed_names(root))} files" in fix(protected).err
    flip(root / WEIGHTS)
    (root / CONFIG).unlink()
    assert sorted(fix(protected, "--json").document["repaired"]) == [CONFIG, WEIGHTS]


def listed_names(root):
    return [*parse_sums((root / "SHA256SUMS").read_bytes())]


def test_another_bundle_is_not_repaired(protected, cli):
    flip(protected.root / WEIGHTS)
    bad = (protected.root / WEIGHTS).read_bytes()
    assert cli("repair", protected.root, "--expect", "0" * 64).code == 5
    assert (protected.root / WEIGHTS).read_bytes() == bad


@pytest.fixture
def on_a_server(monkeypatch):
    """Be where par2 is not installed, and no installation holds it."""

    def absent():
        raise PackError("not here")

    monkeypatch.setattr(repair, "par2_program", absent)


def test_a_bundles_own_program_runs_where_a_person_vouches(on_a_server, protected, fix, cli):
    flip(protected.root / WEIGHTS)
    ended = cli("repair", protected.root)
    assert ended.code == 6
    assert "--expect ID" in ended.err
    fix(protected)
    assert cli("verify", protected.root, "--expect", protected.id).code == 0


def test_a_bundle_without_the_program_is_not_asked_to_be_vouched_for(on_a_server, medium, fix):
    made = medium()
    protect(made.root, [CONFIG], 100, Silent())
    flip(made.root / CONFIG)
    said = fix(made, code=6).err
    assert "does not hold it" in said
    assert "add --expect" not in said


def test_a_program_that_went_bad_does_not_run(on_a_server, protected, fix):
    flip(protected.root / WEIGHTS)
    flip(protected.root / "runtime/par2")
    said = fix(protected, code=4).err
    assert "runtime/par2" in said
    assert "bring this file again" in said


def test_that_of_the_installation_is_taken_first(
    on_a_server, protected, host, fix, monkeypatch, tmp_path
):
    assert host.install_sh(protected).returncode == 0
    generation = next((host.prefix / "models/tiny/generations").iterdir())
    flip(protected.root / "runtime/par2")
    monkeypatch.setattr("sys.prefix", str(generation / "venv"))
    flip(protected.root / WEIGHTS)
    fix(protected)


def test_a_folder_that_cannot_be_written_is_said(protected, fix, monkeypatch):
    flip(protected.root / WEIGHTS)
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode, **more: mode != os.W_OK and allowed(p, mode, **more)
    )
    assert "repair the copy" in fix(protected, code=3).err


def test_a_bundle_that_lists_it_is_installed_like_any(medium, host):
    made = medium(extra={"runtime/par2": b"a program"})
    seal(made.root)
    assert host.install_sh(made).returncode == 0
