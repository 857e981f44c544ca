"""What a replica refuses, as ours again: what its client did wrong is told as it told it. Pure."""

from collections.abc import Mapping
from typing import Any

from llava_pack.engine.port import ContextLengthError, Failed
from llava_pack.engine.sampling import GrammarError
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.port import LaterError
from llava_pack.serve.replicas.question import HOLDS

_OF_CLIENT = frozenset({400, 413, 422})
_LATER = frozenset({429, 503})
_OF_KEY = frozenset({401, 403})
_CONTEXT = "context_length_exceeded"


class KeyRefusedError(ServeError):
    """A replica does not take the key that it was shown."""


def refusal(request_id: str, status: int, error: Mapping[str, Any]) -> Failed:
    """Return the end of a request that a replica refused.

    Args:
        request_id: of the request.
        status: as HTTP has it.
        error: its body's, see `serve.errors.ErrorBody`.

    Raises:
        ServeError: it is the replica's fault: another one may answer.

    >>> refusal("r", 400, {"message": "too long", "code": "context_length_exceeded"}).kind
    'context-length'
    """
    message = str(error.get("message", ""))
    if status in _OF_CLIENT:
        param, code = str(error.get("param") or ""), error.get("code")
        if param.startswith(HOLDS):
            return Failed(request_id, GrammarError.kind, message.removeprefix(f"{param}: "))
        kind = ContextLengthError.kind if code == _CONTEXT else UsageError.kind
        return Failed(request_id, kind, message)
    if status in _LATER:
        raise LaterError(f"a replica does not answer now: {message}")
    if status in _OF_KEY:
        raise key_refused()
    raise ServeError(f"a replica answered with HTTP {status}", hint="llava-pack status")


def key_refused() -> KeyRefusedError:
    """Return that a replica does not take a key."""
    return KeyRefusedError(
        "it refuses the key; expected one that may ask and observe",
        hint="llava-pack keys add, where it runs; then --replica-key-file here",
    )
