"""Every failure that a person can meet: one base, one exit code each.

PackError
├── UsageError        2   the command line, or a picture that is none
├── PreflightError    3   this machine cannot run the bundle
├── IntegrityError    4   bytes differ from what was promised
├── SignatureError    5   a signature is present but bad
├── CannotVerifyError 6   nothing to verify against
├── SpaceError        7   disk or memory
├── DowngradeError    8
├── NetworkError      9   unreachable, or attempted where it must not be
├── RecipeError      10   recipe or lock
├── FetchError       11   a transfer failed; trying again may help
├── AccessError      12   gated, token, licence
├── CheckpointError  13   the checkpoint is not supported, or damaged
├── InstallError     14
└── ServeError       15
"""

from typing import Any, ClassVar

from llava_pack.format.exit_codes import ExitCode


class PackError(Exception):
    """A failure with its subject, its cause and the way out.

    Args:
        message: what is wrong, with what was expected and what was found.
        subject: the file, recipe, host or option that it is about; bundle-relative where it can be.
        hint: the command to run next, or what to change.
    """

    kind: ClassVar[str] = "bug"
    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init_subclass__(cls) -> None:
        if "kind" not in vars(cls):
            cls.kind = cls.exit_code.name.lower().replace("_", "-")

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.hint = hint

    def facts(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        facts = {"error": self.kind, "exit_code": int(self.exit_code), "subject": self.subject}
        return {**facts, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message


def reason_of(error: Exception) -> str:
    """Return what a foreign error says in a line of ours: the system's own words if it has any.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "/x")), reason_of(OSError())
    ('No such file or directory', 'OSError')
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class UsageError(PackError):
    """The command line, or a file given on it, is not usable."""

    exit_code = ExitCode.USAGE


class PreflightError(PackError):
    """This machine cannot run the bundle."""

    exit_code = ExitCode.PREFLIGHT


class IntegrityError(PackError):
    """Bytes differ from what was promised."""

    exit_code = ExitCode.INTEGRITY


class SignatureError(PackError):
    """A signature, or the file that it covers, does not match the trusted id or key."""

    exit_code = ExitCode.SIGNATURE


class CannotVerifyError(PackError):
    """There is nothing to verify against, or no tool to do it with."""

    exit_code = ExitCode.CANNOT_VERIFY


class SpaceError(PackError):
    """Not enough disk or memory."""

    exit_code = ExitCode.SPACE


class DowngradeError(PackError):
    """The bundle is older than what is installed."""

    exit_code = ExitCode.DOWNGRADE


class NetworkError(PackError):
    """A host cannot be reached, or was reached for where none must be."""

    exit_code = ExitCode.NETWORK


class RecipeError(PackError):
    """The recipe or the lock is unknown, malformed or cannot be satisfied."""

    exit_code = ExitCode.RECIPE


class FetchError(PackError):
    """A transfer failed; trying again may help."""

    exit_code = ExitCode.FETCH


class AccessError(PackError):
    """The source asks for a token, a licence or a permission."""

    exit_code = ExitCode.ACCESS


class CheckpointError(PackError):
    """The checkpoint is damaged, or of a kind that is not supported."""

    exit_code = ExitCode.CHECKPOINT


class InstallError(PackError):
    """The installation did not complete; the message says which generation is active."""

    exit_code = ExitCode.INSTALL


class ServeError(PackError):
    """Serving did not start."""

    exit_code = ExitCode.SERVE
