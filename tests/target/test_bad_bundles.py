"""What was changed on the way is refused, with its exit code, by every way in."""

import json
import os

import pytest

from llava_pack.target import main
from tests.support.bundle import change, seal

WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"


def flip(path):
    def turned(data):
        return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]

    change(path, turned)


@pytest.fixture(params=["verify", "install", "install.sh"])
def way(request, host, cli):
    """Each way in, as a function of a medium that gives exit code and everything said."""

    def enter(medium, *, expect=True):
        if request.param == "install.sh":
            done = host.install_sh(medium, expect=expect)
            return done.returncode, done.stdout + done.stderr
        arguments = [request.param, medium.root]
        arguments += ["--expect", medium.id] if expect else []
        arguments += ["--prefix", host.prefix] if request.param == "install" else []
        ended = cli(*arguments)
        return ended.code, ended.out + ended.err

    enter.verifies_only = request.param == "verify"
    return enter


def test_a_bundle_as_it_was_built_passes(way, medium):
    assert way(medium())[0] == 0


@pytest.mark.parametrize(
    "path",
    [
        WEIGHTS,
        "model/tiny-llava/config.json",
        "lock/pylock.toml",
        "runtime/uv",
        "installer/llava_pack/target/main.py",
        "installer/llava_pack/__init__.py",
        "runtime/python-version.txt",
        "install.sh",
    ],
)
def test_one_flipped_bit_is_named(way, medium, path):
    bad = medium()
    flip(bad.root / path)
    code, said = way(bad)
    assert code == 4
    assert path in said


def test_every_bad_file_is_named_at_once(way, medium):
    bad = medium()
    flip(bad.root / WEIGHTS)
    flip(bad.root / "model/tower/model.safetensors")
    flip(bad.root / "licenses/LICENSE")
    code, said = way(bad)
    assert code == 4
    for path in (WEIGHTS, "model/tower/model.safetensors", "licenses/LICENSE"):
        assert path in said


@pytest.mark.parametrize("path", [WEIGHTS, "installer/llava_pack/target/store.py", "MANIFEST.json"])
def test_a_missing_file_is_named(way, medium, path):
    bad = medium()
    (bad.root / path).unlink()
    code, said = way(bad)
    assert code == 4
    assert path in said


def test_a_truncated_file_is_named_with_its_sizes(way, medium):
    bad = medium()
    change(bad.root / WEIGHTS, lambda data: data[:-1])
    code, said = way(bad)
    assert code == 4
    assert f"{WEIGHTS}: size, expected 29 bytes, got 28 bytes" in said


@pytest.mark.parametrize("path", ["model/tiny-llava/extra.bin", "installer/json.py", "x/y"])
def test_an_extra_file_is_named_and_never_run(way, medium, path, tmp_path):
    bad = medium()
    (bad.root / path).parent.mkdir(exist_ok=True)
    (bad.root / path).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    code, said = way(bad)
    assert code == 4
    assert path.split("/")[0] in said
    assert not (tmp_path / "ran").exists()


def test_a_changed_manifest_is_named(way, medium):
    bad = medium()
    change(bad.root / "MANIFEST.json", lambda data: data.replace(b"A tiny", b"A tidy"))
    code, said = way(bad)
    assert code == 4
    assert "MANIFEST.json" in said


def test_a_manifest_that_disagrees_with_the_sums_is_refused(way, medium):
    bad = medium()
    flip(bad.root / WEIGHTS)
    resealed = type(bad)(bad.root, seal(bad.root))
    code, said = way(resealed)
    assert code == 4
    assert WEIGHTS in said


def test_changed_sums_are_another_bundle(way, medium):
    bad = medium()
    flip(bad.root / WEIGHTS)
    seal(bad.root)
    code, said = way(bad)
    assert code == 5
    assert bad.id in said


def test_the_id_of_another_bundle_is_refused(way, medium):
    one, other = medium("one"), medium("other", weights=b"other weights")
    assert way(type(one)(one.root, other.id))[0] == 5


def test_without_an_id_nothing_is_installed(way, medium, host):
    code, said = way(medium(), expect=False)
    assert code == (0 if way.verifies_only else 6)
    assert ("only the bundle vouches for itself" if way.verifies_only else "--expect") in said
    assert not host.prefix.exists()


@pytest.mark.parametrize("expect", ["0123", "z" * 64, "0" * 65])
def test_what_is_no_id_is_a_usage_error(way, medium, expect):
    good = medium()
    assert way(type(good)(good.root, expect))[0] == 2


