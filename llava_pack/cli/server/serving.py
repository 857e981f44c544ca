"""The options of `serve` that are about the server and not about its models."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.format.errors import UsageError
from llava_pack.serve.access.audit import KEEP, MAX_MB, AuditPlan, audit_path, destination
from llava_pack.serve.access.public_name import ANY_ORIGIN, UNIX, PublicName, public_name
from llava_pack.serve.care import QUEUE, Care
from llava_pack.serve.liveness import STALL_S
from llava_pack.serve.way_in import way_in

if TYPE_CHECKING:
    from socket import socket as socket_type

    from llava_pack.engine.fence.value import FenceMode
    from llava_pack.serve.access.credentials import ServeCredentials

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where a server listens, who may ask, how it is looked after and fenced; as it was typed.

    Raises:
        UsageError: two options contradict each other.
    """

    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 7860
    socket: Annotated[
        Path | None,
        typer.Option(help="Listen on a Unix socket that only you can open, instead of a port."),
    ] = None
    token: Annotated[
        bool,
        typer.Option("--token/--no-token", help="Require a token; each start creates a new one."),
    ] = True
    keep_token: Annotated[
        bool,
        typer.Option(
            "--keep-token", help="Use the same token at every start; it is kept with mode 0600."
        ),
    ] = False
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with more API keys, one per line, without names.")
    ] = None
    keys: Annotated[
        Path | None,
        typer.Option(help="Key file of `llava-pack keys`, instead of the default one."),
    ] = None
    audit_to: Annotated[
        str, typer.Option(help="Where the audit log goes: file, journal, syslog or off.")
    ] = "file"
    audit_size_mb: Annotated[
        int, typer.Option(min=1, help="Size at which the audit log is rotated.")
    ] = MAX_MB
    audit_keep: Annotated[int, typer.Option(min=0, help="Rotated audit log files to keep.")] = KEEP
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name for the model in the API; repeat it for more. The first one is what "
            "responses use. With several models: MODEL=NAME.",
        ),
    ] = None
    public_url: Annotated[
        str | None,
        typer.Option(
            help="Where people open it behind a proxy: https://NAME or https://NAME/PATH."
        ),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name or address, other than loopback's, that clients use. Repeatable."
        ),
    ] = None
    root_path: Annotated[
        str | None, typer.Option(help="Path that a proxy serves it below, such as /vlm.")
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of a web page that may use the API with a key, or '*'. Repeatable."
        ),
    ] = None
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a proxy whose X-Forwarded-* and Forwarded headers count; "
            "`unix` with --socket. Repeatable."
        ),
    ] = None
    web: Annotated[bool, typer.Option("--web/--no-web", help="Serve the web page at /.")] = True
    queue: Annotated[int, typer.Option(min=0, help="Maximum queued requests per model.")] = QUEUE
    picture_root: Annotated[
        Path | None,
        typer.Option(help="Folder on the server whose pictures requests may name by file:// URLs."),
    ] = None
    drain_s: Annotated[
        float,
        typer.Option(min=0, help="Seconds that running requests have to finish at shutdown."),
    ] = 30.0
    stall_s: Annotated[
        float,
        typer.Option(min=1, help="Restart an engine after this many seconds without progress."),
    ] = STALL_S
    reached_as: Annotated[
        str,
        typer.Option(
            help="How your ssh reaches this server, for the printed tunnel lines: "
            "USER@HOST:PORT, or USER@BASTION,USER@HOST:PORT."
        ),
    ] = ""
    as_root: Annotated[
        bool,
        typer.Option("--as-root", envvar="LLAVA_PACK_AS_ROOT", help="Allow serving as root."),
    ] = False
    fence: Annotated[
        bool,
        typer.Option(
            "--fence/--no-fence", help="Fence the server off from other files and networks."
        ),
    ] = True
    require_fence: Annotated[
        bool,
        typer.Option("--require-fence", help="Refuse to serve if the fence is incomplete."),
    ] = False

    def __post_init__(self) -> None:
        if self.require_fence and not self.fence:
            raise UsageError("they contradict each other", subject="--no-fence and --require-fence")
        if self.keep_token and not self.token:
            raise UsageError("they contradict each other", subject="--no-token and --keep-token")
        if self.reached_as:
            way_in(self.reached_as)
        self._check_name()

    def _check_name(self) -> None:
        name = self.name
        if ANY_ORIGIN in name.origins and not self.token:
            raise UsageError(
                "every web page could use this server without a key",
                subject="--allow-origin * and --no-token",
                hint="list the origins, or require the token",
            )
        if name.proxies and (name.proxies == (UNIX,)) != (self.socket is not None):
            raise UsageError(
                "connections to a Unix socket have no address, and those to a port have one",
                subject="--trusted-proxy",
                hint="with --socket: --trusted-proxy unix; without it: the proxy's address",
            )

    @property
    def name(self) -> PublicName:
        """Return how it is reached by other names than loopback's."""
        return public_name(
            public_url=self.public_url or "",
            hosts=self.allowed_host or (),
            root_path=self.root_path or "",
            origins=self.allow_origin or (),
            proxies=self.trusted_proxy or (),
        )

    @property
    def fence_mode(self) -> "FenceMode":
        """Return whether a fence is raised around what serves, and whether it has to be whole."""
        if self.require_fence:
            return "required"
        return "on" if self.fence else "off"

    @property
    def socket_path(self) -> Path | None:
        """Return where the Unix socket goes, absolute; None where a port is listened on."""
        return None if self.socket is None else self.socket.expanduser().absolute()

    @property
    def pictures(self) -> Path | None:
        """Return the folder below which pictures may be named, resolved; None allows none.

        Raises:
            UsageError: there is no such folder, it is closed to this account, or the whole machine.
        """
        if self.picture_root is None:
            return None
        folder = Path(os.path.realpath(self.picture_root.expanduser()))
        readable = folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
        if not readable or folder == folder.parent:
            raise UsageError(
                "expected a folder of pictures that this account can read, got "
                f"{self.picture_root}",
                subject="--picture-root",
                hint="name the folder of the data set: --picture-root /srv/pictures",
            )
        return folder

    @property
    def care(self) -> Care:
        """Return how the processes are looked after."""
        return Care(stall_s=self.stall_s, queue=self.queue)

    def credentials(self, directory: Path) -> "ServeCredentials":
        """Return who may ask.

        Args:
            directory: of the run's state, which has the keys of people beside it.

        Raises:
            UsageError: a file of keys cannot be read, or others than this machine could ask
                without any.
        """
        from llava_pack.serve.access.credentials import credentials
        from llava_pack.serve.access.kept_token import kept_token, token_path
        from llava_pack.serve.access.key_store import store_path

        return credentials(
            self.host if self.socket is None else "localhost",
            token=self.token,
            key_file=self.api_key_file,
            key_store=self.keys.expanduser().absolute() if self.keys else store_path(directory),
            name=self.name,
            kept=kept_token(token_path(directory)) if self.keep_token else None,
        )

    def audit(self, directory: Path) -> AuditPlan:
        """Return where it is written down who asked.

        Raises:
            UsageError: there is no such place.
        """
        return AuditPlan(
            to=destination(self.audit_to),
            path=str(audit_path(directory)),
            max_mb=self.audit_size_mb,
            keep=self.audit_keep,
        )

    def listen(self) -> "socket_type":
        """Return what is listened on.

        Raises:
            UsageError: the address is none of this machine.
            ServeError: the port or the socket is taken.
        """
        from llava_pack.serve.run_state import running
        from llava_pack.serve.supervision.listener import listen_on_port, listen_on_socket

        if self.socket_path is not None:
            return listen_on_socket(self.socket_path)
        return listen_on_port(self.host, self.port, running())

    def let_go(self, listening: "socket_type") -> None:
        """Close what was listened on, and leave nothing of it."""
        listening.close()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)

    def refuse_root(self) -> None:
        """Refuse to serve as root, for what reads strangers' requests needs none of root's rights.

        Raises:
            UsageError: it is root, and nobody said that it may be.
        """
        if os.geteuid() != 0:
            return
        if not self.as_root:
            raise UsageError(
                "serving as root is refused: an attacker who breaks into the server would be root",
                subject="serve",
                hint="llava-pack service install --system --account NAME serves from its own "
                "account; in a container where everything runs as root: llava-pack serve --as-root",
            )
        console.say("! serving as root: an attacker who breaks into the server would be root")
