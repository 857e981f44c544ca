"""`llava-pack health`: does what is installed still work, and if not, what fixes it."""

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix
from llava_pack.cli.parameters import Ways, expanded, names_of
from llava_pack.cli.server_side import need_server
from llava_pack.cli.ssh_options import SshOptions
from llava_pack.format.exit_codes import ExitCode
from llava_pack.health.report import HealthCode
from llava_pack.installation.prefix import own_prefix
from llava_pack.serve.origin import start_command
from llava_pack.serve.run_state import serving

if TYPE_CHECKING:
    from llava_pack.health.report import Finding, Metric, Report

_LOOK_EVERY_S = 0.2
WAYS: Ways = {
    "wait_ready": ("prefix", "as_json"),  # which scripts say, whatever they ask of a server
    "tunnel": (*names_of(SshOptions), "as_json"),
    "record": ("prefix", "as_json"),
    "": ("deep", "prefix", "as_json"),
}


class NagiosCommand(TyperCommand):
    """A command whose wrong usage ends with 3, which is UNKNOWN to Nagios."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            if getattr(error, "exit_code", None) == int(ExitCode.USAGE):
                error.exit_code = int(HealthCode.UNKNOWN)  # type: ignore[attr-defined]
            raise


@partial(expanded, ways=WAYS)
def health(
    ctx: typer.Context,  # noqa: ARG001 - `expanded` looks at it
    *,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Hash every file, import every package, ask every question."),
    ] = False,
    wait_ready: Annotated[
        float | None,
        typer.Option(
            min=0, help="Only wait until a server is ready, for at most this many seconds."
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Record known answers of the running server, on a machine that you trust.",
        ),
    ] = False,
    tunnel: Annotated[
        str | None,
        typer.Option(
            metavar="USER@HOST",
            help="On the laptop: check the tunnel to this server, and what responds there.",
        ),
    ] = None,
    ssh: SshOptions,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation and the server, and suggest fixes.

    The checks go as far as a known answer of the model. The first line on stdout is for Nagios.
    Exit code 0: all is well; 1: works, with a warning; 2: does not work; 3: could not be
    determined. No network is used.

    \b
    Examples:
      llava-pack health
      llava-pack health --deep
      llava-pack health --json
      llava-pack health --wait-ready 120
      llava-pack health --record
      llava-pack health --tunnel ada@gpu01 -p 30022
    """
    from llava_pack.health.report import Report

    if tunnel is None:
        need_server("health", hint="llava-pack health --tunnel USER@HOST -p PORT")
    began_s = time.monotonic()
    found: tuple[Finding, ...]
    metrics: tuple[Metric, ...] = ()
    if wait_ready is not None:
        found = (_wait(wait_ready),)
    elif tunnel is not None:
        from llava_pack.health.tunnel_checks import check_tunnel

        found = tuple(check_tunnel(ssh.login(tunnel), console.say))
    else:
        from llava_pack.health.run import Examination

        examination = Examination(own_prefix(prefix), console.progress(), deep=deep)
        if record:
            examination.record()
        else:
            examination.run()
        found, metrics = examination.explained(), examination.metrics()
    _show(Report(findings=found, metrics=metrics, took_s=time.monotonic() - began_s), as_json)


def _show(report: "Report", as_json: bool) -> None:
    """Print a report and end with its code."""
    from llava_pack.health.report import nagios_line, to_json

    if as_json:
        console.document("health", to_json(report))
        raise typer.Exit(int(report.code))
    console.verbatim(nagios_line(report))
    for finding in report.findings:
        mark = "?" if finding.level == "unknown" else console.mark(finding.level)
        console.say(f"{mark} {finding.layer}: {finding.text}")
        if finding.why:
            console.say(f"    why: {finding.why}")
        if finding.fix:
            console.say(f"    fix: {finding.fix}")
        if finding.code:
            console.say(f"    more: llava-pack explain {finding.code}")
    raise typer.Exit(int(report.code))


def _wait(seconds: float) -> "Finding":
    """Wait until a server on this machine is ready, and return what came of it."""
    from llava_pack.health.report import Layer
    from llava_pack.health.served_checks import probe_of

    began_s = time.monotonic()
    seen = "no server of this installation is running"
    while True:
        for server in serving():
            with probe_of(server) as probe:
                facts = probe.facts()
            phases = ", ".join(f"{name} is {model.phase}" for name, model in facts.models.items())
            seen = facts.error or phases
            if facts.ready:
                waited_s = time.monotonic() - began_s
                text = f"{phases}, after {waited_s:.1f} s"
                return Layer.ENGINE.ok(text)
        if time.monotonic() - began_s >= seconds:
            return Layer.ENGINE.fail(
                f"not ready after {seconds:g} s: {seen}",
                why="clients would be rejected",
                fix=start_command(),
            )
        time.sleep(_LOOK_EVERY_S)
