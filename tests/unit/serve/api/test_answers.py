"""How answers are gathered and paced."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from llava_pack.engine.measures import Timings, Usage
from llava_pack.engine.port import Delta, Event, Failed, Finished
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.api.pacing import paced
from llava_pack.serve.api.translation import Answer

_END = Finished("r", "stop", Usage(7, 2), Timings(0.0, 0.1, 0.2))


def test_an_answer_is_its_pieces() -> None:
    answer = Answer()
    assert answer.take(Delta("r", "a ", (1,))) == "a "
    assert answer.take(Delta("r", "b", (2, 3))) == "b"
    answer.take(_END)
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("a b", [1, 2, 3], "stop")
    assert answer.usage.total_tokens == 9


def test_a_failure_comes_back_in_its_own_class() -> None:
    with pytest.raises(UsageError, match="too long"):
        Answer().take(Failed("r", "usage", "too long"))


@pytest.mark.parametrize("ended", [None, Finished("r", "cancelled", Usage(1, 1), _END.timings)])
def test_an_answer_that_was_cut_off_is_none(ended: Finished | None) -> None:
    with pytest.raises(ServeError, match="was interrupted"):
        _ = Answer(ended=ended).finish_reason


class Source:
    """Events that come when they are let through, and whether they were closed."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            await self.let.wait()
            yield Delta("r", "a", (1,))
            await asyncio.Event().wait()
        finally:
            self.closed = True


def test_silence_is_told_and_closing_closes_the_source() -> None:
    async def scenario() -> None:
        source = Source()
        pieces = paced([source.events()], 0.01)
        assert await anext(pieces) is None
        assert await anext(pieces) is None
        source.let.set()
        while (event := await anext(pieces)) is None:
            pass
        assert event == (0, Delta("r", "a", (1,)))
        assert await anext(pieces) is None
        await pieces.aclose()
        assert source.closed

    asyncio.run(scenario())


def test_cancelling_the_reader_closes_the_source() -> None:
    async def scenario() -> None:
        source = Source()

        async def read() -> None:
            async for _ in paced([source.events()], 60):
                pass

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert source.closed

    asyncio.run(scenario())


def test_an_error_of_the_source_reaches_the_reader() -> None:
    async def failing() -> AsyncGenerator[Event, None]:
        yield Delta("r", "a", (1,))
        raise ServeError("the connection to the engine was lost")

    async def scenario() -> list[tuple[int, Event] | None]:
        return [event async for event in paced([failing()], 60)]

    with pytest.raises(ServeError, match="was lost"):
        asyncio.run(scenario())


def test_choices_come_as_they_are_ready_and_are_closed_together() -> None:
    async def scenario() -> None:
        slow, quick = Source(), Source()
        quick.let.set()
        steps = paced([slow.events(), quick.events()], None)
        assert await anext(steps) == (1, Delta("r", "a", (1,)))
        slow.let.set()
        assert await anext(steps) == (0, Delta("r", "a", (1,)))
        await steps.aclose()
        assert slow.closed
        assert quick.closed

    asyncio.run(scenario())
