"""What `deploy` has done on the server: each step is a command that a person could type there."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_pack.client.ssh import RemoteHost
from llava_pack.client.ssh_tunnel import Remote
from llava_pack.deploy import scripts
from llava_pack.format import errors
from llava_pack.format.errors import FetchError, InstallError, PackError, ServeError
from llava_pack.format.progress import Progress
from llava_pack.health.report import HealthCode
from llava_pack.lock.profile import TargetProfile, parse_profile
from llava_pack.shipped import shipped

_PROBE_S = 120.0
_LOOK_S = 120.0
_RATE_BYTES = (64 << 10, 4 << 20)
_QUICK_S = 1.0
_HEALTH_S = 1800.0
_READY_S = 1800
_USUAL_UNIT = "llava-pack"
_PROOFS = ("api", "answers", "silence")
"""Layers of a report that show best that it works: the model answers, and nothing calls home."""
_OWN_WORDS = ("error: ", "hint: ")
_DOCUMENT = '{"schema": '


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What is installed under a prefix of the server.

    Attributes:
        prefix: its folder there; where nothing is installed yet, the one that install.sh takes.
        current: id of the active bundle of each recipe; empty where nothing is installed.
    """

    prefix: str
    current: Mapping[str, str]


class RemoteCommands:
    """A server that is logged in to.

    Args:
        host: the connection.
        progress: told what the commands there say.
    """

    def __init__(self, host: RemoteHost, progress: Progress) -> None:
        self.host = host
        """Logged in to."""
        self._progress = progress

    def probe(self) -> TargetProfile:
        """Return the facts of the machine.

        Raises:
            UsageError: what came back is no target profile.
            FetchError: probe.sh did not end well.
        """
        script = (shipped("installers") / "probe.sh").read_text(encoding="utf-8")
        done = self.host.run(script, timeout_s=_PROBE_S)
        if done.code != 0:
            raise FetchError(
                f"probe.sh exited with code {done.code} there: {done.last_words}",
                hint="log in and look: llava-pack probe --paste prints what to type there",
            )
        return parse_profile(done.stdout)

    def installed(self, prefix: str | None) -> Installed:
        """Return what is installed under `prefix`, or where this account installs by itself.

        Raises:
            FetchError: the server's shell did not answer.
        """
        done = self.host.run(scripts.LOOK, *([prefix] if prefix else []), timeout_s=_LOOK_S)
        if done.code != 0:
            raise FetchError(
                f"looking for an installation ended with code {done.code}: {done.last_words}"
            )
        default, *found = done.stdout.decode(errors="replace").splitlines()
        if not found:
            return Installed(prefix=prefix or default, current={})
        rows = (_document(found[-1]) or {}).get("generations", [])
        current = {row["recipe"]: row["bundle_id"] for row in rows if row["current"]}
        return Installed(prefix=found[0], current=current)

    def rate(self) -> float:
        """Return how many bytes per second reach the server now, of random ones: about."""
        for size_bytes in _RATE_BYTES:
            began_s = time.monotonic()
            self.host.run("cat >/dev/null", data=os.urandom(size_bytes), timeout_s=_HEALTH_S)
            took_s = max(time.monotonic() - began_s, 1e-6)
            if took_s > _QUICK_S:
                break
        return size_bytes / took_s

    def install(self, bundle: str, bundle_id: str, prefix: str, options: Sequence[str]) -> None:
        """Install what was sent; the id goes over this connection, and the receipt says so.

        Raises:
            PackError: the installer's own error.
        """
        words = [bundle, bundle_id, prefix, "--consume", "--over-ssh", *options]
        self._ran(words, scripts.INSTALL, InstallError)

    def remove(self, prefix: str, recipe: str) -> None:
        """Remove what was sent of a recipe: it is installed, or of an earlier version."""
        done = self.host.run(scripts.REMOVE, prefix, recipe, timeout_s=_HEALTH_S)
        if done.code != 0:
            self._progress.note(f"! {prefix}/received could not be removed: {done.last_words}")

    def serve(self, prefix: str, words: Sequence[str]) -> None:
        """Have the server serve by itself.

        Args:
            prefix: of the installation.
            words: recipe and options of `serve`.

        Raises:
            PackError: that server's own error.
        """
        self._llava_pack(prefix, "serve", *words, "--detach", "--json")

    def service(self, prefix: str, unit: str, words: Sequence[str]) -> None:
        """Have systemd serve.

        Args:
            prefix: of the installation.
            unit: its name.
            words: recipe, and options of `service install` and of `serve`.

        Raises:
            PackError: that server's own error.
        """
        self._llava_pack(prefix, "service", "install", "--name", unit, "--json", *words)

    def service_runs(self, prefix: str, recipe: str, unit: str, options: Sequence[str]) -> bool:
        """Return whether systemd serves a recipe with these options."""
        words = (prefix, recipe, " ".join(options), unit, _USUAL_UNIT)
        return self.host.run(scripts.SERVICE, *words, timeout_s=_LOOK_S).code == 0

    def end_server(self, prefix: str, model: str) -> None:
        """End the server that has a model alone, in the background: its port is wanted."""
        done = self.host.run(scripts.RUN, prefix, "status", "--json", timeout_s=_LOOK_S)
        told = _document(done.stdout.decode(errors="replace")) or {}
        for server in told.get("servers", ()):
            if list(server["models"]) == [model]:
                self.host.run(scripts.END, str(server["pid"]), timeout_s=_LOOK_S)

    def reached(self, prefix: str, model: str) -> Remote:
        """Return where a model is served, once it is ready.

        Raises:
            ServeError: no server has it.
        """
        told = self._llava_pack(prefix, "tunnel", "--json", "--model", model)
        return Remote(target=told["target"], token=told["token"], bundle_id=told["bundle_id"])

    def wait_ready(self, prefix: str) -> None:
        """Wait until what systemd has started is ready.

        Raises:
            ServeError: it does not become ready, with its cause and its cure.
        """
        self._examined(prefix, "--wait-ready", str(_READY_S))

    def health(self, prefix: str) -> str:
        """Return what `health` says on the server, known answers of the model included.

        Raises:
            ServeError: something does not work there, with its cause and its cure.
        """
        findings = self._examined(prefix)
        for one in findings:
            if one["level"] == "warn":
                self._progress.note(f"! {one['layer']}: {one['text']}")
        return "; ".join(one["text"] for one in findings if one["layer"] in _PROOFS)

    def _examined(self, prefix: str, *options: str) -> Sequence[Mapping[str, Any]]:
        """Return the findings of `health` on the server.

        Raises:
            ServeError: it has not answered, or something does not work there.
        """
        script = scripts.IN_ENGLISH + scripts.RUN
        words = ("health", "--json", "--prefix", prefix, *options)
        done = self.host.run(script, prefix, *words, timeout_s=_HEALTH_S)
        report = _document(done.stdout.decode(errors="replace"))
        if report is None or "findings" not in report:
            raise ServeError(f"no report: {done.last_words}", subject="health")
        findings: Sequence[Mapping[str, Any]] = report["findings"]
        bad = [one for one in findings if one["level"] in {"fail", "unknown"}]
        if report["exit_code"] > HealthCode.WARNING and bad:
            subject = f"health: {bad[0]['layer']}"
            raise ServeError(bad[0]["text"], subject=subject, hint=bad[0]["fix"])
        return findings

    def _llava_pack(self, prefix: str, *words: str) -> Mapping[str, Any]:
        return self._ran([prefix, *words], scripts.RUN, ServeError)

    def _ran(self, words: Sequence[str], script: str, kind: type[PackError]) -> Mapping[str, Any]:
        """Run a command there, say what it says, and return the document that it printed.

        Args:
            words: of the script.
            script: that ends as the command.
            kind: of an error without a code of ours, as of a process that was killed.

        Raises:
            PackError: it did not end well: its own error, of the class that its exit code means.
        """
        complaint: list[str] = []

        def say(line: str) -> None:
            if line.startswith(_OWN_WORDS):  # said once, where the error is shown
                complaint.append(line)
            elif not line.startswith(_DOCUMENT):
                self._progress.note(line)

        done = self.host.stream(scripts.IN_ENGLISH + script, *words, on_line=say)
        told = _document(done.stdout.decode(errors="replace"))
        if done.code == 0 and told is not None:
            return told
        raise _error(told or {}, done.code, complaint, kind)


def _document(text: str) -> dict[str, Any] | None:
    """Return the JSON object on the last line, None where there is none."""
    try:
        value = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return value if isinstance(value, dict) else None


def _error(
    told: Mapping[str, Any], code: int, complaint: Sequence[str], kind: type[PackError]
) -> PackError:
    """Return the far side's error as one of ours."""
    typed = dict(line.split(": ", 1) for line in complaint)
    message = told.get("message") or typed.get("error") or f"a command ended there with code {code}"
    hint = told.get("hint") or typed.get("hint") or "see the lines above"
    classes = {
        int(one.exit_code): one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, PackError)
    }
    chosen = classes.get(code, kind)
    return chosen(str(message), subject=str(told.get("subject", "")), hint=str(hint))
