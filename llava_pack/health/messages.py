"""Our own messages, as templates: what a line may tell, and of what form each value in it is.

`llava_pack.health.reading` reads lines by them. A logging call without a template here is told by
its place in the log alone; tests hold this list against the sources.
"""

_ENDED = (
    "{model}: {request} ended: {reason}; {count} tokens in, {count} out; queued {number} s, "
    "first token {number} s, all {number} s"
)
LOGGED: dict[str, tuple[str, ...]] = {
    "llava_pack.serve.supervision.supervisor": (
        "serving {models}, process {count}",
        "shutting down",
    ),
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
    "llava_pack.cli.server.proof": ("{model}: known answer {text}: {text}",),
    "llava_pack.serve.supervision.engine": ("{model}: {cause}; restarting in {number} s",),
    "llava_pack.serve.supervision.replica": ("{text}: {cause}",),
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

DRIVER = (
    "the driver did not answer within {number} s",
    "the driver could not be queried",
    "nvidia-ml-py is not installed",
)
"""Why nothing is known of the GPUs."""
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
    *DRIVER,
)
"""Of `health`."""
