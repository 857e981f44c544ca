"""`llava-pack probe`: the facts of the machine that will run the model, in one file."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.language import translated
from llava_pack.cli.parameters import Ways, expanded, names_of
from llava_pack.cli.progress_line import padded
from llava_pack.cli.server_side import need_server
from llava_pack.cli.ssh_options import SshOptions
from llava_pack.format.errors import FetchError, NetworkError, UsageError
from llava_pack.format.text import human_bytes
from llava_pack.lock.profile import TargetProfile
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.client.ssh import Login

_TIMEOUT_S = 120
WAYS: Ways = {
    "destination": (*names_of(SshOptions), "out", "as_json"),
    "here": ("out", "as_json"),
    "read": ("out", "as_json"),
    "paste": (),
    "": (),
}


@partial(expanded, ways=WAYS)
def probe(
    ctx: typer.Context,  # noqa: ARG001 - `expanded` looks at it
    *,
    destination: Annotated[
        str | None,
        typer.Argument(metavar="USER@HOST", help="Or a host from your ssh configuration."),
    ] = None,
    ssh: SshOptions,
    here: Annotated[bool, typer.Option("--here", help="Probe this machine.")] = False,
    paste: Annotated[
        bool, typer.Option("--paste", help="Print lines to paste into the server's terminal.")
    ] = False,
    read: Annotated[
        Path | None, typer.Option(help="Read the server's output from a file, or - for stdin.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to save the profile.")] = Path("TARGET.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Probe a server: GPU, driver, glibc, Python, memory, disks.

    The profile is saved for the --target option of `plan` and `build`. A shell script of 16 kB runs
    on the server; it needs no root and no Python, writes nothing and takes seconds. Your own ssh is
    used, with its configuration, keys and prompts.

    \b
    Examples:
      llava-pack probe me@gpu01 -p 2222
      llava-pack probe me@gpu01 -J me@bastion --out gpu01.json
      llava-pack probe --here
      llava-pack probe --paste
      llava-pack probe --read - --out gpu01.json
    """
    from llava_pack.lock.profile import parse_profile, render_profile

    if destination is None and read is None and not (here or paste):
        raise UsageError(
            "expected one of USER@HOST, --here, --paste and --read",
            subject="probe",
            hint="llava-pack probe USER@HOST -p PORT",
        )
    if paste:
        _print_paste()
        return
    if here:
        need_server("probe --here", hint="llava-pack probe USER@HOST -p PORT")
    if read is not None:
        said = sys.stdin.buffer.read() if str(read) == "-" else _read(read)
    elif destination is not None:
        said = _probe_there(ssh.login(destination))
    else:
        said = probe_here()
    profile = parse_profile(said)
    text = render_profile(said)
    try:
        out.write_bytes(text.encode())
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", subject=str(out)) from error
    if as_json:
        console.verbatim(text.rstrip("\n"))
    else:
        for line in summary(profile):
            console.verbatim(line)
    again = pasted(["llava-pack", "plan", "RECIPE", "--target", str(out)])
    console.say(f"saved {out}; next: {again}")


def summary(profile: TargetProfile) -> list[str]:
    """Return the facts that decide, a line each."""
    return [f"{padded(label, 10)}{text}" for label, text in _facts(profile)]


def _facts(profile: TargetProfile) -> Iterator[tuple[str, str]]:
    """Yield labels and what stands beside them, both in the person's language."""
    unknown = translated("unknown")
    system = " ".join(part for part in (profile.distribution, profile.arch) if part) or unknown
    yield translated("system"), f"{system}, glibc {profile.glibc or unknown}"
    memory = unknown if profile.memory_bytes is None else human_bytes(profile.memory_bytes)
    machine = translated(f"{profile.cpu_count or unknown} CPUs, {memory} of memory")
    yield translated("machine"), machine
    if profile.gpus is None:
        yield "GPU", translated("could not be determined")
    elif not profile.gpus:
        yield "GPU", translated("none")
    for gpu in profile.gpus or ():
        size = unknown if gpu.memory_bytes is None else human_bytes(gpu.memory_bytes)
        capability = gpu.compute_capability or unknown
        driver = gpu.driver or unknown
        has = f"{gpu.name}, {size}, compute capability {capability}, driver {driver}"
        yield "GPU", translated(has)
    versions = ", ".join(found.version for found in profile.pythons or ())
    yield "Python", versions or translated("none that works")
    for disk in profile.disks or ():
        if disk.writable and disk.free_bytes is not None:
            noexec = ", noexec" if disk.noexec else ""
            free = f"{disk.path}: {human_bytes(disk.free_bytes)}{noexec}"
            yield translated("disk"), free


def _probe_there(login: "Login") -> bytes:
    """Return what probe.sh prints on a server."""
    from llava_pack.client.ssh import connected
    from llava_pack.shipped import shipped

    script = (shipped("installers") / "probe.sh").read_text(encoding="utf-8")
    try:
        with connected(login, console.say) as host:
            done = host.run(script)
    except NetworkError as error:
        hint = f"{error.hint}; or use llava-pack probe --paste"
        raise NetworkError(error.message, subject=error.subject, hint=hint) from error
    if done.code != 0:
        message = f"the script exited with code {done.code}: {done.last_words}"
        hint = "run plain ssh first, or use llava-pack probe --paste"
        raise FetchError(message, subject=login.destination, hint=hint)
    return done.stdout


def probe_here() -> bytes:
    """Return what probe.sh prints on this machine.

    Raises:
        FetchError: it cannot be run.
    """
    from llava_pack.shipped import shipped

    script = (shipped("installers") / "probe.sh").read_bytes()
    place, hint = "this machine", "llava-pack probe USER@HOST"
    try:
        done = subprocess.run(
            ["sh"], input=script, stdout=subprocess.PIPE, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise FetchError("sh was not found on this machine", subject=place, hint=hint) from error
    except subprocess.TimeoutExpired as error:
        message = f"no answer within {_TIMEOUT_S} s"
        raise FetchError(message, subject=place, hint=hint) from error
    if done.returncode != 0:
        message = f"sh exited with code {done.returncode}"
        raise FetchError(message, subject=place, hint=hint)
    return done.stdout


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", subject=str(path)) from error


def _print_paste() -> None:
    import base64
    import gzip

    from llava_pack.shipped import shipped

    packed = gzip.compress((shipped("installers") / "probe.sh").read_bytes(), 9, mtime=0)
    console.verbatim("base64 -d <<'END' | gzip -dc | sh")
    console.verbatim(base64.encodebytes(packed).decode().rstrip("\n"))
    console.verbatim("END")
    console.say("Paste these lines into the server's terminal; then pass its output to:")
    console.say("  llava-pack probe --read - --out TARGET.json")
