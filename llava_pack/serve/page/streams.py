"""Bodies that pass the page's gate: read within bounds, replayed, counted, and kept until known.

Source: ASGI specification 3.0; RFC 2046, 5.1.1 (what separates the parts of a form).
"""

from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_pack.serve.admission.bodies import replayed

_MAX_ANSWER_BYTES = 1024 * 1024


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Return a whole body.

    Raises:
        HTTPException: 413, there is more than `max_bytes`.
        ClientDisconnect: the client went away before its end.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise HTTPException(
                413, f"the event is too large: at most {max_bytes} bytes are allowed"
            )
        more = message.get("more_body", False)
    return bytes(body)


def with_body(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """Return a request with another body, as JSON; what comes after it is still heard."""
    replaced = {b"content-type", b"content-length", b"accept-encoding"}
    headers = [pair for pair in scope["headers"] if pair[0] not in replaced]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    return {**scope, "headers": headers}, replayed([body], receive)


class CountedForm:
    """A form that is counted while it is read: its bytes, and the parts between its boundaries.

    Args:
        receive: where it comes from.
        boundary: what separates the parts.
        max_parts: the most that are taken.
        max_bytes: the most of all of them together.
    """

    def __init__(
        self, receive: Receive, boundary: bytes, *, max_parts: int, max_bytes: int
    ) -> None:
        self._receive = receive
        self._mark = b"--" + boundary
        self._max_parts = max_parts
        self._max_bytes = max_bytes
        self._tail = b""
        self._parts = 0
        self._bytes = 0
        self.refusal = ""
        """Why it was not read to its end."""

    async def __call__(self) -> Message:
        """Return the next piece.

        Raises:
            HTTPException: there was too much.
        """
        message = await self._receive()
        body = message.get("body", b"")
        self._bytes += len(body)
        seen = self._tail + body
        self._parts += seen.count(self._mark)
        self._tail = seen[max(0, len(seen) - len(self._mark) + 1) :]
        # The last boundary ends the form and begins no part.
        if self._parts > self._max_parts + 1:
            self.refusal = f"too many files in one upload: at most {self._max_parts} are allowed"
        elif self._bytes > self._max_bytes:
            self.refusal = f"the files are too large: at most {self._max_bytes} bytes are allowed"
        if self.refusal:
            raise HTTPException(413, self.refusal)
        return message


@dataclass
class WholeAnswer:
    """A short answer, whole."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def send(self, send: Send) -> None:
        """Send it on."""
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body})


async def captured(app: ASGIApp, scope: Scope, receive: Receive) -> WholeAnswer:
    """Return what an application answers, without sending it.

    Raises:
        ValueError: it is longer than an answer to be read here.
    """
    answer = WholeAnswer()

    async def kept(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = list(message["headers"])
        else:
            answer.body += message.get("body", b"")
        if len(answer.body) > _MAX_ANSWER_BYTES:
            raise ValueError("an answer of the page is longer than allowed")

    plain = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
    await app({**scope, "headers": plain}, receive, kept)
    return answer
