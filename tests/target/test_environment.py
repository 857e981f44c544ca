"""One environment rule: the installer, its smoke test and what is started later have the same."""

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from llava_pack.serve.origin import KEPT, deciding
from llava_pack.target import environment, launcher, programs
from llava_pack.target.environment import chosen, kept, left_out, troublemakers
from tests.support.bundle import CHECKOUT, SMOKE_PASSES
from tests.support.sources import parsed
from tests.target.conftest import Served

SHELLS = ("dash", "bash", "bash --posix", "busybox ash")
NASTY = {
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "no_proxy": "fd00::/8,[::1]",
    "SSL_CERT_FILE": "/nowhere/ca.pem",
    "LD_LIBRARY_PATH": "/nowhere/lib",
    "PYTHONPATH": "/nowhere/python",
    "PYTHONHOME": "/nowhere/home",
    "HF_HUB_OFFLINE": "0",
    "TRANSFORMERS_CACHE": "/nowhere/cache",
    "UV_INDEX_URL": "http://127.0.0.1:9/",
    "PIP_CONFIG_FILE": "/nowhere/pip.conf",
    "MY_OWN": "two\nlines; $(false) `false` \"'\\",
}
SAID = "ALL_PROXY, HF_HUB_OFFLINE, LD_LIBRARY_PATH, SSL_CERT_FILE, TRANSFORMERS_CACHE, no_proxy"


def names_in(text):
    return (
        re.search(r"for name in ([A-Z_a-z\s\\]+?)( \$keep)?; do", text)[1].replace("\\", "").split()
    )


def test_the_list_of_install_sh_is_the_owner_s():
    script = (CHECKOUT / "installers/install.sh").read_text()
    assert sorted(names_in(script)) == sorted(environment.INSTALLER)
    assert f"PATH={programs.SEARCH_PATH} " in script
    for shared in ("CALLER_NAMES=", "CALLER_LANGUAGE=zh", "POSIXLY_CORRECT=1\n"):
        assert shared in script
        assert shared in launcher.text("tiny")


def test_the_program_hands_on_all_that_the_installer_had_and_no_troublemaker():
    told = names_in(launcher.text("tiny"))
    assert told == list(environment.PROGRAM)
    assert set(told) >= set(environment.INSTALLER) >= set(environment.ENGINE)
    assert set(KEPT) <= set(told)
    assert troublemakers(told) == ()
    assert troublemakers(NASTY) == tuple(SAID.split(", "))


@pytest.fixture
def program(tmp_path):
    """Return how the program of a prefix runs, whose Python shows its environment."""
    (tmp_path / "bin").mkdir()
    (tmp_path / launcher.PLACE).write_text(f"{tmp_path}\n")
    path = tmp_path / "bin/llava-pack"
    path.write_text(launcher.text("tiny"))
    python = tmp_path / "models/tiny/generations/1/venv/bin/python"
    python.parent.mkdir(parents=True)
    (tmp_path / "models/tiny/current").symlink_to("generations/1")
    python.write_text('#!/bin/sh\n[ "$2" = -S ] || exec env -0\n')
    python.chmod(0o755)

    def run(*arguments, shell="dash", env):
        done = subprocess.run(
            [*shell.split(), str(path), *arguments], env=env, capture_output=True, check=True
        )
        assert done.stderr == b""
        pairs = os.fsdecode(done.stdout).rstrip("\0").split("\0")
        return dict(pair.partition("=")[::2] for pair in pairs)

    return run


