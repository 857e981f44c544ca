"""Our own messages, as templates: what a line may tell, and of what form each value in it is.

Only a line that one of these matches as a whole is told, and of it the fixed words, which stand in
this repository, and the values that fit. `{text}` is never told. A logging call without a template
here is told by its place in the log alone; tests hold this list against the sources.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llava_pack.health import vocabulary
from llava_pack.health.shapes import LEFT_OUT, Form, OneOf, Shape, Told
from llava_pack.serve.port import PHASES

_ENDING = "shutting down"
_ENDED = (
    "{model}: {request} ended: {reason}; {count} tokens in, {count} out; queued {number} s, "
    "first token {number} s, all {number} s"
)
LOGGED: dict[str, tuple[str, ...]] = {
    "llava_pack.serve.supervision.supervisor": ("serving {models}, process {count}", _ENDING),
    "llava_pack.serve.supervision.control": ("control: {order}",),
    "llava_pack.serve.gateway.guard": (
        "request {request}: {route} is {count} after {number} s",
        "request {request} failed",
        "request {request}: there is no {text}",
    ),
    "llava_pack.serve.api.answering": ("request {request} failed",),
    "llava_pack.serve.api.llava_protocol": ("request {request} failed",),
    "llava_pack.serve.errors": ("request {request} failed: {cause}",),
    "llava_pack.serve.engines.openai_errors": ("{request}: the engine answered {count}: {text}",),
    "llava_pack.serve.run_state": ("{text}: ignored, it is not a file of this account",),
    "llava_pack.serve.supervision.engine": ("{model}: {cause}; restarting in {number} s",),
    "llava_pack.serve.gateway.served": (_ENDED, "{model}: {request} ended: {reason}"),
    "llava_pack.serve.supervision.gateway": (
        *("{cause}; restarting in {number} s", "its last output: {text}"),
    ),
    "llava_pack.serve.subprocesses": (
        "process {count} was killed but has not exited: it hangs in the kernel",
    ),
    "llava_pack.serve.admission.refusals": ("refused in the last {number} s: {text}",),
    "llava_pack.serve.access.key_store": (
        "{count} keys are loaded",
        "{text}; none of its keys is accepted until it can be read",
    ),
    "llava_pack.serve.access.audit": (
        "{count} lines of the audit log could not be written",
        "the audit log cannot be written: {text}",
    ),
    "llava_pack.serve.gateway.fencing": ("fence: {fence}",),
    "llava_pack.engine.process.enclosure": ("fence: {fence}", "{text}"),
    "llava_pack.serve.supervision.engine_process": ("{model}: {text}",),
    "llava_pack.serve.supervision.ordered_engine": ("{model}: {text}",),
    "llava_pack.serve.supervision.follower": ("{text}",),
    "llava_pack.serve.nodes.crew": ("a connection that is no node's: {text}",),
    "llava_pack.engine": ("{cause}",),
    "llava_pack.engine.process.process": ("the parent process has exited: shutting down",),
    "llava_pack.engine.process.loop": ("the engine stopped", "{cause}"),
    "llava_pack.engine.batching.scheduler": (
        "pictures of {count} requests failed, retrying each: {text}",
        "a request failed",
    ),
    "llava_pack.engine.process.server": (
        "connection {count} ended: {text}",
        "a client speaks protocol {number}, expected {count}",
        "an operation failed",
    ),
    "llava_pack.engine.batching.cuda_graphs": ("CUDA graphs are off: {text}",),
    "llava_pack.llava_serve.processes": ("{text}: {text}",),
}
"""By logger."""

CAUSES = (
    "its engine, process {count}, exited with code {number}",
    "its engine, process {count}, was killed by {signal}",
    "its engine, process {count}, stopped responding",
    "its engine, process {count}, hung: no step for {number} s, {count} requests running",
    "the model is not ready: {phase}",
    "the queue is full: {count} requests are running or waiting",
    "the gateway, process {count}, exited with code {number}",
    "the gateway, process {count}, was killed by {signal}",
    "the gateway, process {count}, stopped responding",
    "the gateway, process {count}, hung: no heartbeat for {number} s",
)
"""What ends an engine, or a request; also behind the name of a model."""

_DRIVER = (
    "the driver did not answer within {number} s",
    "the driver could not be queried",
    "nvidia-ml-py is not installed",
)
FOUND = (
    "{recipe} generation {count}: {count} files, every byte as verified",
    "{recipe} generation {count}: {count} files look as they did when verified",
    "{recipe} generation {count}: other links, owner or permissions than verified: {files}",
    "{recipe} generation {count}: changed since they were verified: {files}",
    "{recipe} generation {count}: not the bytes that were verified: {files}",
    "nothing is installed under {text}",
    "served from a folder; nothing is installed to compare it with",
    *("the environment's Python does not run", "packages differ from the lock: {packages}"),
    "files of packages are not as installed: {text}",
    "{module} cannot be imported: {text}",
    "Python {version}, {count} packages as locked",
    *("none is needed, and none was checked: {driver}", "no NVIDIA GPU was found"),
    *(
        f"GPU {{count}} {{gpu}}: driver {{version}}{memory}{heat}{users}"
        for memory in (", {number} of {number} GB free", "")
        for heat in (", {number} °C", "")
        for users in (", used by {pids}", "")
    ),
    "GPU {count} {gpu}: {count} uncorrected memory errors",
    "GPU {count} {gpu}: a memory row remapping is pending",
    "GPU {count} {gpu}: slowed down: {throttles}",
    "the kernel's log has GPU errors, the last: {text}",
    "{number} GB of disk and {number} GB of memory free",
    "{number} GB of disk free",
    "{number} GB of memory free",
    "little {resource} is left: {number} MB",
    "little {resource} is left: {count}",
    "little {resource} is left: at most {count}",
    "the clock is earlier than the release of what is installed",
    "left out of the environment: {text}; serve --keep-env NAME keeps one",
    *("kept in the environment: {text}", "{text} starts {text}, which is not there"),
    "{proxies} is set, and no_proxy leaves out this machine",
    "orphaned engines, without a server: {pids}",
    "port {count} is in use by {text}",
    "{count} serving, no orphaned engines",
    "no server of this installation is running",
    "the server, process {count}, does not respond: {text}",
    "{model}: no step for {number} s with {count} running",
    "{model}: ready on {device}, {count} running, {count} waiting",
    "{model}: ready on {device}, {engine}, {count} running, {count} waiting",
    *("{model}: restarting: {cause}; next attempt in {number} s", "{model}: restarting: {text}"),
    *("{model}: {phase}", "{model}: {phase} {text}"),
    "{model}: {number} GB of {memory}, {number} % of the forecast",
    "{model}: slow: {text}",
    "{model}: {number} tokens/s, {number} % of the {number} measured when it was installed",
    "{model}: its speed is not compared with the {number} measured when it was installed: {text}",
    "{model}: serves on the CPU; when it was installed, it ran on a GPU",
    "its log shows: {text}",
    "the page is served",
    "the page does not load: HTTP {count}, not the page",
    "the page does not load: HTTP {count}",
    "the page does not load: {text}",
    "{model}: no answer: {text}",
    "{model}: known answers match; {number} s to the first token",
    "its connections cannot be checked: {text}",
    "connections leave this machine: {text}",
    "no connection of its {count} processes leaves this machine",
    "could not be checked: {exception}: {text}",
    *_DRIVER,
)
"""Of `health`."""

_DIFFERENCE = re.compile(
    rf"(?P<name>[a-z0-9-]{{1,40}}) (?P<found>absent|{vocabulary.VERSION}), "
    rf"locked (?P<locked>{vocabulary.VERSION})(?=, |$| and )"
)
_MORE = re.compile(r" and ([0-9]{1,6}) more$")


@dataclass(frozen=True)
class _Nested:
    """A text that is one of some templates itself."""

    templates: tuple[str, ...]

    def admit(self, value: Any, told: Told) -> Any:
        return read(value, self.templates, told) or told.stays()


@dataclass(frozen=True)
class _Parts:
    """Names with commas between them, perhaps `and 3 more` behind."""

    shape: Shape

    def admit(self, value: Any, told: Told) -> Any:
        more = _MORE.search(value)
        names = _MORE.sub("", value).split(", ")
        shown = [self.shape.admit(name, told) for name in names]
        return ", ".join("…" if one is LEFT_OUT else one for one in shown) + (
            more[0] if more else ""
        )


class _Differences:
    """Packages that are not as locked."""

    def admit(self, value: Any, told: Told) -> Any:
        shown = [
            f"{vocabulary.PACKAGE.admit(one['name'], told)} {one['found']}, locked {one['locked']}"
            for one in _DIFFERENCE.finditer(value)
        ]
        return ", ".join(shown) or told.stays()


class _InstalledFile:
    """A file of a generation, by its place: the model's own name becomes a mark."""

    def admit(self, value: Any, told: Told) -> Any:
        if value in vocabulary.OWN_FILES:
            return value
        found = re.fullmatch(rf"model/([^/]{{1,200}})/({vocabulary.FILES})", value)
        return (
            f"model/{vocabulary.MODEL.admit(found[1], told)}/{found[2]}" if found else told.stays()
        )


