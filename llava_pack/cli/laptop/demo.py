"""`llava-pack demo`: the whole way on one machine, on real bytes, with what it took."""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import translated
from llava_pack.cli.laptop.demo_target import Phase, TargetRun, ran, serving
from llava_pack.cli.laptop.silence import silenced
from llava_pack.cli.server_side import need_server
from llava_pack.cli.unwinding import unwinding
from llava_pack.format.errors import UsageError
from llava_pack.format.text import human_bytes
from llava_pack.serve.supervision.listener import listen_on_port
from llava_pack.shipped import shipped

HOST = "127.0.0.1"
PICTURE = "known-answers/red-circle.png"


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep serving for a browser until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 7860,
    folder: Annotated[
        Path | None,
        typer.Option(help="Working folder, kept afterwards. Default: a temporary folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run every step on this machine, with a small model.

    The steps: build, verify, install offline, serve in 4 bits, ask a question, check health.

    \b
    Examples:
      llava-pack demo
      llava-pack demo --keep
    """
    need_server("demo", hint="on a Linux machine, in a clone of llava-pack: make demo")
    bundles = shipped("bundles")
    if not (bundles / "demo-model" / "llava-v1-demo").is_dir():
        raise UsageError(
            "the demo model is not part of this copy of llava-pack, which came in a bundle",
            subject="demo",
            hint="clone the repository and run: make demo",
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(unwinding())
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llava-pack-")))
        if keep or silenced(["true"]) is None:
            listen_on_port(HOST, port).close()  # taken? say so before the work
        _check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _run(bundles / PICTURE, folder.resolve(), port=port, keep=keep, as_json=as_json)


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other people's files in it."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {"demo-bundle", "server", "target.json"}:
        raise UsageError(
            "expected an empty or new folder, or one of an earlier demo",
            subject=str(folder),
            hint="choose another one with --folder",
        )


def _run(picture: Path, folder: Path, *, port: int, keep: bool, as_json: bool) -> None:
    bundle, prefix = folder / "demo-bundle", folder / "server"
    phases: list[Phase] = []
    arguments = ["build", "demo", "--out", str(bundle), "--replace", "--json"]
    build = _step(phases, "build", arguments, dict(os.environ))
    bundle_id, size_bytes = str(build["bundle_id"]), int(str(build["size_bytes"]))
    phases[-1] = Phase(name="build", took_s=phases[-1].took_s, size_bytes=size_bytes)
    verify = ["verify", str(bundle), "--expect", bundle_id, "--json"]
    _step(phases, "verify", verify, dict(os.environ))
    phases[-1] = Phase(name="verify", took_s=phases[-1].took_s, size_bytes=size_bytes)
    run = _target_half(folder, [str(bundle), bundle_id, str(prefix), str(picture)], port)
    phases += run.phases
    _report(run, phases, bundle_id, port, as_json=as_json)
    if keep:
        _keep_serving(prefix / "bin" / "llava-pack", picture, port)


def _keep_serving(program: Path, picture: Path, port: int) -> None:
    console.say("\nserving until Ctrl-C; from another terminal:")
    console.say(f"  {program} chat --image {picture}")
    console.say(f"  {program} health\n")
    code = ran(serving(str(program), port))
    if code:
        raise typer.Exit(code)


def _step(
    phases: list[Phase], name: str, arguments: Sequence[str], environ: dict[str, str]
) -> dict[str, object]:
    """Run one command of llava-pack, note its time, and return the JSON object that it printed."""
    began = time.monotonic()
    command = [sys.executable, "-m", "llava_pack", *arguments]
    with tempfile.TemporaryFile("w+") as said:
        code = ran(command, stdout=said, env=environ)
        if code:
            raise typer.Exit(code)
        said.seek(0)
        parsed: dict[str, object] = json.loads(said.read().strip().splitlines()[-1])
    phases.append(Phase(name=name, took_s=time.monotonic() - began))
    return parsed


def _target_half(folder: Path, arguments: list[str], port: int) -> TargetRun:
    result = folder / "target.json"
    result.unlink(missing_ok=True)
    plain = [sys.executable, "-m", "llava_pack.cli.laptop.demo_target", *arguments]
    cut = silenced([*plain, str(port), str(result)])
    if cut is None:
        console.say("! this machine allows no network namespace: continuing with its network,")
        console.say("  so this run does not prove that installing and serving work without one")
    command = cut or [*plain, str(port), str(result)]
    code = ran(command)
    if code:
        raise typer.Exit(code)
    fields = json.loads(result.read_text(encoding="utf-8"))
    fields["phases"] = tuple(Phase(**phase) for phase in fields["phases"])
    fields["silent"] = fields["silent"] and cut is not None
    return TargetRun(**fields)


def _report(
    run: TargetRun, phases: Sequence[Phase], bundle_id: str, port: int, *, as_json: bool
) -> None:
    if as_json:
        rows = [asdict(phase) for phase in phases]
        facts = {"bundle_id": bundle_id, "silent": run.silent, "answer": run.answer, "port": port}
        console.document("demo", {**facts, "phases": rows})
        return
    console.verbatim("")
    asked = translated(f"asked about {PICTURE}")
    console.verbatim(f"{asked}: {run.answer}")
    console.verbatim(f"{'phase':<24}{'seconds':>9}{'bytes':>12}{'per second':>14}")
    for phase in phases:
        size = "" if phase.size_bytes is None else human_bytes(phase.size_bytes)
        rate = ""
        if phase.size_bytes is not None:
            rate = human_bytes(phase.size_bytes / max(phase.took_s, 1e-9)) + "/s"
        console.verbatim(f"{phase.name:<24}{phase.took_s:>9.1f}{size:>12}{rate:>14}")
    console.verbatim(f"{'total':<24}{sum(phase.took_s for phase in phases):>9.1f}")
    if run.silent:
        console.data("install, serve, ask and health ran in a network namespace without a route")