@pytest.mark.parametrize("shell", SHELLS)
def test_what_libraries_would_read_is_left_out_and_told(program, tmp_path, shell):
    own = {"HOME": "/h o", "COLUMNS": "80", "XDG_STATE_HOME": '$x"`', "NOTIFY_SOCKET": "@a\nb"}
    seen = program("serve", shell=shell, env={**NASTY, **own, "PATH": os.environ["PATH"]})
    told = seen.pop("CALLER_NAMES").split()
    assert {*told} >= {*NASTY, *own}
    assert left_out({**seen, "CALLER_NAMES": " ".join(told)}) == tuple(SAID.split(", "))
    added = {"PATH": programs.SEARCH_PATH, "LLAVA_PACK_PREFIX": str(tmp_path), "CALLER_KEPT": ""}
    by_shells = {"PWD", "OLDPWD", "SHLVL", "_", "POSIXLY_CORRECT", "LINES", "TERM"}
    assert {k: v for k, v in seen.items() if k not in by_shells} == {**own, **added}


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_named_is_kept(program, shell):
    words = ["serve", "--keep-env", "MY_OWN", "--port", "1", "--keep-env=ALL_PROXY"]
    words += ["--keep-env", "a$(exit)b", "--keep-env", "PATH", "--", "--keep-env", "no_proxy"]
    seen = program(*words, shell=shell, env={**NASTY, "PATH": "/usr/bin:/bin:/other"})
    for name in ("MY_OWN", "ALL_PROXY", "no_proxy"):
        assert seen[name] == NASTY[name]
    assert seen["PATH"] == "/usr/bin:/bin:/other"
    assert "LD_LIBRARY_PATH" not in seen
    assert "ALL_PROXY" not in left_out(seen)


@pytest.mark.parametrize("shell", SHELLS)
def test_what_an_installation_was_tested_with_is_kept_by_itself(program, tmp_path, shell):
    path = tmp_path / "bin/llava-pack"
    path.write_text(launcher.text("tiny", ["MY_OWN", "GONE", "x$(exit 9)", "';exit 9;'"]))
    seen = program("health", "--keep-env=no_proxy", shell=shell, env=NASTY)
    assert {name for name in NASTY if name in seen} == {"MY_OWN", "no_proxy"}
    assert seen["MY_OWN"] == NASTY["MY_OWN"]
    assert chosen(seen) == ("MY_OWN", "GONE", "no_proxy")
    assert deciding(seen, ["health"]).keys() >= {"MY_OWN", "no_proxy", "CALLER_KEPT"}
    forged = program("--keep-env", "CALLER_KEPT", shell=shell, env={"CALLER_KEPT": "LD_PRELOAD"})
    assert chosen(forged) == ("MY_OWN", "GONE")


def test_the_shell_and_the_code_read_the_same_option():
    words = ["--keep-env", "A", "--port", "1", "--keep-env=B", "--keep-env", "--keep-env", "C"]
    assert kept(words)[:2] == ("A", "B")
    assert deciding({"A": "1", "D": "2"}, words) == {"A": "1"}


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_chinese_is_told_as_install_sh_tells_it(program, shell):
    def language(**env):
        return program("serve", shell=shell, env=env).get("CALLER_LANGUAGE")

    assert language(LANG="zh_CN.UTF-8") == "zh"
    assert language(LANG="zh_CN.UTF-8", LC_ALL="C.UTF-8") is None
    assert language(LANG="en_US.UTF-8", LANGUAGE="zh_CN") == "zh"
    assert language(LANG="zh_CN.GB2312") is None


def test_the_installer_names_what_it_leaves_out(host, medium):
    done = host.install_sh(medium(), "--json", env=NASTY)
    assert done.returncode == 0, done.stderr
    assert f"✓ environment: {SAID}: left out here and by bin/llava-pack" in done.stderr
    [receipt] = host.prefix.glob("models/tiny/generations/1/receipt.json")
    facts = {one["name"]: one for one in json.loads(receipt.read_text())["preflight"]}
    assert SAID in facts["environment"]["value"]


NEEDY = f"import os\nassert os.environ['MY_OWN'] == {NASTY['MY_OWN']!r}\n{SMOKE_PASSES}"
"""A smoke test that needs a variable of the site's."""
KEEPING = ("--keep-env", "MY_OWN", "--keep-env=ALL_PROXY")


def proof(host, number=1):
    path = host.prefix / f"models/tiny/generations/{number}/receipt.json"
    return json.loads(path.read_text())


def kept_by_the_program(host):
    text = (host.prefix / "bin/llava-pack").read_text()
    return re.search(r"keep='(.*)' next=no", text)[1].split()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_smoke_test_runs_with_what_is_kept_and_so_does_what_serves(host, medium, shell):
    needy = medium(smoke=NEEDY)
    assert host.install_sh(needy, shell=shell, env=NASTY).returncode == 14
    done = host.install_sh(needy, *KEEPING, "--keep-env", "GONE", shell=shell, env=NASTY)
    assert done.returncode == 0, done.stderr
    assert "kept here and by bin/llava-pack: ALL_PROXY, MY_OWN" in done.stderr
    assert "! environment: HF_HUB_OFFLINE, LD_LIBRARY_PATH" in done.stderr
    assert "missing, though named or kept until now: GONE" in done.stderr
    assert "the same command with --keep-env GONE" in done.stderr
    receipt = proof(host)
    assert receipt["kept"] == kept_by_the_program(host) == ["ALL_PROXY", "MY_OWN"]
    assert NASTY["ALL_PROXY"] not in json.dumps(receipt)
    assert NASTY["ALL_PROXY"] not in (host.prefix / "bin/llava-pack").read_text()