class _Nothing:
    """A text that stays."""

    def admit(self, value: Any, told: Told) -> Any:  # noqa: ARG002 - as every shape
        return told.stays()


_NUMBER = Form(rf"{vocabulary.DECIMAL}|inf|nan")
_SHAPES: dict[str, Shape] = {
    "text": _Nothing(),
    "count": Form(r"[0-9]{1,12}"),
    "number": _NUMBER,
    "version": vocabulary.VERSION_TEXT,
    "pids": Form(r"[0-9]{1,9}(?:, [0-9]{1,9}){0,9}"),
    "request": Form(r"(?:[0-9]{1,9}/)?[0-9a-f]{16}"),
    "reason": OneOf("stop", "length", "cancelled", "abort", "error"),
    "order": OneOf("start", "stop", "drain", "status", other="…"),
    "route": OneOf(*vocabulary.ROUTES, other="another route"),
    "signal": Form(r"SIG[A-Z0-9]{2,8}"),
    "phase": OneOf(*PHASES),
    "device": vocabulary.DEVICE,
    "engine": Form(r"(?:vLLM|SGLang|LMDeploy) [0-9][0-9a-z.+]{0,20}"),
    "recipe": vocabulary.RECIPE,
    "model": vocabulary.MODEL,
    "models": _Parts(vocabulary.MODEL),
    "module": OneOf(*vocabulary.MODULES, other="another module"),
    "exception": OneOf(*vocabulary.EXCEPTIONS, other="another error"),
    "gpu": vocabulary.GPU_NAME,
    "fence": Form(r"Landlock ABI [0-9]{1,2} and seccomp"),
    "memory": OneOf("GPU memory", "memory"),
    "resource": OneOf("disk", "inodes of the disk", "memory", "file handles"),
    "proxies": _Parts(
        OneOf("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    ),
    "throttles": _Parts(OneOf("hardware slowdown", "hardware too hot", "too hot", "power brake")),
    "files": _Parts(_InstalledFile()),
    "packages": _Differences(),
    "cause": _Nested((*CAUSES, *(f"{{model}}: {cause}" for cause in CAUSES))),
    "driver": _Nested(_DRIVER),
}
_MUST_FIT = frozenset(
    {"count", "number", "version", "pids", "request", "signal", "phase", "device", "resource"}
    | {"memory", "reason"}
)
"""Where such a value does not fit, the line is another one."""
_PLACE = re.compile(r"\{(\w+)\}")


def read(text: str, templates: Iterable[str], told: Told) -> str:
    """Return a line as the first template that it fits tells it, empty where none does.

    >>> read("m: its engine, process 7, was killed by SIGKILL", CAUSES, Told(salt=b""))
    ''
    >>> read("its engine, process 7, was killed by SIGKILL", CAUSES, Told(salt=b""))
    'its engine, process 7, was killed by SIGKILL'
    """
    for template in templates:
        pattern, names = _compiled(template)
        if found := pattern.fullmatch(text):
            values = iter(_value(name, found[place], told) for place, name in enumerate(names, 1))
            return _PLACE.sub(lambda _place: next(values), template)  # noqa: B023 - used at once
    return ""


def _value(name: str, said: str, told: Told) -> str:
    shown = _SHAPES[name].admit(said, told)
    return "…" if shown is LEFT_OUT else str(shown)


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Return the pattern of a template, a group for each value, and the kinds of the values."""
    names = tuple(_PLACE.findall(template))
    fixed = _PLACE.split(template)[::2]
    groups = [f"({_form(name)})" for name in names]
    pattern = "".join(
        re.escape(words) + group for words, group in zip(fixed, [*groups, ""], strict=True)
    )
    return re.compile(pattern, re.ASCII), names


def _form(name: str) -> str:
    shape = _SHAPES[name]
    if name not in _MUST_FIT:
        return r".{1,400}?"
    if isinstance(shape, Form):
        return f"(?:{shape.pattern})"
    words = shape.words if isinstance(shape, OneOf) else ()
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
