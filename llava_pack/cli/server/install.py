"""`llava-pack install`: an upgrade, or a first install on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, IndexHost, KeepEnv, Prefix
from llava_pack.cli.signing_keys import TrustKey
from llava_pack.installation.prefix import chosen_prefix

if TYPE_CHECKING:
    from llava_pack.target.installer import InstallPlan, InstallRequest, Outcome


def install(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE…", help="The folder of the bundle; several for one on several media."
        ),
    ],
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    trust_key: TrustKey = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe that the bundle must contain.")
    ] = None,
    allow_downgrade: Annotated[
        bool,
        typer.Option("--allow-downgrade", help="Accept an older release than the installed one."),
    ] = False,
    prefix: Prefix = None,
    python: Annotated[
        Path | None, typer.Option(help="Python to use, if the bundle does not include one.")
    ] = None,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            help="Take what is good on this medium, and say what is missing; the last medium "
            "completes the installation.",
        ),
    ] = False,
    consume: Annotated[
        bool,
        typer.Option(
            "--consume", help="Move large files out of the bundle instead of copying them."
        ),
    ] = False,
    over_ssh: Annotated[
        bool,
        typer.Option(
            "--over-ssh", help="For the receipt: `deploy` gives --expect, over your ssh session."
        ),
    ] = False,
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The package index to fetch wheels from that the bundle leaves out, or a file "
            "that holds its URL (with a password); may be repeated.",
        ),
    ] = None,
    index_host: IndexHost = None,
    no_downtime: Annotated[
        bool, typer.Option("--no-downtime", help="Never stop a running server to free GPU memory.")
    ] = False,
    accept_answer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Install although the model's answer to this known question is another one.",
        ),
    ] = None,
    keep_env: KeepEnv = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print what would happen, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Install or upgrade a bundle, without network access.

    A bundle that was built --without-wheels needs one host: the --index that you give.

    The files are verified, copied and tested; then the new version is activated in one step. The
    bundle is checked against --expect, the key given by --trust-key, and the key that the first
    installation pinned; at least one of them is required. Nothing is run from the bundle. If
    anything fails, the previous version stays active.

    Variables that the current version was tested with are kept, as with --keep-env.

    \b
    Examples:
      llava-pack install /media/usb/llava-v1.5-7b
      llava-pack install /media/usb/llava-v1.5-7b --expect 3f9a…
      llava-pack install /media/usb/llava-v1.5-7b --collect
      llava-pack install ./demo-bundle --expect 3f9a… --prefix ~/llava --dry-run
      llava-pack install ./llava-bundle --expect 3f9a… --index https://mirror.example/simple
    """
    from llava_pack.target import generations, installer, package_index

    place = chosen_prefix(prefix)
    bundle, *others = bundles
    request = installer.InstallRequest(
        bundle=bundle,
        others=tuple(others),
        collect=collect,
        expect=expect,
        prefix=place,
        python=python,
        trust_key=trust_key,
        recipe=recipe,
        allow_downgrade=allow_downgrade,
        consume=consume,
        over_ssh=over_ssh,
        downtime=not no_downtime,
        accepted=tuple(accept_answer or ()),
        kept=(*generations.kept(place), *(keep_env or ())),
        indexes=package_index.named(index or [], index_host or []),
    )
    if dry_run:
        _show_plan(installer.plan(request, console.progress()), as_json=as_json)
        return
    if collect:
        outcome = _collected(request, as_json=as_json)
    else:
        outcome = installer.install(request, console.progress())
    if as_json:
        complete = {"complete": True} if collect else {}
        console.document("install", {**outcome.facts(), **complete})
        return
    word = "is already installed" if outcome.unchanged else "is installed"
    following = outcome.next()
    if following.why:
        console.say(following.why)
    console.say(f"{outcome.recipe} generation {outcome.generation} {word}; next:")
    console.verbatim(following.command)


def _collected(request: "InstallRequest", *, as_json: bool) -> "Outcome":
    """Take one medium after the other, as long as a person brings more."""
    from llava_pack.target.collect import collect
    from llava_pack.target.need import IncompleteError

    try:
        return collect(request, _next_medium, console.progress())
    except IncompleteError as error:
        if error.bad:
            console.say(f"what to bring, to be pasted on the laptop (also in {error.kept}):")
            console.say(error.need.short())
            raise
        if as_json:
            console.document("install", error.outstanding())
        console.say("run the same command with the next medium")
        raise typer.Exit from error


def _next_medium(question: str) -> Path | None:
    from llava_pack.target.collect import typed_folder

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    console.say(question)
    answer = sys.stdin.readline()
    return typed_folder(answer, Path.cwd()) if answer else None


def _show_plan(plan: "InstallPlan", *, as_json: bool) -> None:
    if as_json:
        console.document("plan", plan.facts())
        return
    console.data(f"{plan.line()}; nothing was written")
