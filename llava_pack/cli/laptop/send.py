"""`llava-pack send`: bring a bundle to a server, through the person's own ssh."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Bundle
from llava_pack.cli.parameters import expanded
from llava_pack.cli.ssh_options import SshOptions
from llava_pack.format.text import human_bytes

if TYPE_CHECKING:
    from llava_pack.client.sending.plan import FarSide, SendPlan
    from llava_pack.client.sending.send import SendRequest, Sent


@expanded
def send(
    *,
    bundle: Bundle,
    destination: Annotated[
        str, typer.Argument(metavar="USER@HOST", help="Or a host from your ssh configuration.")
    ],
    ssh: SshOptions,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder on the server, below your home there unless it begins with /. "
            "Default: llava-pack-bundles/RECIPE-ID.",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Installation on the server whose files are not sent again. Default: where "
            "install.sh installs.",
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Send also what an installation there already has.")
    ] = False,
    expect: Annotated[
        str | None, typer.Option(help="The id from the card, or at least its first 32 digits.")
    ] = None,
    limit_rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Send no faster, such as 4 MB/s.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and write nothing there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a bundle to a server, or the rest of one.

    Only what is missing there is sent: files, and missing ends of files. Each file is hashed on
    arrival. A broken connection is resumed automatically, and after Ctrl-C the same command
    continues. Your own ssh is used, with its configuration, keys and prompts; the server needs sh
    and sha256sum. The last line is the command to type on the server.

    \b
    Examples:
      llava-pack send llava-v1.5-7b-bundle ada@gpu01 -p 30022
      llava-pack send llava-v1.5-7b-bundle ada@gpu01 -J ada@bastion --to /data/llava
      llava-pack send llava-v1.5-7b-bundle ada@gpu01 --limit-rate "4 MB/s"
      llava-pack send llava-v1.5-7b-bundle ada@gpu01 --dry-run
    """
    from llava_pack.cli.laptop.plan import parse_rate
    from llava_pack.client.sending.cargo import read_cargo
    from llava_pack.client.sending.send import SendRequest, look, send_bundle
    from llava_pack.client.ssh import connected

    began_s = time.monotonic()
    request = SendRequest(
        cargo=read_cargo(bundle, expect=expect),
        to=to,
        prefix=prefix,
        whole=whole,
        bytes_per_s=None if limit_rate is None else parse_rate(limit_rate, "--limit-rate"),
    )
    console.say(f"bundle id {request.cargo.bundle_id}")
    with connected(ssh.login(destination), console.say) as host:
        if dry_run:
            _show_plan(request, *look(host, request, console.progress()), as_json=as_json)
            return
        sent = send_bundle(host, request, console.progress())
    _show(sent, destination, time.monotonic() - began_s, as_json=as_json)


def _show_plan(request: "SendRequest", far: "FarSide", plan: "SendPlan", *, as_json: bool) -> None:
    facts = {
        "bundle_id": request.cargo.bundle_id,
        "folder": far.folder,
        "send_bytes": plan.size_bytes,
        "send_files": len(plan.files),
        "kept_files": plan.kept,
        "stored_files": len(plan.skipped) + len(plan.copies),
        "free_bytes": far.free_bytes,
    }
    if as_json:
        console.document("send-plan", facts)
        return
    console.data(f"would send {human_bytes(plan.size_bytes)} in {len(plan.files)} files")
    console.data(
        f"there already: {plan.kept} files in {far.folder}, {facts['stored_files']} in the "
        "installation's store"
    )
    if request.bytes_per_s:
        console.data(f"at that rate: {plan.size_bytes / request.bytes_per_s / 60:.1f} minutes")
    if far.free_bytes is not None:
        console.data(f"free there: {human_bytes(far.free_bytes)}")


def _show(sent: "Sent", destination: str, took_s: float, *, as_json: bool) -> None:
    if as_json:
        console.document("send", {**sent.facts(), "took_s": round(took_s, 3)})
        return
    facts = sent.facts()
    console.say(
        f"{console.mark('ok')} {destination}:{sent.folder}: every file is there and hashed; sent "
        f"{human_bytes(sent.sent_bytes)} in {facts['sent_files']} files, {facts['kept_files']} "
        f"were there already, {facts['stored_files']} are in the installation's store"
    )
    if sent.breaks:
        console.say(f"the connection broke {sent.breaks} times")
    console.say(f"the bundle that arrived has the id {sent.bundle_id}; on the server, type:")
    console.verbatim(sent.install)
