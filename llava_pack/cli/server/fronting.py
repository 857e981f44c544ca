"""The options of `serve` and `start` about replicas: other servers that answer too."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.format.errors import UsageError

if TYPE_CHECKING:
    from llava_pack.cli.loading import ModelOptions
    from llava_pack.cli.server.serving import ServerOptions
    from llava_pack.serve.supervision.replicas import ReplicasPlan


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """Other servers of the same model, as they were typed.

    Raises:
        UsageError: there are keys, and no replica.
    """

    replica: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Another server of the same bundle that answers too: HOST:PORT or unix:PATH; "
            "repeat it for more. Without a model, nothing is loaded here.",
        ),
    ] = None
    replica_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the replicas' API key: one line KEY, or lines of ADDRESS KEY."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.replica_key_file is not None and not self.replica:
            raise UsageError(
                "there is no --replica",
                subject="--replica-key-file",
                hint="leave it out, or name the replicas that it opens",
            )

    def alone(self, recipes: Sequence[str], options: "ModelOptions") -> bool:
        """Return whether replicas answer everything, and no model is loaded here.

        Raises:
            UsageError: how to load one is said all the same.
        """
        if not self.replica or recipes or options.model_path is not None:
            return False
        if any(value for value in vars(options).values()):
            raise UsageError(
                "options of a model are given, and no model is loaded here",
                subject="--replica",
                hint="name the model that is to be loaded here too, or leave them out",
            )
        return True

    def plan(
        self, models: Sequence[str], bundle_id: str | None, server: "ServerOptions", port: int
    ) -> "ReplicasPlan":
        """Return the replicas of a run, asked for the first time.

        Args:
            models: names of those that are loaded here.
            bundle_id: of theirs; None for a bare folder.
            server: where this one listens.
            port: that it has there.

        Raises:
            UsageError: an address is wrong, twice there or this server itself; or a replica
                serves something else.
            IntegrityError: a replica has another bundle.
            ServeError: no model is loaded here and no replica can be reached, or one refuses its
                key.
        """
        from llava_pack.serve.replicas.address import replica_addresses, replica_keys
        from llava_pack.serve.replicas.first_look import check_looks, first_look, served_by
        from llava_pack.serve.supervision.replica import Expected
        from llava_pack.serve.supervision.replicas import ReplicasPlan

        socket = server.socket_path
        host = f"[{server.host}]" if ":" in server.host else server.host
        own = f"{host}:{port}" if socket is None else f"unix:{socket}"
        if len(models) > 1:
            if self.replica:
                raise UsageError(
                    f"expected one model, got {', '.join(models)}", subject="--replica"
                )
            return ReplicasPlan()
        keys = replica_keys(self.replica_key_file)
        replicas = replica_addresses(self.replica or (), keys, own)
        model = models[0] if models else ""
        if replicas:
            looks = first_look(replicas)
            if not models:
                model, bundle_id = served_by(looks)
            check_looks(looks, model, bundle_id, console.say)
        expected = Expected(model=model, bundle_id=bundle_id)
        return ReplicasPlan(expected=expected, own=own, keys=keys, replicas=replicas)
