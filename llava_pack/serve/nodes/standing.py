"""How a node of another machine's server stands, as its run state tells. Pure."""

from llava_pack.serve.run_state import RunState

WAITING, RUNNING = "waiting for the head", "running"
"""What a node is at: its part of the engine runs, or it waits to be told to start it."""


def node_line(state: RunState) -> str:
    """Return one line for people.

    Args:
        state: of a node.
    """
    told = state.follower
    detail = f"; {told['detail']}" if told["detail"] else ""
    return f"node {told['rank']} of {told['head']}: {told['phase']}{detail}"
