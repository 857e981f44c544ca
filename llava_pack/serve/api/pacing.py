"""The events of several choices as they come, and the silence between them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from llava_pack.engine.port import Event


async def paced(
    choices: Sequence[AsyncGenerator[Event, None]], every_s: float | None
) -> AsyncGenerator[tuple[int, Event] | None, None]:
    """Yield the events of choices with the choice's number, and None when none came for a while.

    Closing this closes all of them, which frees their slots.
    """
    async with AsyncExitStack() as stack:
        for events in choices:
            await stack.enter_async_context(aclosing(events))
        pending = {
            asyncio.ensure_future(anext(events, None)): i for i, events in enumerate(choices)
        }
        try:
            while pending:
                done, _ = await asyncio.wait(
                    pending, timeout=every_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    yield None
                for task in sorted(done, key=pending.__getitem__):
                    index = pending.pop(task)
                    if (event := task.result()) is not None:
                        yield index, event
                        pending[asyncio.ensure_future(anext(choices[index], None))] = index
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
