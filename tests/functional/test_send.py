"""`llava-pack send` through a real sshd: what travels, what does not, and a link that breaks."""

import hashlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llava_pack.cli import main
from llava_pack.client.sending.cargo import read_cargo
from llava_pack.client.sending.plan import SMALL_BYTES
from llava_pack.client.sending.send import BackOff, SendRequest, Sent, send_bundle
from llava_pack.format.errors import (
    IntegrityError,
    NetworkError,
    PackError,
    PreflightError,
    UsageError,
)
from llava_pack.format.progress import Silent
from llava_pack.shipped import shipped
from tests.support.bundle import BASE_PYTHON, BundleSimulator
from tests.support.cut_tunnel import cut_tunnel
from tests.support.remote import TRANSPORTS, login_to, reached
from tests.support.sshd import PROGRAM, LoopbackSshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
WEIGHTS = random.Random(14).randbytes(3 * SMALL_BYTES + 12345)
WEIGHTS_PATH = "model/tiny-llava/model-00001-of-00001.safetensors"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        yield Path(name)


@contextmanager
def serving(place: Path, path: str) -> Iterator[LoopbackSshd]:
    """Run an sshd whose sessions have a home of their own, and a PATH."""
    for name in ("sshd", "home"):
        (place / name).mkdir(parents=True)
    environment = f"HOME={place / 'home'} PATH={path}"
    with LoopbackSshd(place / "sshd", {"SetEnv": environment}) as server:
        yield server


@pytest.fixture(scope="module")
def sshd(folder: Path) -> Iterator[LoopbackSshd]:
    python = Path(BASE_PYTHON).parent
    with serving(folder / "server", f"{python}:{os.environ['PATH']}") as server:
        yield server


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    BundleSimulator(weights=WEIGHTS).write(folder / "bundle")
    return folder / "bundle"