@pytest.mark.parametrize("words", [["--keep-env"], ["--keep-env", ""], ["--keep-env="]])
@pytest.mark.parametrize("shell", ["dash", "busybox ash"])
def test_an_option_without_a_name_is_refused(host, medium, shell, words):
    done = host.install_sh(medium(), *words, shell=shell)
    assert done.returncode == 2
    assert "--keep-env needs the name of a variable" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["PATH", "LC_ALL", "CALLER_PATH", "CALLER_NAMES", "PYTHONPATH", "1A", "a b", "$(id)", "*"],
)
def test_what_an_installation_sets_itself_no_option_brings_in(host, medium, cli, tmp_path, name):
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "tr").write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    (trap / "tr").chmod(0o755)
    bundle = medium()
    path = f"{trap}:{os.environ['PATH']}"
    done = host.install_sh(bundle, "--keep-env", name, env={"PATH": path, "PYTHONPATH": str(trap)})
    assert done.returncode == 2
    assert "--keep-env needs the name of a variable" in done.stderr
    assert not (tmp_path / "sprung").exists()
    place = ("--prefix", host.prefix, "--expect", bundle.id)
    assert cli("install", bundle.root, *place, "--keep-env", name).code == 2
    assert not host.prefix.exists()


def test_an_upgrade_keeps_what_was_kept_and_says_what_it_does_not(host, medium, cli, monkeypatch):
    assert host.install_sh(medium(), *KEEPING, env=NASTY).returncode == 0
    new = medium("new", release=1_800_000_000)
    place = ("--prefix", host.prefix, "--expect", new.id)
    monkeypatch.setenv("MY_OWN", NASTY["MY_OWN"])
    monkeypatch.setenv("TZ_OF_SITE", "x")
    monkeypatch.delenv("ALL_PROXY", raising=False)
    ended = cli("install", new.root, *place, "--keep-env", "TZ_OF_SITE")
    assert ended.code == 0, ended.err
    assert "missing, though named or kept until now: ALL_PROXY (need" in ended.err
    assert proof(host, 2)["kept"] == kept_by_the_program(host) == ["MY_OWN", "TZ_OF_SITE"]
    done = host.install_sh(medium("third", release=1_900_000_000), env=NASTY)
    assert "missing, though named or kept until now: MY_OWN, TZ_OF_SITE" in done.stderr
    assert (done.returncode, proof(host, 3)["kept"], kept_by_the_program(host)) == (0, [], [])
    assert cli("revert", "--prefix", host.prefix).code == 0
    assert kept_by_the_program(host) == ["MY_OWN", "TZ_OF_SITE"]
    assert cli("revert", "--prefix", host.prefix, "--generation", "3").code == 0
    assert kept_by_the_program(host) == []


def test_the_same_bundle_is_tested_anew_for_a_name_that_it_was_not_tested_with(host, medium):
    bundle = medium()
    assert host.install_sh(bundle).returncode == 0
    for _ in range(2):
        assert host.install_sh(bundle, *KEEPING, env=NASTY).returncode == 0
        assert host.current() == 2
    assert host.install_sh(bundle, env=NASTY).returncode == 0
    assert host.current() == 2, "it was tested with more, and is what it was"
    assert kept_by_the_program(host) == ["ALL_PROXY", "MY_OWN"]


def test_another_model_takes_nothing_from_the_first_one(host, medium, cli):
    assert host.install_sh(medium(), *KEEPING, env=NASTY).returncode == 0
    assert host.install_sh(medium("other", recipe="other"), env=NASTY).returncode == 0
    assert kept_by_the_program(host) == ["ALL_PROXY", "MY_OWN"]
    assert cli("uninstall", "--recipe", "tiny", "--prefix", host.prefix).code == 0
    assert kept_by_the_program(host) == []


