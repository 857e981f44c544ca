"""Attacks on a bundle and around it, and for each check the change that would let one through.

An attack fails where everything is as it is. Where one check is taken out of the sources, the same
attack succeeds: so the check is there for a reason, and the attack would tell if it went missing.
"""

import os
import py_compile
import re
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.support import bundle as simulator
from tests.support.bundle import BASE_PYTHON, CHECKOUT, PYTHON_MINOR, SMOKE_PASSES, change, seal
from tests.support.keys import Publisher, new_publisher, openssl, other_key
from tests.target.conftest import Medium
from tests.target.namespaces import AS_A_USER, allowed, covering, may_mount
from tests.target.trees import changed_tree

MAIN = "installer/llava_pack/target/main.py"
WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
ARCHIVE = f"runtime/cpython-{PYTHON_MINOR}-test.tar.gz"


@dataclass
class Scene:
    """A host, a medium, keys, and a file that exists where foreign code ran."""

    host: object
    medium: Callable
    publisher: Publisher
    stranger: Publisher
    folder: Path

    @property
    def ran(self):
        return self.folder / "ran"

    @property
    def evil(self):
        return f"open({str(self.ran)!r}, 'w').close()\n"

    def poison(self, path):
        """Let a Python file do something else first."""
        change(path, lambda data: self.evil.encode() + data)

    def refused(self, done, code):
        """Assert that it ended with this code before anything foreign ran."""
        assert not self.ran.exists()
        assert done.returncode == code, done.stderr

    def fake(self, name, lines):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return path


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return new_publisher(folder, "publisher"), new_publisher(folder, "stranger")


@pytest.fixture
def scene(host, medium, people, tmp_path):
    return Scene(host, medium, *people, tmp_path)


def a_changed_installer(scene):
    bad = scene.medium()
    scene.poison(bad.root / MAIN)
    scene.refused(scene.host.install_sh(bad), 4)


def another_bundle(scene):
    bad = scene.medium()
    scene.poison(bad.root / MAIN)
    seal(bad.root)
    scene.refused(scene.host.install_sh(bad), 5)


def nothing_to_verify_against(scene):
    bad = scene.medium()
    scene.poison(bad.root / MAIN)
    seal(bad.root)
    scene.refused(scene.host.install_sh(bad, expect=False), 6)


def _forged(scene, by):
    bad = scene.medium()
    scene.publisher.sign(bad.root)
    scene.poison(bad.root / MAIN)
    seal(bad.root)
    if by is not None:
        by.sign(bad.root)
    return bad


def a_forged_bundle_for_a_trusted_key(scene):
    key = ["--trust-key", str(scene.publisher.public_file)]
    scene.refused(scene.host.install_sh(_forged(scene, None), *key, expect=False), 5)


def a_stranger_s_bundle_for_a_pinned_key(scene):
    (scene.host.prefix / "trust").mkdir(parents=True)
    (scene.host.prefix / "trust/key.pem").write_bytes(scene.publisher.signer.public.pem)
    bad = _forged(scene, scene.stranger)
    key = ["--trust-key", scene.stranger.fingerprint]
    scene.refused(scene.host.install_sh(bad, *key, expect=False), 5)
    scene.refused(scene.host.install_sh(bad), 5)


def a_stranger_s_key_under_a_typed_fingerprint(scene):
    bad = _forged(scene, scene.stranger)
    key = ["--trust-key", scene.publisher.fingerprint]
    scene.refused(scene.host.install_sh(bad, *key, expect=False), 5)


def a_key_from_the_medium_itself(scene):
    bad = _forged(scene, scene.stranger)
    key = ["--trust-key", str(bad.root / "key.pem")]
    scene.refused(scene.host.install_sh(bad, *key, expect=False), 2)