@pytest.mark.parametrize("path", ["model/tower/config.json", "installer/llava_pack/target/main.py"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_links_and_fifos_are_no_files(way, medium, path, kind):
    bad = medium()
    place = bad.root / path
    if kind == "link":
        place.rename(place.with_name("aside"))
        place.symlink_to("aside")
    else:
        place.unlink()
        os.mkfifo(place)
    code, said = way(bad)
    assert code == 4
    assert path in said


def test_a_linked_folder_is_no_folder(way, medium, tmp_path):
    bad = medium()
    (bad.root / "installer").rename(tmp_path / "elsewhere")
    (bad.root / "installer").symlink_to(tmp_path / "elsewhere")
    code, said = way(bad)
    assert code == 4
    assert "installer" in said


@pytest.mark.parametrize("name", ["START-HERE.txt", "key.pem"])
def test_what_vouches_for_nothing_may_be_away_but_not_differ_or_be_a_link(way, medium, name):
    free = medium()
    (free.root / name).unlink(missing_ok=True)
    assert way(free)[0] == 0
    (free.root / name).write_text("anything")
    code, said = way(free)
    assert code == 4
    assert f"{name}: changed" in said
    (free.root / name).unlink()
    (free.root / name).symlink_to("MANIFEST.json")
    assert way(free)[0] == 4


def test_another_version_s_words_are_those_that_the_manifest_states(way, medium):
    other = medium(welcome="Welcome. Type the lines on the card.\n")
    assert way(other)[0] == 0
    change(other.root / "START-HERE.txt", lambda data: data + b"\n")
    assert way(other)[0] == 4


@pytest.mark.parametrize("line", ["0" * 64 + "  ../../evil", "0" * 64 + "  /etc/passwd", "hello"])
def test_a_list_with_names_that_climb_is_refused(way, medium, line):
    bad = medium()
    change(bad.root / "SHA256SUMS", lambda data: f"{line}\n".encode() + data)
    import hashlib

    forged = hashlib.sha256((bad.root / "SHA256SUMS").read_bytes()).hexdigest()
    assert way(type(bad)(bad.root, forged))[0] == 4


def test_text_from_a_bundle_reaches_the_terminal_as_text(way, medium, cli):
    title = "\x1b[31mred\u202e [bold]loud[/bold]\r"
    code, said = way(medium("named", title=title))
    assert code == 0
    bad = medium("extra")
    (bad.root / "\x1b]0;owned\x07").write_text("")
    code, more = way(bad)
    assert code == 4
    assert r"\x1b]0;owned\x07" in more
    assert not set(said + more) & set("\x1b\x07\r\u202e")
    if not way.verifies_only:
        assert r"\x1b[31mred\u202e [bold]loud[/bold]\x0d" in said


def test_inspect_shows_text_as_text(medium, cli):
    shown = cli("inspect", medium(title="\x1b[31m[bold]x").root)
    assert shown.code == 0
    assert r"\x1b[31m[bold]x" in shown.out
    assert "\x1b" not in shown.out + shown.err


def test_inspect_shows_a_bundle_in_15_lines_and_with_all_of_them_everything(medium, cli):
    bundle = medium()
    short, whole = cli("inspect", bundle.root), cli("inspect", bundle.root, "--all")
    assert (short.code, whole.code) == (0, 0)
    assert len((short.out + short.err).splitlines()) <= 15
    for words in (bundle.id, "signed by  nobody", "serves     ", "needs      ", "--all"):
        assert words in short.out + short.err
    assert "provenance:" in whole.out
    assert "provenance:" not in short.out


def test_verify_lists_every_defect_as_json(medium, cli):
    bad = medium()
    flip(bad.root / WEIGHTS)
    (bad.root / "licenses/LICENSE").unlink()
    (bad.root / "extra").write_text("")
    flip(bad.root / "MANIFEST.json")
    ended = cli("verify", bad.root, "--json")
    assert ended.code == ended.document["exit_code"] == 4
    found = {(defect["path"], defect["problem"]) for defect in ended.document["defects"]}
    assert found == {
        (WEIGHTS, "changed"),
        ("licenses/LICENSE", "missing"),
        ("extra", "extra"),
        ("MANIFEST.json", "changed"),
    }


def test_install_sh_says_errors_as_json_too(medium, host):
    done = host.install_sh(medium(), "--json", expect=False)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 6


def test_a_bug_is_told_as_text(monkeypatch, capsys):
    def fails(_options):
        raise ValueError("\x1b[31mred")

    monkeypatch.setattr(main, "_install", fails)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    assert main.main(["install", "--bundle", "b"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert r"ValueError: \x1b[31mred" in said
    assert "\x1b" not in said
