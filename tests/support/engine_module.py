"""A module of an engine, to be run by the launcher: tells what it was given, and what it started.

It prints a line of JSON on stdout: its own arguments and process number, and what a child that
`multiprocessing` spawned was given. Then it waits for a line on stdin.
"""

import json
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue


def child(said: "SimpleQueue[Any]", wait: "SimpleQueue[Any]") -> None:
    """Tell who it is, and wait."""
    main = sys.modules["__main__"].__name__
    said.put({"pid": os.getpid(), "main": main, "environment": dict(os.environ)})
    wait.get()


def run() -> None:
    """Start a child, tell about both, and wait."""
    context = multiprocessing.get_context("spawn")
    said, wait = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=child, args=(said, wait))
    process.start()
    told = {"argv": sys.argv[1:], "pid": os.getpid(), "environment": dict(os.environ)}
    print(json.dumps({**told, "child": said.get()}), flush=True)
    sys.stdin.readline()
    wait.put(None)
    process.join()


if __name__ == "__main__":
    run()
