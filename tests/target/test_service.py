"""`llava-pack service`: units that systemd itself accepts, and what is done to have them."""

import json
import os
import re
import shutil
import subprocess

import pytest

from llava_pack.cli.server import service
from llava_pack.installation import unit
from llava_pack.serve.access.key import digest_of
from llava_pack.serve.access.key_store import KeyStore
from tests.conftest import ROOT

MOST_EXPOSED = 3.0
"""Of 10, as `systemd-analyze security` counts; an ordinary service without any care has 9.6."""


@pytest.fixture
def installed(host, medium):
    assert host.install_sh(medium()).returncode == 0
    return host


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """Have a systemctl and a loginctl that write down what they were asked, and a place for units.

    A systemd that runs as process 1 cannot be had here; that it takes the units is asked of the
    real `systemd-analyze`.
    """
    programs, log = tmp_path / "programs", tmp_path / "asked"
    programs.mkdir()
    for name in ("systemctl", "loginctl"):
        script = f'#!/bin/sh\necho "{name} $*" >>"{log}"\n[ ! -e "{tmp_path}/broken" ] || exit 1\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    log.write_text("")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(service, "_SYSTEMD", programs)
    monkeypatch.setattr(unit, "_SYSTEM_UNITS", tmp_path / "system")
    return lambda: log.read_text().splitlines()


def unit_of(cli, host, *arguments):
    ended = cli("service", "show", "--prefix", host.prefix, *arguments)
    assert ended.code == 0, ended.err
    return ended.out


def test_the_service_of_an_account(installed, systemd, cli, tmp_path):
    ended = cli(
        "service", "install", "--user", "--prefix", installed.prefix, "tiny", "--", "--port", "7861"
    )
    assert ended.code == 0, ended.err
    assert ended.out == f"{installed.prefix}/bin/llava-pack tunnel\n"
    unit = tmp_path / "config/systemd/user/llava-pack.service"
    program = installed.prefix / "bin/llava-pack"
    assert f'ExecStart="{program}" "serve" "tiny" "--port" "7861"\n' in unit.read_text()
    assert systemd() == [
        "loginctl enable-linger",
        "systemctl --user daemon-reload",
        "systemctl --user enable llava-pack",
        "systemctl --user restart llava-pack",
    ]
    assert cli("service", "show", "--prefix", installed.prefix, "--", "--detach").code == 2
    assert cli("service", "remove", "--user").code == 0
    assert not unit.exists()
    assert "systemctl --user disable --now llava-pack" in systemd()
    assert cli("service", "remove", "--user").code == 2


