"""Bundles without wheels: fetched from the index that is named, and from nowhere else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llava_pack.format.text import human_bytes
from llava_pack.shells import pasted
from tests.support import lone_index
from tests.support.bundle import CHECKOUT
from tests.support.index import LoopbackIndex
from tests.support.traces import addresses, reached, traced
from tests.support.wheels import write_wheel
from tests.target.namespaces import allowed, covering, may_mount

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
NAMES = ("numbers_of_old", "some_torch")
SHELLS = ["dash", "bash --posix", "busybox ash"]


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    return tuple(write_wheel(folder, name, "2.13.0+cpu") for name in NAMES)


@pytest.fixture
def index(wheels):
    with LoopbackIndex([wheels[0].parent]) as index:
        yield index


@pytest.fixture
def lean(medium, wheels):
    """Write a bundle that leaves the wheels out."""
    return lambda *name, **fields: medium(*name, left_out=wheels, **fields)


def self_signed(folder):
    """Write a certificate for 127.0.0.1, with its key behind it, and return it."""
    pem, key = folder / "index.pem", folder / "index.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=loopback"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", pem]
    subprocess.run(command, check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + key.read_bytes())
    return pem


def files_asked(index):
    return [asked.path.rpartition("/")[2] for asked in index.asked if "/files/" in asked.path]


def receipt(host):
    return json.loads((host.prefix / "models/tiny/current/receipt.json").read_text())


def test_it_is_refused_without_an_index_before_anything_is_written(host, lean):
    done = host.install_sh(lean())
    assert done.returncode == 3
    assert "wheels: expected a package index" in done.stderr
    assert "2 of 2 are to be fetched" in done.stderr
    assert "no index was named" in done.stderr
    assert "add --index URL" in done.stderr
    assert not host.prefix.exists()


def test_a_dry_run_finds_the_wheels_and_writes_nothing(host, lean, index, wheels):
    done = host.install_sh(lean(), "--index", index.simple_url, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    size_bytes = sum(wheel.stat().st_size for wheel in wheels)
    assert json.loads(done.stdout)["fetch_bytes"] == size_bytes
    assert f"fetch {human_bytes(size_bytes)} from an index" in done.stderr
    assert not host.prefix.exists()
    assert files_asked(index) == []


def test_the_wheels_come_from_the_index_and_the_receipt_says_so(host, lean, index, wheels):
    tiny = lean(real_uv=True)
    done = host.install_sh(tiny, "--index", index.simple_url)
    assert done.returncode == 0, done.stderr
    assert sorted(files_asked(index)) == sorted(wheel.name for wheel in wheels)
    site = host.prefix / "models/tiny/current/venv/lib"
    assert {path.stem for path in site.glob("python3*/site-packages/*.py")} >= {*NAMES}
    found = receipt(host)
    assert found["placed"]["fetched"] == sum(wheel.stat().st_size for wheel in wheels)
    assert sum(found["placed"].values()) == found["size_bytes"]
    assert found["silence"]["installer"] == "fenced, except for 127.0.0.1"
    assert found["silence"]["index"] == [index.simple_url]
    page = (host.prefix / "models/tiny/current/receipt.txt").read_text()
    assert "fetched from the index, held against" in page
    assert index.simple_url in page


def test_inspect_counts_what_is_there_and_names_what_is_left_out(lean, wheels, cli):
    tiny = lean()
    sizes = [path.stat().st_size for path in tiny.root.rglob("*") if path.is_file()]
    shown = cli("inspect", tiny.root, "--json").document
    unlisted = sum((tiny.root / name).stat().st_size for name in ("START-HERE.txt", "SHA256SUMS"))
    manifest = (tiny.root / "MANIFEST.json").stat().st_size
    assert shown["size_bytes"] == sum(sizes) - unlisted - manifest
    assert shown["parts"]["wheels"]["files"] == 1
    assert sum(part["size_bytes"] for part in shown["parts"].values()) == shown["size_bytes"]
    absent = sum(wheel.stat().st_size for wheel in wheels)
    assert shown["left_out"] == {"files": len(wheels), "size_bytes": absent}
    lines = cli("inspect", tiny.root).out
    size = human_bytes(shown["size_bytes"])
    assert f"size       {size} in {len(sizes) - 3} files, 1 wheel of them" in lines
    assert f"left out   {len(wheels)} wheels, {human_bytes(absent)}: the server fetches" in lines


@pytest.mark.parametrize("option", ["--context=64", "--slots=2", "--vision-tower=x"])
def test_inspect_refuses_for_a_bundle_what_is_a_checkpoints(medium, cli, option):
    done = cli("inspect", medium().root, option)
    assert done.code == 2
    assert f"{option.partition('=')[0]}: has no meaning for a bundle" in done.err


def test_inspect_prints_a_command_to_paste(medium, cli):
    tiny = medium("a space")
    assert pasted(["llava-pack", "verify", str(tiny.root)]) in cli("inspect", tiny.root).err


def test_what_is_stored_is_fetched_no_more(host, lean, index):
    old = lean("old")
    assert host.install_sh(old, "--index", index.simple_url).returncode == 0
    asked = len(index.asked)
    assert "is already installed" in host.install_sh(old).stderr
    assert host.install_sh(lean("new", weights=b"newer weights")).returncode == 0
    assert host.current() == 2
    assert len(index.asked) == asked
    assert "fetched" not in receipt(host)["placed"]
    assert receipt(host)["silence"]["installer"] == "fenced"


def test_generations_are_kept_and_gone_back_to_as_any_other(host, lean, index, cli):
    assert host.install_sh(lean("old"), "--index", index.simple_url).returncode == 0
    assert host.install_sh(lean("new", weights=b"newer weights")).returncode == 0
    left = host.prefix / "store/sha256/ab/ab.part"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of a wheel that nobody went on with")
    assert cli("gc", "--keep", "2", "--prefix", host.prefix).code == 0
    assert not left.exists()
    assert cli("revert", "--prefix", host.prefix).code == 0
    assert host.current() == 1
    assert host.run("x") == f"{host.prefix} x"
    asked = len(index.asked)
    assert host.install_sh(lean("newest", weights=b"newest")).returncode == 0
    assert len(index.asked) == asked


def test_another_wheel_than_the_manifest_promises_is_4(host, lean, index, wheels):
    tiny = lean()
    index.fault(wheels[1].name, corrupt_at=30)
    done = host.install_sh(tiny, "--index", index.simple_url)
    assert done.returncode == 4
    assert f"wheels/{wheels[1].name} from 127.0.0.1" in done.stderr
    assert host.current() is None
    index.heal()
    assert host.install_sh(tiny, "--index", index.simple_url).returncode == 0
    assert files_asked(index).count(wheels[0].name) == 1


def test_an_index_that_cannot_be_reached_is_9(host, lean):
    done = host.install_sh(lean(), "--index", "http://127.0.0.1:1/simple")
    assert done.returncode == 9
    assert "127.0.0.1:1: cannot be reached" in done.stderr
    assert not host.prefix.exists()


def test_a_page_that_breaks_off_is_no_page_without_the_wheel(host, lean, index, wheels):
    index.fault("/simple/some-torch/", cut_bytes=[10])
    done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 9
    assert "IncompleteRead" in done.stderr


@pytest.mark.parametrize(("status", "code"), [(500, 11), (429, 11), (401, 12), (403, 10)])
def test_what_an_index_answers_has_its_exit_code(host, lean, index, status, code):
    index.fault("/simple/some-torch/", statuses=[status])
    assert host.install_sh(lean(), "--index", index.simple_url).returncode == code
    assert not host.prefix.exists()


def test_redirects_without_an_end_are_11(host, lean, index):
    path = "/simple/some-torch/"
    index.fault(path, statuses=[301] * 9, headers={"Location": path})
    done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 11
    assert "redirects without an end" in done.stderr


def test_a_certificate_that_nobody_vouches_for_is_9(host, lean, wheels, tmp_path):
    with LoopbackIndex([wheels[0].parent], tls=self_signed(tmp_path)) as index:
        done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 9
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


@pytest.mark.namespace
@pytest.mark.skipif(not may_mount(), reason="no mount namespaces here")
@pytest.mark.skipif(not AUTHORITIES.is_file(), reason="this system keeps its authorities elsewhere")
def test_the_authorities_of_the_system_are_believed(host, lean, wheels, tmp_path):
    certificate = self_signed(tmp_path)
    with LoopbackIndex([wheels[0].parent], tls=certificate) as index:
        wrap = covering({AUTHORITIES: certificate})
        done = host.install_sh(lean(), "--index", index.simple_url, wrap=wrap)
    assert done.returncode == 0, done.stderr


def test_a_wheel_that_no_index_has_is_10_and_another_index_may_have_it(
    host, lean, index, wheels, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    tiny = lean()
    wheels[1].rename(other / wheels[1].name)
    with LoopbackIndex([wheels[0].parent]) as poor, LoopbackIndex([other]) as second:
        done = host.install_sh(tiny, "--index", poor.simple_url)
        assert done.returncode == 10
        assert wheels[1].name in done.stderr
        assert wheels[0].name not in done.stderr
        assert not host.prefix.exists()
        both = ("--index", poor.simple_url, "--index", second.simple_url)
        assert host.install_sh(tiny, *both).returncode == 0


def test_a_password_is_sent_to_the_index_and_kept_nowhere(host, lean, wheels, tmp_path):
    secret = tmp_path / "index-url"
    with LoopbackIndex([wheels[0].parent], login="ada:sesame 7") as index:
        tiny = lean()
        done = host.install_sh(tiny, "--index", index.simple_url)
        assert done.returncode == 12
        secret.write_text(index.simple_url.replace("://", "://ada:sesame%207@") + "\n")
        log = tmp_path / "trace"
        done = host.install_sh(tiny, "--index", secret.name, cwd=tmp_path, wrap=traced(log))
        assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    told += "".join(path.read_text() for path in host.prefix.rglob("*.json"))
    told += (host.prefix / "models/tiny/current/receipt.txt").read_text()
    assert "sesame" not in told
    assert "ada" not in receipt(host)["silence"]["index"][0]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_in_a_folder_with_a_blank_and_a_star_is_one_word(host, lean, index, tmp_path, shell):
    folder = tmp_path / "my * folder"
    folder.mkdir()
    (folder / "the index").write_text(index.simple_url)
    words = ("--index", "the index", "--index-host", "files.example --no-such-option")
    done = host.install_sh(lean(), *words, body=shell, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("option", ["--index", "--index-host"])
def test_no_option_is_hidden_behind_the_end_of_a_line(host, lean, index, option, shell):
    words = ("--index", index.simple_url, option, "https://files.example\n--allow-downgrade")
    done = host.install_sh(lean(), *words, body=shell)
    assert done.returncode == 2
    assert f"{option}: expected one line" in done.stderr
    assert not host.prefix.exists()


def test_a_login_goes_to_a_host_however_its_name_is_written(host, lean, wheels):
    with LoopbackIndex([wheels[0].parent], login="ada:sesame") as index:
        port = urlsplit(index.url).port
        page = "/simple/some-torch/"
        moved = {"Location": f"http://localhost:{port}{page}"}
        index.fault(page, statuses=[301], headers=moved)
        url = f"HTTP://ada:sesame@LocalHost:{port}/simple"
        done = host.install_sh(lean(), "--index", url)
        assert done.returncode == 0, done.stderr


class OddLinks(LoopbackIndex):
    """An index whose pages begin with links that are no addresses."""

    def respond(self, asked):
        answer = super().respond(asked)
        if asked.path.startswith("/simple/"):
            odd = b'<a href="http://[bad/">x</a><a href="//h:port/x">y</a>'
            return replace(answer, body=odd + answer.body)
        return answer


def test_a_link_that_is_no_address_is_passed_over(host, lean, wheels):
    with OddLinks([wheels[0].parent]) as index:
        done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", ["http://[bad/", "http://127.0.0.1:port/"])
def test_a_redirect_to_what_is_no_address_is_9(host, lean, index, place):
    index.fault("/simple/some-torch/", statuses=[302], headers={"Location": place})
    done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 9
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_that_refuses_everything_asks_for_a_login(host, lean, index):
    index.fault("/", statuses=[403] * 9)
    done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 12
    assert "answers 403 for every project" in done.stderr
    assert "user and password" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--index", "http://mirror.example/simple?token=secret"], "without ? and #"),
        (["--index", "http://mirror.example/simple#secret"], "without ? and #"),
        (["--index", "ftp://ada:secret@mirror.example"], "expected the URL of a package index"),
        (["--index", "http://ada:secret@mirror.example:x/simple"], "expected the URL of a"),
        (["--index", "no-such-file"], "expected the URL of a package index"),
        (["--index-host", "files.example"], "no index that it belongs to"),
    ],
)
def test_what_names_no_index_is_2(host, lean, cli, arguments, said):
    tiny = lean()
    done = host.install_sh(tiny, *arguments)
    ended = cli("install", tiny.root, "--expect", tiny.id, "--prefix", host.prefix, *arguments)
    assert (done.returncode, ended.code) == (2, 2)
    assert said in done.stderr
    assert said in ended.err
    assert "secret" not in done.stderr


def test_a_host_that_nobody_named_is_not_asked(host, lean, index, wheels):
    elsewhere = f"http://localhost:{urlsplit(index.url).port}/files/{wheels[0].name}"
    index.fault(f"/files/{wheels[0].name}", statuses=[302], headers={"Location": elsewhere})
    tiny = lean()
    done = host.install_sh(tiny, "--index", index.simple_url)
    assert done.returncode == 9
    assert "localhost: the index leads there" in done.stderr
    assert "--index-host localhost" in done.stderr
    index.fault(f"/files/{wheels[0].name}", statuses=[302], headers={"Location": elsewhere})
    hosts = ("--index-host", "localhost")
    done = host.install_sh(tiny, "--index", index.simple_url, *hosts)
    assert done.returncode == 0, done.stderr


def test_a_broken_connection_is_resumed_within_a_run_and_by_the_next_one(host, lean, index, wheels):
    path = f"/files/{wheels[1].name}"
    tiny = lean()
    index.fault(path, cut_bytes=[200, 0, 0, 0])
    done = host.install_sh(tiny, "--index", index.simple_url)
    assert done.returncode == 11
    assert "breaks after 200 of" in done.stderr
    index.fault(path, cut_bytes=[100])
    done = host.install_sh(tiny, "--index", index.simple_url)
    assert done.returncode == 0, done.stderr
    assert index.served[path] == wheels[1].stat().st_size
    assert files_asked(index).count(wheels[0].name) == 1


@pytest.mark.parametrize("fault", [{"ignore_range": True}, {"range_from": 0}], ids=str)
def test_an_index_without_ranges_is_asked_for_the_whole(host, lean, index, wheels, fault):
    path = f"/files/{wheels[1].name}"
    index.fault(path, cut_bytes=[200], **fault)
    done = host.install_sh(lean(), "--index", index.simple_url)
    assert done.returncode == 0, done.stderr


def test_a_killed_fetch_leaves_what_serves_and_is_gone_on_with(host, lean, medium, index, wheels):
    host.install_sh(medium("old"))
    path = f"/files/{wheels[1].name}"
    fault = index.fault(path, hold_bytes=300)
    new = lean("new", weights=b"newer weights")
    run = threading.Thread(target=host.install_sh, args=(new, "--index", index.simple_url))
    run.start()
    assert fault.held.wait(300)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        if f"{host.prefix}/.bootstrap" in process.read_bytes().decode(errors="replace"):
            os.kill(int(process.parent.name), signal.SIGKILL)
    index.heal()
    run.join()
    assert host.current() == 1
    assert host.run("old") == f"{host.prefix} old"
    done = host.install_sh(new, "--index", index.simple_url)
    assert done.returncode == 0, done.stderr
    assert "an earlier install stopped at fetch: resuming" in done.stderr
    assert files_asked(index).count(wheels[0].name) == 1
    assert host.current() == 2


def test_a_stored_wheel_that_rotted_is_fetched_again(host, lean, index, wheels):
    host.install_sh(lean("old"), "--index", index.simple_url)
    objects = [path for path in (host.prefix / "store/sha256").rglob("*") if path.is_file()]
    rotten = next(path for path in objects if path.read_bytes() == wheels[0].read_bytes())
    rotten.chmod(0o644)
    rotten.write_bytes(wheels[0].read_bytes()[::-1])
    new = lean("new", weights=b"newer weights")
    done = host.install_sh(new)
    assert done.returncode == 4
    assert f"wheels/{wheels[0].name}: changed" in done.stderr
    assert "hint: the bad file is removed: add --index URL to the same command" in done.stderr
    assert host.current() == 1
    assert host.install_sh(new).returncode == 3
    done = host.install_sh(new, "--index", index.simple_url)
    assert done.returncode == 0, done.stderr
    assert files_asked(index).count(wheels[1].name) == 1


def test_a_whole_bundle_asks_no_index(host, medium, index):
    done = host.install_sh(medium(), "--index", index.simple_url)
    assert done.returncode == 0, done.stderr
    assert "✓ wheels: all are in the bundle" in done.stderr
    assert index.asked == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_no_process_speaks_to_anybody_but_the_index(host, lean, index, tmp_path):
    log = tmp_path / "trace"
    env = {"UV_DEFAULT_INDEX": "http://127.0.0.2:1/simple", "HTTP_PROXY": "http://127.0.0.3:1"}
    done = host.install_sh(
        lean(real_uv=True), "--index", index.simple_url, env=env, wrap=traced(log)
    )
    assert done.returncode == 0, done.stderr
    assert addresses(log, "sh") == {("127.0.0.1", urlsplit(index.url).port)}
    assert reached(log, "sh")[1] == []


@pytest.mark.namespace
@pytest.mark.skipif(not allowed("unshare", "-rn"), reason="no network namespaces here")
@pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here")
def test_the_fence_lets_the_index_through_where_it_is_the_only_host(host, lean, wheels):
    program = [sys.executable, "-m", "tests.support.lone_index", str(wheels[0].parent)]
    tiny = lean(real_uv=True)
    wrap = ("unshare", "-rn", "env", f"PYTHONPATH={CHECKOUT}", *program)
    done = host.install_sh(tiny, "--index", lone_index.URL, wrap=wrap)
    assert done.returncode == 0, done.stderr
    found = receipt(host)["silence"]
    assert found["installer"] == f"fenced, except for {lone_index.HOST}"
    assert found["routes"] == []


def test_the_command_of_an_installation_takes_an_index_too(host, lean, index, cli):
    tiny = lean()
    arguments = ["install", tiny.root, "--expect", tiny.id, "--prefix", host.prefix]
    assert cli(*arguments).code == 3
    ended = cli(*arguments, "--index", index.simple_url, "--json")
    assert ended.code == 0, ended.err
    assert host.current() == 1
