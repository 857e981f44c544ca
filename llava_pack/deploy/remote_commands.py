"""What `deploy` has done on the server: each step is a command that a person could type there."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_pack.client.ssh import RemoteHost
from llava_pack.format import errors
from llava_pack.format.errors import FetchError, PackError, ServeError
from llava_pack.format.progress import Progress
from llava_pack.health.report import HealthCode
from llava_pack.lock.profile import TargetProfile, parse_profile
from llava_pack.shipped import shipped

_PROBE_S = 120.0
_LOOK_S = 120.0
_RATE_BYTES = 4 << 20
_RATE_S = 60.0
_HEALTH_S = 1800.0
_READY_S = 1800
# Where an installation of this account is: one that it can write.
_LOOK = """
own=${XDG_DATA_HOME:-$HOME/.local/share}/llava-pack
[ "$(id -u)" != 0 ] || own=/opt/llava-pack
printf '%s\\n' "$own"
for p in "$@" "$own" /opt/llava-pack; do
    [ -x "$p/bin/llava-pack" ] && [ -w "$p" ] || continue
    printf '%s\\n' "$p"
    exec "$p/bin/llava-pack" generations --json --prefix "$p" </dev/null
done
"""
# The first contact, as the card says it, and later the installer that is there: never the medium's.
_INSTALL = """
bundle=$1 id=$2 prefix=$3
shift 3
set -- --expect "$id" --prefix "$prefix" --json "$@"
if [ -x "$prefix/bin/llava-pack" ]; then
    exec "$prefix/bin/llava-pack" install "$bundle" "$@" </dev/null
fi
d=$(mktemp -d) && cp "$bundle/install.sh" "$bundle/SHA256SUMS" "$d" && cd "$d" || exit 14
trap 'cd / && rm -rf "$d"' EXIT
found=$(sha256sum <SHA256SUMS) && found=${found%% *}
if [ "$found" != "$id" ]; then
    echo "error: SHA256SUMS: expected bundle id $id, got $found" >&2
    exit 5
fi
grep '  install.sh$' SHA256SUMS | sha256sum -c - >/dev/null || exit 4
sh install.sh --bundle "$bundle" "$@" </dev/null
"""
_SERVICE = """
for whose in --system --user; do
    systemctl "$whose" is-active --quiet llava-pack 2>/dev/null || continue
    unit=$(systemctl "$whose" show --property=ExecStart llava-pack)
    case $unit in *"$1/bin/llava-pack"*"$2"*) exit 0 ;; esac
done
exit 1
"""
# A server in the background has the port; one that systemd runs is restarted.
_MAKE_ROOM = """
for whose in --system --user; do
    ! systemctl "$whose" is-active --quiet llava-pack 2>/dev/null || exit 0
