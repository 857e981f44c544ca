"""A real follower over the engine of `node_engine.py`, as a process: `llava-pack serve --join`.

Run it: `python tests/support/follower.py --head ADDRESS --join-port PORT --rank R --state-dir DIR
[--bundle-id ID] [--key KEY]`; it ends with the code of an error, which it prints as JSON.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from llava_pack.format.errors import PackError
from llava_pack.profiles.profile import Node
from llava_pack.serve.nodes.addresses import own_link, own_links
from llava_pack.serve.nodes.wire import NodeOrder
from llava_pack.serve.run_state import RunState
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.follower import FollowerPlan, follow
from tests.support.gateway import BUNDLE_ID, JOIN_KEY, node_command


class Spoken:
    """Progress as lines of stdout."""

    def start(self, what: str, total_bytes: int | None) -> None:
        """Say nothing."""

    def advance(self, size_bytes: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say one line."""
        print(json.dumps({"note": text}), flush=True)

    def done(self) -> None:
        """Say nothing."""


def main() -> int:
    """Follow a head until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--head", required=True)
    parser.add_argument("--join-port", type=int, required=True)
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--bundle-id", default=BUNDLE_ID)
    parser.add_argument("--key", default=JOIN_KEY)
    parser.add_argument("--broken", action="store_true", help="its engine does not start")
    given = parser.parse_args()

    def command(node: Node, _order: NodeOrder, socket: Path) -> EngineCommand:
        return node_command("echo", node, socket, "--no-such" if given.broken else "")

    plan = FollowerPlan(
        head=given.head,
        port=given.join_port,
        rank=given.rank,
        bundle_id=given.bundle_id,
        key=given.key,
        own="",
        interface=lambda address: own_link(address, own_links(), shared=False).interface,
        command=command,
        state=RunState(
            pid=os.getpid(),
            host=given.head,
            port=0,
            token="",
            socket=None,
            models=("echo",),
            started=int(time.time()),
            bundle_id=given.bundle_id,
        ),
        state_directory=given.state_dir,
    )
    try:
        return follow(plan, Spoken())
    except PackError as error:
        print(json.dumps({"error": error.kind, "message": str(error)}), flush=True)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
