"""A bundle on its way to a server, whatever the link does meanwhile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from shlex import join
from typing import Any, NoReturn

from llava_pack.client.remote_host import RemoteHost, RemoteScript
from llava_pack.client.sending.answers import Answers, read_far_side
from llava_pack.client.sending.cargo import Cargo
from llava_pack.client.sending.plan import (
    FarSide,
    SendPlan,
    check_space,
    plan_sending,
    there_bytes,
)
from llava_pack.client.sending.stream import Sending, Throttle
from llava_pack.client.ssh_login import LoginRefusedError
from llava_pack.format.errors import FetchError, NetworkError
from llava_pack.format.progress import Progress
from llava_pack.shipped import shipped


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """How long a broken link is tried again.

    Attributes:
        attempts: tries in a row that bring nothing, before giving up.
        first_s: pause after the first; doubles up to `most_s`.
        wait: what pauses.
    """

    attempts: int = 12
    first_s: float = 1.0
    most_s: float = 60.0
    wait: Callable[[float], None] = time.sleep

    def pause_s(self, attempt: int) -> float:
        """Return the pause after an attempt, counted from 1.

        >>> [BackOff().pause_s(attempt) for attempt in (1, 2, 3, 9)]
        [1.0, 2.0, 4.0, 60.0]
        """
        return min(self.most_s, self.first_s * 2.0 ** (attempt - 1))


@dataclass(frozen=True, kw_only=True)
class SendRequest:
    """What is sent where."""

    cargo: Cargo
    to: str | None = None
    """The folder on the server, below its home unless absolute; None for one with the id."""
    prefix: str | None = None
    """Of the installation whose store is looked at; None for the default there."""
    whole: bool = False
    """Send what the store has too."""
    bytes_per_s: float | None = None

    @property
    def folder(self) -> str:
        """Where it lands: a name of its own for each bundle, so that an upgrade finds room."""
        return self.to or f"llava-pack-bundles/{self.cargo.recipe}-{self.cargo.bundle_id[:12]}"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A bundle that has arrived, every byte hashed there."""

    folder: str
    """Absolute, on the server."""
    bundle_id: str
    plan: SendPlan
    """Of the first connection."""
    sent_bytes: int
    """Over all connections."""
    breaks: int
    """How often the connection broke."""
    install: str
    """The command to type on the server."""

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {
            "bundle_id": self.bundle_id,
            "folder": self.folder,
            "sent_bytes": self.sent_bytes,
            "sent_files": len(self.plan.files),
            "kept_files": self.plan.kept,
            "stored_files": len(self.plan.skipped) + len(self.plan.copies),
            "breaks": self.breaks,
            "install": self.install,
        }


def look(host: RemoteHost, request: SendRequest, progress: Progress) -> tuple[FarSide, SendPlan]:
    """Return what is on the server, and what would travel; nothing is written there.

    Raises:
        PackError: the server cannot receive the bundle.
    """
    with _receiver(host, request, "look") as script:
        lines = script.lines()
        far = _far_side(script, lines, request, progress)
        for _ in lines:
            pass
        script.finish()
    plan = plan_sending(request.cargo.files, far)
    check_space(plan, far)
    return far, plan


def send_bundle(
    host: RemoteHost, request: SendRequest, progress: Progress, back_off: BackOff | None = None
) -> Sent:
    """Send what is missing of a bundle; where the link breaks, connect anew and continue.

    Args:
        host: connected; it may be connected anew, which may ask for a password.
        request: what, and where to.
        progress: told the bytes of each connection.
        back_off: how long a broken link is tried again.

    Raises:
        SpaceError: the server's disk is too small, or full.
        UsageError: the folder there holds something else.
        PreflightError: it cannot be written, or the server lacks a tool.
        CannotVerifyError: the server has no sha256sum.
        IntegrityError: a file is damaged on this laptop.
        NetworkError: the link broke, and stays broken.
        FetchError: bytes arrive wrong again and again.
    """
    patience = back_off or BackOff()
    throttle = Throttle(request.bytes_per_s)
    first: SendPlan | None = None
    sent_bytes = breaks = idle = arrived = 0
    while True:
        sending: Sending | None = None
        try:
            if idle:
                host.connect()
            with _receiver(host, request, "take") as script:
                sending = _sending(script, request, progress, throttle)
                first = first or plan_sending(request.cargo.files, sending.far)
                before, arrived = arrived, there_bytes(request.cargo.files, sending.far)
                idle = 0 if arrived > before else idle
                _run(sending)
        except LoginRefusedError:
            raise
        except NetworkError as error:
            sent_bytes += 0 if sending is None else sending.sent_bytes
            breaks += sending is not None
            idle += 1  # what was written may be in buffers here: the next connection tells
            if idle > patience.attempts:
                raise
            pause_s = patience.pause_s(idle)
            progress.note(f"{error}; trying again in {pause_s:g} s")
            patience.wait(pause_s)
        else:
            return Sent(
                folder=sending.far.folder,
                bundle_id=request.cargo.bundle_id,
                plan=first,
                sent_bytes=sent_bytes + sending.sent_bytes,
                breaks=breaks,
                install=install_command(request, sending.far),
            )


def install_command(request: SendRequest, far: FarSide) -> str:
    """Return what is typed on the server to install a bundle that has arrived.

    An upgrade never runs anything from the bundle.
    """
    prefix = [] if request.prefix is None else ["--prefix", request.prefix]
    expect = ["--expect", request.cargo.bundle_id]
    if far.program is not None:
        return join([far.program, "install", far.folder, *expect])
    return join(["sh", f"{far.folder}/install.sh", "--bundle", far.folder, *expect, *prefix])


@contextmanager
def _receiver(host: RemoteHost, request: SendRequest, mode: str) -> Iterator[RemoteScript]:
    """Run receive.sh on the server, and give it the list of files."""
    text = (shipped("installers") / "receive.sh").read_text(encoding="utf-8")
    cargo = request.cargo
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in cargo.files)
    whole = "whole" if request.whole else "rest"
    words = (mode, request.folder, request.prefix or "", whole, cargo.bundle_id)
    with host.channel(text, *words, str(len(cargo.files))) as script:
        with suppress(BrokenPipeError):  # what it prints says why it does not read
            script.write(lines.encode())
        yield script


def _sending(
    script: RemoteScript, request: SendRequest, progress: Progress, throttle: Throttle
) -> Sending:
    lines = script.lines()
    far = _far_side(script, lines, request, progress)
    check_space(plan_sending(request.cargo.files, far), far)
    answers = Answers(lines)
    return Sending(request.cargo, far, script, answers, progress, throttle)


def _far_side(
    script: RemoteScript, lines: Iterator[str], request: SendRequest, progress: Progress
) -> FarSide:
    far = read_far_side(lines, request.cargo, progress)
    if far is None:
        _explain(script)
    return far


def _run(sending: Sending) -> None:
    """Send, and see the receiver to its end."""
    try:
        sending.run()
        sending.answers.end()
    except BrokenPipeError:
        sending.answers.end()
        if sending.answers.failure is not None:
            raise sending.answers.failure from None
        _explain(sending.script)
    sending.script.finish()


def _explain(script: RemoteScript) -> NoReturn:
    """Raise why a receiver ended early.

    Raises:
        NetworkError: the connection broke.
        FetchError: the script ended.
    """
    done = script.finish()
    raise FetchError(
        f"the receiver exited with code {done.code}: {done.last_words}",
        subject="server",
        hint="run the same command again; it continues where it stopped",
    )