done
exec "$1/bin/llava-pack" stop </dev/null
"""
_IN_ENGLISH = "LC_ALL=C.UTF-8 && export LC_ALL && unset LANGUAGE\n"
"""What a command says there is put into the person's language here, like our own words."""
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
        done = self.host.run(_LOOK, *([prefix] if prefix else []), timeout_s=_LOOK_S)
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
        """Return how many bytes per second reach the server now, of random ones."""
        began_s = time.monotonic()
        self.host.run("cat >/dev/null", data=os.urandom(_RATE_BYTES), timeout_s=_RATE_S)
        return _RATE_BYTES / max(time.monotonic() - began_s, 1e-6)

    def install(self, bundle: str, bundle_id: str, prefix: str, options: Sequence[str]) -> None:
        """Install what was sent; the id goes over this connection, and the receipt says so.

        Raises:
            PackError: the installer's own error.
        """
        words = [bundle, bundle_id, prefix, "--consume", "--over-ssh", *options]
        self._ran(words, _INSTALL)

    def serve(self, prefix: str, words: Sequence[str]) -> Mapping[str, Any]:
        """Have the server serve by itself, and return what it says of it.

        Args:
            prefix: of the installation.
            words: recipe and options of `serve`.

        Raises:
            PackError: that server's own error.
        """
        return self._llava_pack(prefix, "serve", *words, "--detach", "--json")

    def service(self, prefix: str, words: Sequence[str], options: Sequence[str]) -> None:
        """Have systemd serve, in place of a server in the background, and wait until it is ready.

        Raises:
            PackError: that server's own error.
        """
        self.host.run(_MAKE_ROOM, prefix, timeout_s=_LOOK_S)
        self._llava_pack(prefix, "service", "install", *words, "--json", *options)
        self._llava_pack(prefix, "health", "--wait-ready", str(_READY_S), "--json")

    def service_runs(self, prefix: str, options: Sequence[str]) -> bool:
        """Return whether systemd serves an installation with these options already."""
        return self.host.run(_SERVICE, prefix, " ".join(options), timeout_s=_LOOK_S).code == 0

    def health(self, prefix: str) -> str:
        """Return the line of `health` on the server, known answers of the model included.

        Raises:
            ServeError: something does not work there, with its cause and its cure.
        """
        script = 'exec "$1/bin/llava-pack" health --json --prefix "$1" </dev/null'
        done = self.host.run(script, prefix, timeout_s=_HEALTH_S)
        report = _document(done.stdout.decode(errors="replace"))
        if report is None or "findings" not in report:
            raise ServeError(f"no report: {done.last_words}", subject="health")
        bad = [one for one in report["findings"] if one["level"] in {"fail", "unknown"}]
        if report["exit_code"] > HealthCode.WARNING and bad:
            subject = f"health: {bad[0]['layer']}"
            raise ServeError(bad[0]["text"], subject=subject, hint=bad[0]["fix"])
        for one in report["findings"]:
            if one["level"] == "warn":
                self._progress.note(f"! {one['layer']}: {one['text']}")
        proofs = [one["text"] for one in report["findings"] if one["layer"] in _PROOFS]
        return "; ".join(proofs)

    def remove(self, folder: str) -> None:
        """Remove what was sent, once it is installed."""
        self.host.run('rm -rf -- "$1"', folder, timeout_s=_LOOK_S)

    def _llava_pack(self, prefix: str, *words: str) -> Mapping[str, Any]:
        return self._ran([prefix, *words], 'p=$1; shift; exec "$p/bin/llava-pack" "$@" </dev/null')

    def _ran(self, words: Sequence[str], script: str) -> Mapping[str, Any]:
        """Run a command there, say what it says, and return the document that it printed.

        Raises:
            PackError: it did not end well: its own error, of the class that its exit code means.
        """
        complaint: list[str] = []

        def say(line: str) -> None:
            if line.startswith(_OWN_WORDS):  # said once, where the error is shown
                complaint.append(line)
            elif not line.startswith(_DOCUMENT):
                self._progress.note(line)

        done = self.host.stream(_IN_ENGLISH + script, *words, on_line=say)
        told = _document(done.stdout.decode(errors="replace"))
        if done.code == 0 and told is not None:
            return told
        raise _error(told or {}, done.code, complaint)


def _document(text: str) -> dict[str, Any] | None:
    """Return the JSON object on the last line, None where there is none."""
    try:
        value = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return value if isinstance(value, dict) else None


def _error(told: Mapping[str, Any], code: int, complaint: Sequence[str]) -> PackError:
    """Return the far side's error as one of ours."""
    typed = dict(line.split(": ", 1) for line in complaint)
    message = told.get("message") or typed.get("error") or f"a command ended there with code {code}"
    hint = told.get("hint") or typed.get("hint") or "see the lines above"
    classes = {
        int(one.exit_code): one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, PackError)
    }
    kind = classes.get(code, ServeError)
    return kind(str(message), subject=str(told.get("subject", "")), hint=str(hint))