def a_key_on_another_curve(scene):
    path = scene.folder / "sm2.pem"
    path.write_bytes(
        other_key(scene.folder, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2")[1]
    )
    assert len(openssl("pkey", "-pubin", "-in", path, "-outform", "DER")) == 91
    done = scene.host.install_sh(_forged(scene, None), "--trust-key", str(path), expect=False)
    scene.refused(done, 2)


def one_signature_by_the_key_and_one_by_a_stranger(scene):
    bad = _forged(scene, scene.publisher)
    kept = (bad.root / "SHA256SUMS.sig").read_bytes()
    scene.stranger.sign(bad.root)
    (bad.root / "SHA256SUMS.sig").write_bytes(kept)
    key = ["--trust-key", str(scene.publisher.public_file)]
    scene.refused(scene.host.install_sh(bad, *key, expect=False), 5)


def an_openssl_that_is_content_with_anything(scene):
    bad = _forged(scene, scene.stranger)
    tool = scene.fake("content", "exit 0")
    wrap = covering({shutil.which(name): tool for name in ("openssl", "ssh-keygen")})
    key = ["--trust-key", str(scene.publisher.public_file)]
    scene.refused(scene.host.install_sh(bad, *key, expect=False, wrap=wrap), 6)


def a_module_that_shadows_the_stdlib(scene):
    bad = scene.medium()
    (bad.root / "installer/json.py").write_text(scene.evil)
    scene.refused(scene.host.install_sh(bad), 4)


def bytecode_beside_the_source(scene):
    bad = scene.medium()
    source, evil = bad.root / MAIN, scene.folder / "evil.py"
    evil.write_text(scene.evil)
    cache = source.parent / "__pycache__"
    cache.mkdir()
    compiled = cache / f"main.cpython-{PYTHON_MINOR.replace('.', '')}.pyc"
    py_compile.compile(str(evil), cfile=str(compiled), dfile=str(source))
    facts = source.stat()
    stamp = int(facts.st_mtime).to_bytes(4, "little") + facts.st_size.to_bytes(4, "little")
    change(compiled, lambda data: data[:8] + stamp + data[16:])
    scene.refused(scene.host.install_sh(bad), 4)


def settings_of_python(scene):
    trap = scene.folder / "trap"
    trap.mkdir()
    for name in ("sitecustomize.py", "usercustomize.py", "json.py"):
        (trap / name).write_text(scene.evil)
    env = {"PYTHONPATH": str(trap), "PYTHONSTARTUP": str(trap / "json.py")}
    scene.refused(scene.host.install_sh(scene.medium(), env=env, cwd=trap), 0)


def settings_of_the_caller(scene):
    names = ("LD_X", "PYTHONX", "UV_X", "PIP_X", "OPENSSL_CONF", "TAR_OPTIONS", "GZIP")
    names += ("ENV", "BASH_ENV", "CDPATH")
    seen = scene.folder / "seen"
    bundle = scene.medium(extra=_python_that(f"env >>{seen}"))
    scene.refused(scene.host.install_sh(bundle, env=dict.fromkeys(names, "")), 0)
    handed_on = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert "PATH" in handed_on
    assert not handed_on & set(names)


def settings_of_the_linker(scene):
    """Its own log of what it started; the shell itself and what it starts anew with come before."""
    env = {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": str(scene.folder / "linked")}
    scene.refused(scene.host.install_sh(scene.medium(), env=env), 0)
    said = "".join(path.read_text() for path in scene.folder.glob("linked.*"))
    started = {path.rpartition("/")[2] for path in re.findall(r"initialize program: (\S+)", said)}
    assert started == {"sh", "env"}


def settings_of_openssl(scene):
    """With a configuration that leaves it no algorithm it would count as absent: 6, not 5."""
    bad = scene.medium()
    scene.publisher.sign(bad.root)
    (bad.root / "SHA256SUMS.sig").write_bytes(b"bad")
    broken = scene.folder / "openssl.cnf"
    lines = ("openssl_conf = a", "[a]", "providers = b", "[b]", "null = c", "[c]", "activate = 1")
    broken.write_text("\n".join(lines))
    wrap = covering({shutil.which("ssh-keygen"): scene.fake("absent", "exit 1")})
    key, env = ["--trust-key", str(scene.publisher.public_file)], {"OPENSSL_CONF": str(broken)}
    scene.refused(scene.host.install_sh(bad, *key, expect=False, env=env, wrap=wrap), 5)


def a_program_on_the_caller_s_path(scene):
    trap = scene.folder / "trap"
    trap.mkdir()
    scene.fake("trap/sha256sum", f'touch {scene.ran}; exec /usr/bin/sha256sum "$@"')
    env = {"PATH": f"{trap}:{Path(BASE_PYTHON).parent}:{os.environ['PATH']}"}
    scene.refused(scene.host.install_sh(scene.medium(), env=env), 0)


def a_list_without_end(scene):
    """A hole of 100 MB, where no file of more than 20 MB can be written."""
    bad = scene.medium()
    os.truncate(bad.root / "SHA256SUMS", 100_000_000)
    wrap = ("sh", "-c", 'ulimit -f 20480; exec "$@"', "sh")
    scene.refused(scene.host.install_sh(bad, wrap=wrap), 5)


def a_manifest_without_end(scene):
    bad = scene.medium()
    change(bad.root / "MANIFEST.json", lambda data: data.replace(b"bundle sim", b"A" * 9_000_000))
    typed = Medium(bad.root, seal(bad.root))
    scene.refused(scene.host.install_sh(typed), 4)


def a_name_that_steers_the_terminal(scene):
    bad = scene.medium()
    (bad.root / "\x1b]0;owned\x07").write_text("")
    done = scene.host.install_sh(bad)
    scene.refused(done, 4)
    assert "\x1b" not in done.stdout + done.stderr


def a_model_that_reaches_out(scene):
    reaching = (
        "import socket\ntry:\n    socket.getaddrinfo('example.org', 1)\nexcept OSError: pass\n"
    )
    scene.refused(scene.host.install_sh(scene.medium(smoke=reaching + SMOKE_PASSES)), 9)


def _own_medium(scene):
    """Return a bundle that only this account can write, and an account that is not root."""
    bundle = scene.medium()
    for path in (scene.folder, bundle.root.parent, bundle.root, *bundle.root.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    return bundle, AS_A_USER if os.geteuid() == 0 else ()


def weights_that_others_can_write(scene):
    bundle, wrap = _own_medium(scene)
    (bundle.root / WEIGHTS).chmod(0o666)
    scene.refused(scene.host.install_sh(bundle, wrap=wrap), 0)
    kept = scene.host.prefix / "models/tiny/current" / WEIGHTS
    assert not kept.samefile(bundle.root / WEIGHTS)


def weights_that_somebody_writes(scene):
    bundle, wrap = _own_medium(scene)
    with (bundle.root / WEIGHTS).open("r+b"):
        scene.refused(scene.host.install_sh(bundle, wrap=wrap), 0)
    kept = scene.host.prefix / "models/tiny/current" / WEIGHTS
    assert not kept.samefile(bundle.root / WEIGHTS)


def settings_of_uv(scene):
    for name in ("uv.toml", "pyproject.toml"):
        (scene.folder / name).write_text("not = [toml")
    scene.refused(scene.host.install_sh(scene.medium(real_uv=True)), 0)


def _in_place_of(scene, path, make):
    bad = scene.medium()
    (bad.root / path).rename(scene.folder / "aside")
    make(bad.root / path)
    return bad


def a_link_of_the_right_content(scene):
    aside = scene.folder / "aside"
    bad = _in_place_of(scene, MAIN, lambda path: path.symlink_to(aside))
    scene.refused(scene.host.install_sh(bad), 4)


def a_folder_that_is_a_link(scene):
    aside = scene.folder / "aside"
    bad = _in_place_of(scene, "installer", lambda path: path.symlink_to(aside))
    scene.refused(scene.host.install_sh(bad), 4)


def a_fifo_of_the_right_content(scene):
    bad = _in_place_of(scene, MAIN, os.mkfifo)
    fifo, content = bad.root / MAIN, (scene.folder / "aside").read_bytes()

    def write():
        with suppress(BrokenPipeError):
            fifo.write_bytes(content)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    done = scene.host.install_sh(bad)
    if writer.is_alive():
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    writer.join()
    scene.refused(done, 4)


def _device_at(scene, path):
    """Put a device of the right content, none, in place of an empty file."""
    bad = scene.medium(extra={"installer/empty": b""}, weights=b"")
    (bad.root / path).unlink()
    os.mknod(bad.root / path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    scene.refused(scene.host.install_sh(bad), 4)


def a_device_to_start_from(scene):
    _device_at(scene, "installer/empty")


def a_device_as_weights(scene):
    _device_at(scene, WEIGHTS)


def _python_that(lines):
    """Return a Python archive whose interpreter does something to the medium before it starts."""
    script = f'#!/bin/sh\n{lines}\nexec "{BASE_PYTHON}" "$@"\n'.encode()
    data = BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        member = tarfile.TarInfo("python/bin/python3")
        member.size, member.mode = len(script), 0o755
        archive.addfile(member, BytesIO(script))
    return {ARCHIVE: data.getvalue()}


def an_installer_that_changes_after_it_was_checked(scene):
    root, other = scene.folder / "media/bundle", scene.folder / "evil.py"
    other.write_text(scene.evil)
    swap = f"cat {other} >{root}/{MAIN}"
    scene.refused(scene.host.install_sh(scene.medium(extra=_python_that(swap))), 4)


def weights_that_change_after_the_list_was_checked(scene):
    root = scene.folder / "media/bundle"
    swap = f"printf 'weights of a very other model' >{root}/{WEIGHTS}"
    scene.refused(scene.host.install_sh(scene.medium(extra=_python_that(swap))), 4)


def a_script_that_changes_while_it_runs(scene):
    script = scene.folder / "install.sh"
    shutil.copy2(simulator.CHECKOUT / "installers/install.sh", script)
    swap = f"echo 'touch {scene.ran}' >>{script}"
    bundle = scene.medium(extra=_python_that(swap))
    for shell in ("dash", "bash --posix", "busybox ash"):
        scene.refused(scene.host.install_sh(bundle, script=script, body=shell), 0)


def names_that_climb(scene):
    bad = scene.medium()
    path = "installer/../../escaped"
    (bad.root / path).write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    change(bad.root / "SHA256SUMS", lambda data: data + f"{empty}  {path}\n".encode())
    typed = openssl("dgst", "-sha256", "-r", bad.root / "SHA256SUMS").split()[0].decode()
    done = scene.host.install_sh(
        bad, "--expect", typed, "--prefix", str(scene.folder / "p/q"), expect=False
    )
    assert not (scene.folder / "p/q/escaped").exists()
    scene.refused(done, 4)


def an_extra_file(scene):
    bad = scene.medium()
    (bad.root / "model/tiny-llava/modeling_llava.py").write_text(scene.evil)
    scene.refused(scene.host.install_sh(bad), 4)


def a_changed_manifest(scene):
    bad = scene.medium()
    change(bad.root / "MANIFEST.json", lambda data: data.replace(b"bundle sim", b"bundle Sim"))
    scene.refused(scene.host.install_sh(bad), 4)


def changed_weights(scene):
    bad = scene.medium()
    change(bad.root / WEIGHTS, lambda data: data[:-1] + b"L")
    scene.refused(scene.host.install_sh(bad), 4)


def an_older_release(scene):
    scene.host.install_sh(scene.medium("new", release=1_800_000_000))
    scene.refused(scene.host.install_sh(scene.medium("old", release=1_700_000_000)), 8)


def another_recipe(scene):
    key = ["--trust-key", str(scene.publisher.public_file)]
    for recipe, code in (("one", 0), ("two", 2)):
        bundle = scene.medium(recipe, recipe=recipe)
        scene.publisher.sign(bundle.root)
        scene.refused(scene.host.install_sh(bundle, *key, expect=False), code)


def a_bad_signature_under_a_good_id(scene):
    bad = scene.medium()
    scene.publisher.sign(bad.root)
    (bad.root / "SHA256SUMS.sig").write_bytes(b"bad")
    scene.refused(scene.host.install_sh(bad), 5)


def one_signature_left_out_under_a_good_id(scene):
    bad = scene.medium()
    scene.publisher.sign(bad.root)
    (bad.root / "SHA256SUMS.sshsig").unlink()
    scene.refused(scene.host.install_sh(bad), 5)


def words_after_the_welcome(scene):
    bad = scene.medium()
    change(bad.root / "START-HERE.txt", lambda data: data + b"and 5 GB more\n")
    scene.refused(scene.host.install_sh(bad), 4)


def _after(scene, name, edit):
    """Let something ride along with a file of the signer's that the tools overlook."""
    bad = scene.medium()
    scene.publisher.sign(bad.root)
    edit(bad.root / name)
    key = ["--trust-key", str(scene.publisher.public_file)]
    scene.refused(scene.host.install_sh(bad, *key), 4)


def text_after_an_ssh_signature(scene):
    _after(scene, "SHA256SUMS.sshsig", lambda path: change(path, lambda data: data + b"more\n"))


def a_stranger_s_key_beside_good_signatures(scene):
    other = scene.stranger.signer.public.pem
    _after(scene, "key.pem", lambda path: path.write_bytes(other))


def a_signature_without_end(scene):
    _after(scene, "SHA256SUMS.sig", lambda path: os.truncate(path, 5_000_000_000))


def a_signature_without_end_under_a_good_id(scene):
    bad = scene.medium()
    scene.publisher.sign(bad.root)
    os.truncate(bad.root / "SHA256SUMS.sig", 5_000_000_000)
    scene.refused(scene.host.install_sh(bad), 4)


def a_key_beside_no_signature(scene):
    bad = scene.medium()
    (bad.root / "key.pem").write_bytes(scene.publisher.signer.public.pem)
    scene.refused(scene.host.install_sh(bad), 4)


SH, TRUST, INVENTORY = (
    "installers/install.sh",
    "llava_pack/target/trust.py",
    "llava_pack/target/inventory.py",
)
CONTENTS = "llava_pack/target/contents.py"
UNLISTED = "llava_pack/target/unlisted.py"
ANY_SIZE = (TRUST, "    if len(data) > MAX_SIGNATURE_BYTES:\n", "    if False:\n")
AS_MADE = (UNLISTED, "data == as_made(name, data, key)", "True")
START = '"$python" -I -S -B "$work/installer/llava_pack/target" install'
CLEAN = 'exec "$env" -i "$@"'
COPIED = '        take "$path" 1073741824 "$digest"\n    done <LISTED\n'
NO_DEVICES = (
    (CONTENTS, "elif not entry.is_file(follow_symlinks=False):", "elif entry.is_symlink():"),
    (INVENTORY, "if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):", "if True:"),
)
# attack: the edits that take its check out; several files where checks stand one behind the other
ATTACKS: dict[Callable, tuple[tuple[str, str, str], ...]] = {
    a_changed_installer: ((SH, "sha256sum -c LISTED >/dev/null 2>&1 && return", "return"),),
    another_bundle: ((SH, '    "$expect"*) ;;', "    *) ;;"),),
    nothing_to_verify_against: ((SH, '    [ -n "$expect$trust" ] ||', "    true ||"),),
    a_forged_bundle_for_a_trusted_key: ((SH, "    check_signature\n", '    mkdir signed && find_key && lay signed "$key"\n'),),
    a_stranger_s_bundle_for_a_pinned_key: ((SH, '    [ -e "$pinned" ] || return 0\n', "    return 0\n"),),
    a_stranger_s_key_under_a_typed_fingerprint: ((SH, '[ "$found" = "$trust" ] ||', "true ||"),),
    a_key_from_the_medium_itself: ((SH, '        "$bundle"/*) fail 2', "        nowhere) fail 2"),),
    a_key_on_another_curve: ((SH, "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE*) ;;", "*) ;;"),),
    one_signature_by_the_key_and_one_by_a_stranger: ((SH, "for tool in openssl ssh-keygen; do", "for tool in openssl; do"),),
    an_openssl_that_is_content_with_anything: ((SH, ' || accepts "$tool" forged; then', "; then"),),
    a_module_that_shadows_the_stdlib: ((SH, COPIED, COPIED + '    cp -rp "$bundle/installer" .\n'),),
    bytecode_beside_the_source: ((SH, COPIED, COPIED + '    cp -rp "$bundle/installer" .\n'),),
    settings_of_python: (
        (SH, CLEAN, CLEAN.replace(" -i", "")),
        (SH, START, START.replace(" -I -S", "")),
    ),
    settings_of_the_caller: ((SH, CLEAN, CLEAN.replace(" -i", "")),),
    settings_of_the_linker: ((SH, CLEAN, CLEAN.replace(" -i", "")),),
    settings_of_openssl: ((SH, CLEAN, CLEAN.replace(" -i", "")),),
    a_program_on_the_caller_s_path: ((SH, " PATH=/usr/local/sbin", ' PATH="$PATH" SOME=/usr/local/sbin'),),
    a_list_without_end: ((SH, 'head -c "$2" <"$from"', 'cat <"$from"'),),
    a_manifest_without_end: (("llava_pack/format/manifest.py", "BYTES = 8 * 1024", "BYTES = 99 * 1024"),),
    a_name_that_steers_the_terminal: (
        ("llava_pack/target/main.py", "print(visible(text), file", "print(text, file"),
    ),
    a_model_that_reaches_out: (("llava_pack/target/silence.py", "    fence()\n    sys.argv", "    sys.argv"),),
    weights_that_others_can_write: (
        ("llava_pack/target/store.py", "not disk.only_ours(source, top)", "False"),
    ),
    weights_that_somebody_writes: (
        ("llava_pack/target/store.py", "if disk.nobody_writes(source):", "if True:"),
    ),
    settings_of_uv: (("llava_pack/target/venv.py", '"--no-config", ', ""),),
    a_link_of_the_right_content: (
        (SH, '[ ! -L "$from" ]', "true"),
        (CONTENTS, "elif not entry.is_file(follow_symlinks=False)", "elif not entry.is_file()"),
        (INVENTORY, "files.UNFOLLOWED", "0"),
    ),
    a_folder_that_is_a_link: (
        (SH, '[ ! -L "$root/$folder" ]', "true"),
        (CONTENTS, "entry.is_dir(follow_symlinks=False)", "entry.is_dir()"),
    ),
    a_fifo_of_the_right_content: (
        (SH, '[ -f "$from" ]', "true"),
        (SH, START, f'rm "$bundle/{MAIN}"; cp "{MAIN}" "$bundle/{MAIN}"; {START}'),
    ),
    a_device_to_start_from: ((SH, '[ -f "$from" ]', "true"), *NO_DEVICES),
    a_device_as_weights: NO_DEVICES,
    an_installer_that_changes_after_it_was_checked: ((SH, START, START.replace("$work", "$bundle")),),
    weights_that_change_after_the_list_was_checked: (
        ("llava_pack/target/store.py", "(size_bytes, got) == (entry.size_bytes, entry.sha256)", "True"),
    ),
    a_script_that_changes_while_it_runs: ((SH, '    wait "$child"\n    exit\n', '    wait "$child"\n'),),
    names_that_climb: ((SH, "if grep -Evq ", "if false && grep -Evq "),),
    an_extra_file: ((CONTENTS, 'FileDefect(one.name, "extra", "nothing", "a file") for one in rest', ""),),
    a_changed_manifest: ((INVENTORY, "    if got != expected:\n", "    if False:\n"),),
    changed_weights: (
        ("llava_pack/target/store.py", "(size_bytes, got) == (entry.size_bytes, entry.sha256)", "True"),
    ),
    one_signature_left_out_under_a_good_id: (
        (TRUST, "(trusted is not None or len(missing) == 1)", "trusted is not None"),
    ),
    words_after_the_welcome: ((UNLISTED, "sha256(data).hexdigest() == stated", "True"),),
    text_after_an_ssh_signature: (AS_MADE,),
    a_stranger_s_key_beside_good_signatures: (AS_MADE,),
    a_signature_without_end: (
        (SH, '[ "$(wc -c <"$name")" -le 4096 ] ||', "true ||"), ANY_SIZE, AS_MADE,
    ),
    a_signature_without_end_under_a_good_id: (ANY_SIZE, AS_MADE),
    a_key_beside_no_signature: (
        (UNLISTED, "            right = False\n", "            right = True\n"),
    ),
    an_older_release: ((TRUST, "    if manifest.release < newest:\n", "    if False:\n"),),
    another_recipe: ((TRUST, "    if silent or (", "    if ("),),
    a_bad_signature_under_a_good_id: (
        (TRUST, '            if not _accepts(tool, folder / "signed"):\n', "            if False:\n"),
    ),
}  # fmt: skip
NEEDS_MOUNT = {an_openssl_that_is_content_with_anything, settings_of_openssl}
NEEDS_ROOT = {a_device_to_start_from, a_device_as_weights}
NEEDS_A_USER = {weights_that_others_can_write, weights_that_somebody_writes}


def _skip(attack):
    if attack in NEEDS_MOUNT and not may_mount():
        pytest.skip("no mount namespaces here")
    if attack in NEEDS_A_USER and os.geteuid() == 0 and not allowed(*AS_A_USER):
        pytest.skip("no user namespaces here")
    if attack in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_fails(scene, attack):
    _skip(attack)
    attack(scene)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_without_its_check_it_succeeds(scene, monkeypatch, attack):
    _skip(attack)
    tree = changed_tree(scene.folder / "tree", ATTACKS[attack])
    monkeypatch.setattr(simulator, "CHECKOUT", tree)
    with pytest.raises(AssertionError):
        attack(scene)


def test_no_signature_is_ever_checked_without_its_key():
    for folder in ("installers", "llava_pack"):
        for path in (CHECKOUT / folder).rglob("*"):
            if path.suffix in {".py", ".sh"}:
                assert "check-novalidate" not in path.read_text(), path