def environment_of(pid):
    texts = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    return dict(text.partition("=")[::2] for text in texts)


def test_a_server_that_an_upgrade_restarts_keeps_what_was_named(host, medium, monkeypatch):
    assert host.install_sh(medium()).returncode == 0
    for name, value in NASTY.items():
        if not name.startswith(("PYTHON", "LD_")):
            monkeypatch.setenv(name, value)
    served = Served(host, "--keep-env", "MY_OWN", "--keep-env=ALL_PROXY")
    try:
        before = environment_of(served.pid)
        monkeypatch.undo()
        assert host.install_sh(medium("new", release=1_800_000_000)).returncode == 0
        assert served.until(lambda: served.answer() == 1_800_000_000), "it was not restarted"
        after = environment_of(served.pid)
    finally:
        served.stop()
    for seen in (before, after):
        assert {name for name in NASTY if name in seen} == {"MY_OWN", "ALL_PROXY"}
        assert seen["MY_OWN"] == NASTY["MY_OWN"]


def test_a_server_has_the_value_that_its_version_was_tested_with(host, medium, monkeypatch):
    assert host.install_sh(medium(), *KEEPING, env={**NASTY, "MY_OWN": "old"}).returncode == 0
    monkeypatch.setenv("MY_OWN", "old")
    monkeypatch.setenv("ALL_PROXY", NASTY["ALL_PROXY"])
    served = Served(host)
    try:
        before = environment_of(served.pid)
        monkeypatch.undo()
        crashing = medium("crashing", release=1_800_000_000, fate="crashes")
        assert host.install_sh(crashing).returncode == 14
        assert served.until(lambda: served.answer() == 1_700_000_000), "it was not started again"
        reverted = environment_of(served.pid)
        new = medium("new", release=1_900_000_000)
        keeping = ("--keep-env", "MY_OWN", "--keep-env", "NEW")
        assert host.install_sh(new, *keeping, env={"MY_OWN": "new", "NEW": "n"}).returncode == 0
        assert served.until(lambda: served.answer() == 1_900_000_000), "it was not restarted"
        after = environment_of(served.pid)
    finally:
        served.stop()
    for seen in (before, reverted):
        assert (seen["MY_OWN"], seen["ALL_PROXY"]) == ("old", NASTY["ALL_PROXY"])
    assert (after["MY_OWN"], after["NEW"], "ALL_PROXY" in after) == ("new", "n", False)


LAPTOP = frozenset(
    [
        *("HF_ENDPOINT", "HF_TOKEN", "HF_HOME", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"),
        *("MODELSCOPE_API_TOKEN", "SOURCE_DATE_EPOCH", "NETRC", "LOCALAPPDATA", "SSL_CERT_FILE"),
        *("SSL_CERT_DIR", "SYSTEMROOT", "PROGRAMFILES", "PATH", "XDG_CONFIG_DIRS", "UV_NO_CONFIG"),
        *("UV_CONFIG_FILE", "UV_DEFAULT_INDEX", "no_proxy", "NO_PROXY"),
        *("LD_LIBRARY_PATH", "index-url"),
    ]
)
"""Read where bundles are built; on a server by `--keep-env`, or by nobody."""
MADE = frozenset({"CALLER_LANGUAGE", "CALLER_NAMES", "LLAVA_PACK_PREFIX"})
"""By install.sh and bin/llava-pack themselves."""


def reads(tree):
    """Yield every name that a module reads of an environment, where it is written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(
            r"environ\w*\.(get|pop)$", ast.unparse(node.func)
        ):
            yield from (one.value for one in node.args[:1] if isinstance(one, ast.Constant))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            yield from [node.slice.value] if isinstance(node.slice, ast.Constant) else []
        if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]).endswith("environ"):
            yield from [node.left.value] if isinstance(node.left, ast.Constant) else []


def test_every_variable_that_is_read_was_decided_on():
    found = {
        (name, path.name)
        for path in (CHECKOUT / "llava_pack").rglob("*.py")
        for name in reads(parsed(path))
    }
    assert ("SSH_CONNECTION", "planning.py") in found
    decided = {*environment.PROGRAM, *LAPTOP, *MADE}
    assert not {one for one in found if one[0] not in decided}
