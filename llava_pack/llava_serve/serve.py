"""`serve` for LLaVA's own programs: started in order, kept running, and ended without a trace.

What they write (logs, conversations, pictures) lies in a private folder that goes with the run.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from llava_pack.engine.fence.value import Standing
from llava_pack.format.progress import Progress
from llava_pack.health.runtimes import RuntimePlan
from llava_pack.llava_serve.files import model_files
from llava_pack.llava_serve.processes import UpstreamProcesses, free_ports
from llava_pack.llava_serve.programs import Ports, Program, programs
from llava_pack.serve.run_state import RunState, publish
from llava_pack.serve.supervision.ending import Ending
from llava_pack.serve.supervision.run_folder import Scratch


def run(plan: RuntimePlan, announce: Callable[[RunState], None], progress: Progress) -> int:
    """Serve until told to end and return the exit code: a signal's only where it had to be forced.

    Args:
        plan: what to serve, and where.
        announce: called once, when the page answers.
        progress: hears what is started, and what goes wrong later.

    Raises:
        ServeError: one of the programs could not be started; with its last words.
        UsageError: LLaVA's loader cannot load the model so.
    """
    ports = free_ports(plan.state.port)
    state = replace(plan.state, controller=ports.url("controller"))
    with Scratch() as scratch:
        three = launched(plan, ports, scratch.root)
        with contextlib.closing(_Published(plan.state_directory, state)) as published:

            def note(text: str) -> None:
                progress.note(text)
                published.fences(running.standings())

            def ready() -> None:
                announce(published.fences(running.standings()))

            name = plan.engine.name
            running = UpstreamProcesses(three, ports, name, token=state.token, note=note)
            return asyncio.run(_serve(running, Ending(progress), ready))


async def _serve(running: UpstreamProcesses, ending: Ending, ready: Callable[[], None]) -> int:
    """Serve until told to end and return the exit code."""
    ending.listen()
    told = asyncio.create_task(ending.told.wait())
    forced = asyncio.create_task(ending.forced.wait())
    forced.add_done_callback(lambda _: running.kill())
    async with running:
        starting = asyncio.create_task(running.start())
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            ready()
            await told
        starting.cancel()
    return ending.exit_code


def launched(plan: RuntimePlan, ports: Ports, home: Path) -> tuple[Program, ...]:
    """Return the three programs of a run.

    Args:
        plan: what to serve.
        ports: where they listen.
        home: a private folder.

    Raises:
        UsageError: LLaVA's loader cannot load the model so.
    """
    return programs(
        plan.engine,
        ports,
        files=model_files(plan.engine.model_dir),
        token=plan.state.token,
        environment=os.environ,
        home=home,
        fence=plan.fence,
    )


class _Published:
    """The run state on disk for as long as this is open."""

    def __init__(self, directory: Path, state: RunState) -> None:
        self._state = state
        self._publication = publish(directory, state)

    def fences(self, standings: Mapping[str, Standing]) -> RunState:
        """Tell which fences stand, each as it was told first, and return what is told now."""
        # Later the program has read what strangers send.
        fences = {role: asdict(standing) for role, standing in standings.items()}
        fences |= self._state.fences
        if fences != self._state.fences:
            self._state = replace(self._state, fences=fences)
            self._publication.update(self._state)
        return self._state

    def close(self) -> None:
        """Withdraw it."""
        self._publication.withdraw()