def test_the_service_of_a_system_runs_as_an_account_of_its_own(installed, systemd, cli, tmp_path):
    ended = cli("service", "install", "--system", "--prefix", installed.prefix)
    assert ended.code == (2 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        assert "expected --account" in ended.err
    arguments = ["--system", "--prefix", installed.prefix, "--account"]
    assert cli("service", "install", *arguments, "nobody-of-this-name").code == 2
    if os.geteuid() == 0:
        assert cli("service", "install", *arguments, "daemon").code == 0
        assert "User=daemon\n" in (tmp_path / "system/llava-pack.service").read_text()
        assert {(installed.prefix / name).owner() for name in ("run", "logs", "keys")} == {"daemon"}
        assert "systemctl restart llava-pack" in systemd()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root adds keys for another account")
def test_keys_that_root_added_first_are_the_service_s(installed, systemd, cli, tmp_path):
    keys = installed.prefix / "keys/keys.json"
    assert cli("keys", "add", "ann", "--file", keys).code == 0
    ended = cli("service", "install", "--prefix", installed.prefix, "--account", "daemon")
    assert (ended.code, keys.owner()) == (0, "daemon"), ended.err


@pytest.mark.parametrize("scope", ["--user", "--system"])
def test_a_service_without_keys_gets_one_that_outlives_its_starts(
    installed, systemd, cli, tmp_path, scope, monkeypatch
):
    if scope == "--system" and os.geteuid() != 0:
        pytest.skip("only root installs a system service for another account")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    account = ["--account", "daemon"] if scope == "--system" else []
    install = ["service", "install", scope, "--prefix", installed.prefix, *account]
    ended = cli(*install)
    path = installed.prefix / "client-key"
    assert (ended.code, f"cat {path}" in ended.err) == (0, True), ended.err
    assert (path.stat().st_mode & 0o777, path.owner()) == (0o600, installed.prefix.owner())
    text = path.read_text().strip()
    assert text not in ended.out + ended.err
    store = KeyStore(installed.prefix / "keys/keys.json")
    [key] = store.read()
    assert (key.name, key.digest, key.scopes) == ("service", digest_of(text), ("ask", "page"))
    # what root made for the account, the account can read
    assert store.path.owner() == ("daemon" if account else installed.prefix.owner())
    again = cli(*install, "--json")
    assert (again.code, json.loads(again.out)["key_file"]) == (0, None)
    assert (path.read_text().strip(), store.read()) == (text, (key,))


def test_a_service_with_keys_of_its_own_gets_none(installed, systemd, cli, tmp_path):
    install = ["service", "install", "--user", "--prefix", installed.prefix]
    for own in (["--api-key-file", "/team"], ["--keys=/people/keys.json"], ["--no-token"]):
        assert cli(*install, "--", *own).code == 0
    assert not (installed.prefix / "client-key").exists()
    assert cli("keys", "add", "ann", "--file", installed.prefix / "keys/keys.json").code == 0
    assert cli(*install).code == 0
    assert not (installed.prefix / "client-key").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("plant", ["a link", "a file"])
def test_what_was_put_where_folders_are_given_is_not_given_away(
    installed, systemd, cli, tmp_path, plant
):
    precious = tmp_path / "precious"
    precious.mkdir() if plant == "a link" else precious.touch()
    run = installed.prefix / "run"
    run.symlink_to(precious) if plant == "a link" else os.link(precious, run)
    ended = cli("service", "install", "--prefix", installed.prefix, "--account", "daemon")
    assert ended.code == 14, ended.err
    assert precious.owner() == "root"
    assert systemd() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes another account's prefix")
def test_an_account_serves_from_its_own_prefix_or_from_root_s(installed, systemd, cli):
    for path in (installed.prefix, *installed.prefix.rglob("*")):
        os.lchown(path, 1, 1)
    arguments = ["service", "show", "--system", "--prefix", installed.prefix]
    assert "User=daemon\n" in cli(*arguments).out
    ended = cli(*arguments, "--account", "bin")
    assert ended.code == 3
    assert "it belongs to daemon, expected bin or root" in ended.err


def test_what_systemd_cannot_do_is_said(installed, systemd, cli, tmp_path, monkeypatch):
    (tmp_path / "broken").touch()
    ended = cli("service", "install", "--user", "--prefix", installed.prefix)
    assert ended.code == 14
    assert "journalctl --user -u llava-pack shows why" in ended.err
    monkeypatch.setattr(service, "_SYSTEMD", tmp_path / "nowhere")
    ended = cli("service", "install", "--user", "--prefix", installed.prefix)
    assert (ended.code, "systemd is not running here" in ended.err) == (3, True)
    nothing = ["--user", "--prefix", tmp_path / "empty"]
    assert cli("service", "show", *nothing).code == 14
    assert cli("service", "remove", "--user", "--name", "../ssh").code == 2


def test_no_value_ends_its_line_or_is_expanded(host, medium, cli):
    host.prefix = host.prefix / 'a %n "quoted" $HOME \\ prefix'
    assert host.install_sh(medium()).returncode == 0
    text = unit_of(cli, host, "--user")
    escaped = str(host.prefix).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    assert f'ExecStart="{escaped.replace("$", "$$")}/bin/llava-pack" "serve"\n' in text
    assert f'Environment="LLAVA_PACK_PREFIX={escaped}"\n' in text
    bad = cli("service", "show", "--user", "--prefix", host.prefix, "--", "--host\nUser=root")
    assert bad.code == 2


@pytest.mark.parametrize("unit", ["llava-pack", "llava-pack-user"])
def test_a_unit_lets_what_serves_raise_its_fence(unit):
    """A filter of systemd 252 leaves these four out of every group."""
    lines = (ROOT / f"installers/units/{unit}.service").read_text().splitlines()
    allowed = {
        word
        for line in lines
        if line.startswith("SystemCallFilter=") and "~" not in line
        for word in line.partition("=")[2].split()
    }
    raised = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"}
    assert raised <= allowed


@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_a_unit_notifies_restarts_on_a_stall_and_starts_at_boot(installed, cli, scope):
    account = ["--account", "daemon"] if scope == "--system" else []
    text = unit_of(cli, installed, scope, *account)
    for line in ("Type=notify", "WatchdogSec=60s", "Restart=on-failure", "NoNewPrivileges=yes"):
        assert f"\n{line}\n" in text
    assert re.search(r"\nWantedBy=(multi-user|default)\.target\n", text)
    assert "\nStandardOutput=null\n" in text, "the page's address holds the token"
    assert "@" not in re.sub(r"@(system-service|privileged)|~@", "", text)
    silent = "IPAddressDeny=any" in text
    assert silent == (scope == "--system")
    if silent:
        outside = unit_of(cli, installed, scope, *account, "--", "--host", "0.0.0.0")
        assert "IPAddressDeny" not in outside
        outside = unit_of(cli, installed, scope, *account, "--", "--host=192.0.2.7")
        assert "IPAddressDeny" not in outside


ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed here")
@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_systemd_itself_takes_the_unit(host, medium, cli, tmp_path, scope):
    host.prefix = host.prefix / "a space"
    assert host.install_sh(medium()).returncode == 0
    account = ["--account", "daemon"] if scope == "--system" else []
    path = tmp_path / "llava-pack.service"
    path.write_text(unit_of(cli, host, scope, *account))
    done = subprocess.run([ANALYZE, "verify", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if scope == "--system":
        command = [ANALYZE, "security", "--offline=yes", "--no-pager", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        exposure = re.search(r"exposure level for llava-pack\.service: ([\d.]+)", said)
        assert float(exposure[1]) <= MOST_EXPOSED, said


def test_a_unit_has_the_value_of_what_is_kept(installed, cli, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", 'http://a"b%c\\d')
    monkeypatch.setenv("OTHER", "no")
    text = unit_of(cli, installed, "--user", "--", "--keep-env", "HTTPS_PROXY", "--keep-env=GONE")
    escaped = 'http://a\\"b%%c\\\\d'
    prefix = f'"LLAVA_PACK_PREFIX={installed.prefix}"'
    assert f'\nEnvironment={prefix} "HTTPS_PROXY={escaped}"\n' in text
    monkeypatch.setenv("CALLER_KEPT", "OTHER GONE")
    of_the_installation = unit_of(cli, installed, "--user")
    assert f'\nEnvironment={prefix} "OTHER=no"\n' in of_the_installation
    monkeypatch.setenv("HTTPS_PROXY", "two\nlines")
    ended = cli("service", "show", "--prefix", installed.prefix, "--", "--keep-env", "HTTPS_PROXY")
    assert (ended.code, "two" in ended.err) == (2, False)


def test_what_a_unit_holds_for_every_account_to_read_is_said(installed, systemd, cli, monkeypatch):
    monkeypatch.setenv("CALLER_KEPT", "OTHER GONE")
    monkeypatch.setenv("OTHER", "a value")
    ended = cli("service", "install", "--user", "--prefix", installed.prefix)
    assert (ended.code, "a value" in ended.err) == (0, False), ended.err
    assert "every account can read in the unit: OTHER\n" in ended.err


def test_a_unit_that_names_the_old_place_is_named(installed, systemd, cli, tmp_path):
    odd = installed.prefix.with_name('odd "$x" %y \\z')
    installed.prefix.rename(odd)
    assert cli("service", "install", "--user", "--prefix", odd).code == 0
    assert unit.astray() == ()
    odd.rename(installed.prefix)
    path = tmp_path / "config/systemd/user/llava-pack.service"
    assert unit.astray() == ((path, f"{odd}/bin/llava-pack"),)
    ended = cli("status")
    assert f"! {path} starts {odd}/bin/llava-pack, which is not there" in ended.err


NODES = {
    "a head": ["--nodes", "2", "--address", "127.0.0.9"],
    "a node": ["--join", "127.0.0.9:29500", "--rank", "1", "--fingerprint", "ab" * 32],
}
"""As loopback's network has them: a machine of tests has no other for certain."""


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed here")
@pytest.mark.parametrize("which", NODES)
@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_a_unit_of_several_nodes_reaches_their_network_alone(
    installed, cli, tmp_path, scope, which
):
    account = ["--account", "daemon"] if scope == "--system" else []
    path = tmp_path / "llava-pack-node.service"
    path.write_text(unit_of(cli, installed, scope, *account, "--", *NODES[which]))
    done = subprocess.run([ANALYZE, "verify", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if scope == "--system":
        lines = path.read_text().splitlines()
        assert "IPAddressDeny=any" in lines
        assert "IPAddressAllow=localhost 127.0.0.0/8" in lines


def test_a_node_as_a_service_keeps_the_key_of_its_head(
    installed, systemd, cli, monkeypatch, tmp_path
):
    monkeypatch.setenv("LLAVA_PACK_JOIN_KEY", "k" * 43)
    ended = cli(
        *("service", "install", "--user", "--prefix", installed.prefix),
        *("--", *NODES["a node"]),
    )
    assert ended.code == 0, ended.err
    assert ended.out == f"{installed.prefix}/bin/llava-pack status\n"
    [kept] = (installed.prefix / "run").glob("join-key-*")
    assert kept.read_text() == "k" * 43 + "\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    unit = tmp_path / "config/systemd/user/llava-pack.service"
    assert "k" * 43 not in unit.read_text()
    assert not list((installed.prefix / "run").glob("keys/*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to accounts")
def test_root_gives_the_key_to_the_account_and_follows_no_link(
    installed, systemd, cli, monkeypatch, tmp_path
):
    run = installed.prefix / "run"
    run.mkdir(exist_ok=True)
    precious = tmp_path / "precious"
    precious.write_text("root's")
    monkeypatch.setenv("LLAVA_PACK_JOIN_KEY", "k" * 43)
    command = [
        "service",
        "install",
        "--system",
        "--account",
        "daemon",
        "--prefix",
        installed.prefix,
    ]
    assert cli(*command, "--", *NODES["a node"]).code == 0
    [kept] = run.glob("join-key-*")
    assert kept.stat().st_uid != 0
    kept.unlink()
    kept.symlink_to(precious)
    monkeypatch.setenv("LLAVA_PACK_JOIN_KEY", "n" * 43)
    assert cli(*command, "--", *NODES["a node"]).code == 0
    assert precious.read_text() == "root's"
    assert kept.read_text() == "n" * 43 + "\n"
