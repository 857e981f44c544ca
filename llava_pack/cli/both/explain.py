"""`llava-pack explain`: an error looked up offline, with its cause and its fix."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import language_of
from llava_pack.cli.parameters import Ways, refuse_strangers
from llava_pack.format.errors import UsageError, reason_of
from llava_pack.format.text import LANGUAGES, Language
from llava_pack.shells import redirected

if TYPE_CHECKING:
    from llava_pack.health.knowledge import Failure

WAYS: Ways = {
    "everything": ("language", "as_json"),
    "log": ("language", "as_json"),
    "": ("text", "language", "as_json"),
}
_LABELS = {"en": ("why", "fix", "seen in"), "zh": ("原因", "处理", "见于")}


def explain(
    ctx: typer.Context,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="An exit code, a code printed by health, or a pasted error; - reads stdin."
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Search a log file for known errors.")] = None,
    language: Annotated[
        str | None, typer.Option("--lang", help="en or zh. Default: that of the messages.")
    ] = None,
    everything: Annotated[bool, typer.Option("--list", help="List every known failure.")] = False,
    as_json: AsJson = False,
) -> None:
    """Explain an error: what it means, its cause and the fix.

    No network is used. It covers llava-pack's exit codes, the findings of `health`, and the errors
    of LLaVA's own programs.

    \b
    Examples:
      llava-pack explain 4
      llava-pack explain "NETWORK ERROR DUE TO HIGH TRAFFIC (error_code: 1)"
      llava-pack explain --log model_worker_1a2b3c.log
      journalctl --user -u llava-pack | llava-pack explain -
      llava-pack explain --list --lang zh
    """
    from llava_pack.health.knowledge import known_failures, look_up, recognise

    refuse_strangers(ctx, WAYS)
    chosen = _language(language)
    failures = known_failures()
    if everything:
        found = failures
    else:
        said = _said(text or [], log)
        exact = look_up(said, failures)
        found = (exact,) if exact else recognise(said, failures)
    if not found:
        raise UsageError(
            "no known failure matches this",
            subject="explain",
            hint="llava-pack health; to get help: llava-pack support-bundle",
        )
    if as_json:
        console.document("explain", {"failures": [facts(one, chosen) for one in found]})
    elif everything:
        for one in found:
            console.verbatim(f"{one.id}: {one.advice[chosen].title}")
    else:
        for one in found:
            _show(one, chosen)


def facts(failure: "Failure", language: Language) -> Mapping[str, Any]:
    """Return a known failure for JSON."""
    return {
        "code": failure.id,
        "exit_code": failure.exit_code,
        **vars(failure.advice[language]),
        "sources": list(failure.sources),
    }


def _show(failure: "Failure", language: Language) -> None:
    advice = failure.advice[language]
    why, fix, seen = _LABELS[language]
    console.verbatim(f"{failure.id}: {advice.title}")
    console.verbatim(f"    {why}: {advice.cause}")
    console.verbatim(f"    {fix}: {advice.fix}")
    console.verbatim(f"    {seen}: {', '.join(failure.sources)}")


def _language(wanted: str | None) -> Language:
    if wanted is None:
        return language_of(os.environ)
    for language in LANGUAGES:
        if wanted == language:
            return language
    raise UsageError(f"expected {' or '.join(LANGUAGES)}, got {wanted}", subject="--lang")


def _said(words: list[str], log: Path | None) -> str:
    """Return the text to look up."""
    from llava_pack.health.knowledge import MAX_TEXT_CHARS

    if log is not None:
        try:
            return _end(log, MAX_TEXT_CHARS)
        except OSError as error:
            raise UsageError(f"cannot be read: {reason_of(error)}", subject=str(log)) from error
    if words == ["-"] or (not words and not sys.stdin.isatty()):
        return sys.stdin.read()
    if not words:
        raise UsageError(
            "nothing to look up, expected a code or a text",
            subject="explain",
            hint="llava-pack explain --list",
        )
    return " ".join(words)


def _end(log: Path, size_bytes: int) -> str:
    """Return the last bytes of a log as text."""
    with log.open("rb") as stream:
        mark = stream.read(2)  # of UTF-16, where there is one
        stream.seek(max(stream.seek(0, os.SEEK_END) - size_bytes, 2) // 2 * 2)
        return redirected(mark + stream.read())