@pytest.fixture(params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def sent(sshd: LoopbackSshd, bundle: Path, to: Path, kind: str = "shared", **fields: str) -> Sent:
    request = SendRequest(cargo=read_cargo(bundle), to=str(to), **fields)
    with reached(kind, login_to(sshd)) as host:
        return send_bundle(host, request, Silent(), BackOff(attempts=0))


def command(sshd: LoopbackSshd, bundle: Path, *arguments: object) -> list[str]:
    options = [part for one in sshd.options for part in ("-o", one)]
    words = ["send", bundle, f"{sshd.user}@127.0.0.1", "-p", sshd.port, *options, *arguments]
    return [str(word) for word in words]


def test_it_lands_whole_and_the_last_line_installs_it(
    sshd: LoopbackSshd, bundle: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command(sshd, bundle)) == 0
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    cargo = read_cargo(bundle)
    there = folder / "server/home/llava-pack-bundles" / f"tiny-{cargo.bundle_id[:12]}"
    assert files(there) == files(bundle)
    assert f"bundle id {cargo.bundle_id}" in err
    environment = {"PATH": f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}", "HOME": "/x"}
    installing = [*shlex.split(line), "--prefix", str(folder / "prefix")]
    done = subprocess.run(installing, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert main(command(sshd, bundle, "--json")) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["kind"], facts["sent_bytes"], facts["sent_files"]) == ("send", 0, 0)
    assert facts["kept_files"] == len(cargo.files)


def test_an_upgrade_sends_what_changed_and_installs(
    sshd: LoopbackSshd, bundle: Path, folder: Path
) -> None:
    """After the test above: the store has the rest, and install.sh finds what it needs."""
    prefix = folder / "prefix"
    BundleSimulator(weights=WEIGHTS, release=1_800_000_000).write(folder / "newer")
    done = sent(sshd, folder / "newer", folder / "upgrade", prefix=str(prefix))
    names = {file.path for file in done.plan.files}
    changed = {"SHA256SUMS", "START-HERE.txt", "MANIFEST.json", "lock/pylock.toml"}
    assert names == {*changed, "wheels/llava_pack-0.0.1-py3-none-any.whl"}
    assert {file.path for file in done.plan.skipped} >= {WEIGHTS_PATH}
    assert not (folder / "upgrade" / WEIGHTS_PATH).exists()
    assert done.install.startswith(f"{prefix}/bin/llava-pack install {folder}/upgrade --expect ")
    installed = subprocess.run(
        shlex.split(done.install), capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, installed.stderr
    again = sent(sshd, folder / "newer", folder / "whole", prefix=str(prefix), whole=True)
    assert files(folder / "whole") == files(folder / "newer")
    assert again.plan.skipped == ()
    assert again.install == done.install.replace("/upgrade", "/whole")


@pytest.mark.parametrize("seed", [1, 2])
def test_the_link_may_break_at_any_byte(
    sshd: LoopbackSshd, bundle: Path, folder: Path, kind: str, seed: int
) -> None:
    draw = random.Random(seed)
    cuts = [draw.randrange(3_000, 900_000) for _ in range(8)]
    there = folder / f"cut-{kind}-{seed}"
    request = SendRequest(cargo=read_cargo(bundle), to=str(there))
    with cut_tunnel(sshd.port, [1 << 20, *cuts]) as tunnel:
        login = login_to(sshd, port=tunnel.port)
        with reached(kind, login) as host:
            back_off = BackOff(attempts=len(cuts) + 2, wait=lambda _: None)
            done = send_bundle(host, request, Silent(), back_off)
        assert done.breaks
    assert files(there) == files(bundle), f"cut after {cuts[: tunnel.cuts]}"


def test_a_part_that_is_right_is_continued(
    sshd: LoopbackSshd, bundle: Path, folder: Path, kind: str
) -> None:
    there = folder / f"part-{kind}"
    sent(sshd, bundle, there, kind)
    (there / WEIGHTS_PATH).unlink()
    half = len(WEIGHTS) // 2
    (there / ".incoming").mkdir()
    (there / ".incoming" / DIGEST).write_bytes(WEIGHTS[:half])
    done = sent(sshd, bundle, there, kind)
    assert done.sent_bytes == len(WEIGHTS) - half
    assert files(there) == files(bundle)


def test_a_part_with_a_flipped_byte_is_sent_again(
    sshd: LoopbackSshd, bundle: Path, folder: Path
) -> None:
    there = folder / "flipped"
    sent(sshd, bundle, there)
    (there / WEIGHTS_PATH).unlink()
    half = bytearray(WEIGHTS[: len(WEIGHTS) // 2])
    half[1000] ^= 1
    (there / ".incoming").mkdir()
    (there / ".incoming" / DIGEST).write_bytes(half)
    done = sent(sshd, bundle, there)
    assert done.sent_bytes == 2 * len(WEIGHTS) - len(half)
    assert files(there) == files(bundle)


def test_a_file_there_that_was_changed_is_sent_again(
    sshd: LoopbackSshd, bundle: Path, folder: Path
) -> None:
    there = folder / "changed"
    sent(sshd, bundle, there)
    for name in (WEIGHTS_PATH, "install.sh"):
        data = bytearray((there / name).read_bytes())
        data[7] ^= 1
        (there / name).write_bytes(data)
    done = sent(sshd, bundle, there)
    assert {file.path for file in done.plan.files} == {WEIGHTS_PATH, "install.sh"}
    assert files(there) == files(bundle)


def _spoil_large(copy: Path) -> str:
    data = bytearray(WEIGHTS)
    data[5] ^= 1
    (copy / WEIGHTS_PATH).write_bytes(data)
    return "damaged on this laptop"


def _spoil_small(copy: Path) -> str:
    path = copy / "licenses/LICENSE"
    path.write_bytes(path.read_bytes()[::-1])
    return "damaged on this laptop"


def _shorten(copy: Path) -> str:
    (copy / WEIGHTS_PATH).write_bytes(WEIGHTS[:-1])
    return "size, expected"


def _remove(copy: Path) -> str:
    (copy / WEIGHTS_PATH).unlink()
    return "missing from this bundle, and the server does not have it"


@pytest.mark.parametrize("spoil", [_spoil_large, _spoil_small, _shorten, _remove])
def test_damage_on_the_laptop_is_named_as_that(
    sshd: LoopbackSshd, bundle: Path, folder: Path, spoil: Callable[[Path], str]
) -> None:
    copy = folder / f"bundle{spoil.__name__}"
    shutil.copytree(bundle, copy)
    why = spoil(copy)
    with pytest.raises(IntegrityError, match=why):
        sent(sshd, copy, folder / f"of{spoil.__name__}")


class _Removing(Silent):
    """Removes a file when the sending begins."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, label: str, total_bytes: int | None) -> None:
        if label == "sending":
            self._path.unlink()


@pytest.mark.parametrize("name", [WEIGHTS_PATH, "licenses/LICENSE"])
def test_a_file_that_goes_while_it_is_sent_is_named(
    sshd: LoopbackSshd, bundle: Path, folder: Path, kind: str, name: str
) -> None:
    copy = folder / f"going-{kind}-{Path(name).name}"
    shutil.copytree(bundle, copy)
    request = SendRequest(cargo=read_cargo(copy), to=str(folder / f"of-{copy.name}"))
    with (
        reached(kind, login_to(sshd)) as host,
        pytest.raises(
            IntegrityError, match="cannot be read on this laptop: No such file"
        ) as failed,
    ):
        send_bundle(host, request, _Removing(copy / name))
    assert failed.value.subject == name


def test_a_link_that_brings_nothing_is_given_up(
    sshd: LoopbackSshd, bundle: Path, folder: Path, kind: str
) -> None:
    """Bytes that went into buffers on the way are no progress."""
    request = SendRequest(cargo=read_cargo(bundle), to=str(folder / f"hole-{kind}"))
    pauses: list[float] = []
    with (
        cut_tunnel(sshd.port, [25_000] * 40) as tunnel,
        reached(kind, login_to(sshd, port=tunnel.port)) as host,
        pytest.raises(NetworkError),
    ):
        send_bundle(host, request, Silent(), BackOff(attempts=3, wait=pauses.append))
    assert pauses == [1.0, 2.0, 4.0]


def _owned(place: Path) -> str:
    place.mkdir()
    os.chown(place, 12345, 12345)
    return "belongs to account 12345"


def _open_to_all(place: Path) -> str:
    place.mkdir()
    place.chmod(0o777)
    return "other accounts can write to it"


def _led_away(place: Path) -> str:
    place.with_suffix(".target").mkdir()
    place.symlink_to(place.with_suffix(".target"))
    os.lchown(place, 12345, 12345)
    return "belongs to account 12345"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another account")
@pytest.mark.parametrize("prepare", [_owned, _open_to_all, _led_away])
def test_root_writes_nowhere_that_another_account_can_change(
    sshd: LoopbackSshd, bundle: Path, folder: Path, prepare: Callable[[Path], str]
) -> None:
    place = folder / f"trap{prepare.__name__}"
    why = prepare(place)
    for there in (place, place / "below"):
        with pytest.raises(PreflightError, match=why):
            sent(sshd, bundle, there)
    assert not list(place.iterdir())


def test_a_file_that_cannot_be_made_is_no_full_disk(
    sshd: LoopbackSshd, bundle: Path, folder: Path
) -> None:
    place = folder / "no-file"
    (place / ".incoming" / "id").mkdir(parents=True)
    with pytest.raises(PreflightError, match="cannot be written"):
        sent(sshd, bundle, place)


def test_the_receiver_walks_as_the_installer_does() -> None:
    one, other = (
        text[text.index("# own PLACE") :].partition("    done\n}\n")[0]
        for text in (
            (shipped("installers") / name).read_text(encoding="utf-8")
            for name in ("receive.sh", "install.sh")
        )
    )
    assert one == other


def test_a_folder_with_something_else_is_left_alone(
    sshd: LoopbackSshd, bundle: Path, folder: Path
) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no bundle: thesis"):
        sent(sshd, bundle, other)
    assert files(other) == {"thesis.txt": b"mine"}
    BundleSimulator(release=1).write(folder / "older")
    sent(sshd, folder / "older", folder / "taken")
    with pytest.raises(UsageError, match="holds another bundle, id "):
        sent(sshd, bundle, folder / "taken")
    assert files(folder / "taken") == files(folder / "older")


def test_a_place_that_cannot_be_written_is_named(
    sshd: LoopbackSshd, bundle: Path, folder: Path
) -> None:
    (folder / "file").write_text("no folder")
    with pytest.raises(PreflightError, match="cannot be created or written"):
        sent(sshd, bundle, folder / "file" / "below")


def test_a_dry_run_writes_nothing(
    sshd: LoopbackSshd,
    bundle: Path,
    folder: Path,
    kind: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    way = ["-o", "ControlPath=none"] if kind == "helper" else []
    words = ["--dry-run", "--json", "--to", folder / f"dry-{kind}", *way]
    assert main(command(sshd, bundle, *words)) == 0
    facts = json.loads(capfd.readouterr().out)
    cargo = read_cargo(bundle)
    assert facts["send_bytes"] == sum(file.size_bytes for file in cargo.files)
    assert facts["free_bytes"] > 0
    assert not (folder / f"dry-{kind}").exists()


@pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine")
def test_a_server_that_has_only_busybox_will_do(bundle: Path, folder: Path, kind: str) -> None:
    place = folder / f"busybox-{kind}"
    programs = place / "bin"
    programs.mkdir(parents=True)
    busybox = shutil.which("busybox") or ""
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for name in names.split():
        (programs / name).symlink_to(busybox)
    with serving(place / "server", str(programs)) as server:
        done = sent(server, bundle, place / "there", kind)
        assert files(place / "there") == files(bundle)
        assert sent(server, bundle, place / "there", kind).plan.kept == done.plan.kept + len(
            done.plan.files
        )
        (programs / "sha256sum").unlink()
        with pytest.raises(PackError, match="no sha256sum on the server") as failed:
            sent(server, bundle, place / "other", kind)
    assert failed.value.exit_code == 6


def test_ctrl_c_and_the_same_command_again_continue(sshd: LoopbackSshd, folder: Path) -> None:
    """The sending is stopped in the middle of a large file."""
    weights = random.Random(3).randbytes(8 * SMALL_BYTES)
    BundleSimulator(weights=weights).write(folder / "larger")
    there = folder / "stopped"
    words = command(sshd, folder / "larger", "--to", there, "--limit-rate", "2 MB/s")
    part = there / ".incoming" / hashlib.sha256(weights).hexdigest()
    with subprocess.Popen([sys.executable, "-m", "llava_pack", *words]) as process:
        while not part.exists() or part.stat().st_size < SMALL_BYTES:
            assert process.poll() is None
        process.send_signal(2)
        assert process.wait() == 130
    done = sent(sshd, folder / "larger", there)
    assert done.sent_bytes <= len(weights) - SMALL_BYTES
    assert files(there) == files(folder / "larger")
