"""Whether a failure may be the fence's own doing, said where it is read."""

import errno
import os

from llava_pack.engine.fence.value import Standing
from llava_pack.format.errors import PackError, PreflightError, ServeError

_ASK = "try llava-pack serve --no-fence to see whether the fence is the cause"


def blamed(error: PackError | PermissionError, standing: Standing, *, gpu: bool) -> PackError:
    """Return what to tell of a failure to load.

    Args:
        error: of loading.
        standing: of the process that loads.
        gpu: whether a GPU was let through: then it may be the fence that a missing device is
            missing for.
    """
    if isinstance(error, PermissionError):
        stood = ", and the fence was active" if standing.stands else ""
        hint = _ASK if standing.stands else ""
        return ServeError(f"{error.strerror}{stood}", subject=str(error.filename or ""), hint=hint)
    suspect = _refused(error) or (gpu and isinstance(error, PreflightError))
    if not (standing.stands and suspect):
        return error
    hint = "\n".join(filter(None, (error.hint, _ASK)))
    return type(error)(f"{error.message}; the fence was active", subject=error.subject, hint=hint)


def suspected(said: str, standing: Standing) -> str:
    """Return what to try where the last words of a program tell of a refusal, else nothing."""
    refused = any(os.strerror(code) in said for code in (errno.EPERM, errno.EACCES))
    return _ASK if refused and standing.stands else ""


def passed_over(device: str, *, gpu: bool) -> str:
    """Return a line where the CPU computes though a GPU's devices are there, else nothing."""
    if device != "cpu" or not gpu:
        return ""
    return f"running on the CPU although GPU devices are present; {_ASK}"


def _refused(error: BaseException | None) -> bool:
    """Return whether a refusal is among an error's causes."""
    while error is not None:
        if isinstance(error, PermissionError):
            return True
        error = error.__cause__ or error.__context__
    return False
