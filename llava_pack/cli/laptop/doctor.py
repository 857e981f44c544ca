"""`llava-pack doctor`: whether this laptop reaches what a build fetches, and what to set if not."""

from typing import TYPE_CHECKING

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import translated
from llava_pack.cli.laptop.options import PackOptions
from llava_pack.cli.laptop.side import need_laptop
from llava_pack.cli.parameters import expanded, typed_again
from llava_pack.format.text import human_bytes
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.assemble.hosts import ErrandOutcome
    from llava_pack.format.errors import PackError
    from llava_pack.network.visit import HostVisit

_SLOW = 500_000
"""Bytes per second: at less, a model of 14 GB takes a working day."""


@expanded
def doctor(ctx: typer.Context, *, pack: PackOptions, as_json: AsJson = False) -> None:
    """Check that this laptop reaches every host of a build.

    For each: whether its name resolves, the proxy on the way, who signed its certificate, what it
    is redirected to, and how fast it sends; with what to set where it fails. It reads a few MB at
    most and takes seconds. The exit code is that of the first failure, most often 9.

    \b
    Examples:
      llava-pack doctor llava-v1.5-7b
      llava-pack doctor llava-v1.5-7b --mirror cn
      llava-pack doctor llava-v1.5-7b --model ms:OWNER/NAME --json
      HTTPS_PROXY=http://proxy.corp:3128 llava-pack doctor demo
    """
    need_laptop("doctor")
    import os
    from concurrent.futures import ThreadPoolExecutor

    from llava_pack.lock.configuration import pip_settings

    with ThreadPoolExecutor(1) as early:
        pip = early.submit(pip_settings, os.environ)  # asked while the rest is still imported
        from llava_pack.assemble.hosts import visit_hosts
        from llava_pack.network.front import read_front

        errands = visit_hosts(pack.request(), pip.result)
    failures = [problem for one in errands for problem in one.failures]
    if as_json:
        console.document("doctor", {"ok": not failures, "errands": [*map(_fields, errands)]})
    else:
        trust = read_front(os.environ).trust
        origin = trust.origin or "the system"
        console.data(f"certificates: those of {origin}")
        for one in errands:
            _print(one)
    if failures:
        raise typer.Exit(int(failures[0].exit_code))
    again = pasted(["llava-pack", "build", *typed_again(ctx, PackOptions)])
    console.say(f"next: {again}")


def _fields(errand: "ErrandOutcome") -> dict[str, object]:
    visits = [
        {
            "host": one.host,
            "proxy": one.proxy or None,
            "issuer": one.issuer or None,
            "private_authority": one.private,
            "status": one.status or None,
            "bytes_per_s": None if one.bytes_per_s is None else round(one.bytes_per_s),
            "problem": None if one.problem is None else one.problem.facts(),
        }
        for one in errand.visits
    ]
    problem = None if errand.problem is None else errand.problem.facts()
    return {"what": errand.what, "hosts": visits, "problem": problem}


def _print(errand: "ErrandOutcome") -> None:
    console.verbatim(translated(errand.what))
    for one in errand.visits:
        slow = one.bytes_per_s is not None and one.bytes_per_s < _SLOW
        level = "fail" if one.problem else "warn" if slow else "ok"
        console.verbatim(f"  {console.mark(level)} {one.host}: {_facts(one)}")
        if one.problem is not None:
            _explain(one.problem, "    ")
        elif one.private:
            console.data(
                "    no public authority signed it: your organisation's own host, or it inspects "
                "what passes"
            )
    if errand.problem is not None:
        _explain(errand.problem, f"  {console.mark('fail')} ")


def _explain(problem: "PackError", before: str) -> None:
    subject = f"{problem.subject}: " if problem.subject else ""
    console.verbatim(f"{before}{subject}{translated(problem.message)}")
    if problem.hint:
        console.verbatim(f"    → {translated(problem.hint)}")


def _facts(one: "HostVisit") -> str:
    facts = [
        translated(f"through {one.proxy}") if one.proxy else translated("without a proxy"),
        translated(f"certificate by {one.issuer}") if one.issuer else "",
        "" if one.bytes_per_s is None else f"{human_bytes(round(one.bytes_per_s))}/s",
    ]
    return ", ".join(filter(None, facts))
