"""Which error each refusal of the system becomes."""

import errno
import os

import pytest

from llava_pack.format.errors import InstallError, PreflightError, SpaceError
from llava_pack.target import failures


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.EROFS, PreflightError, "cannot be written: Read-only"),
        (errno.EACCES, PreflightError, "cannot be written: Permission denied"),
        (errno.ENOSPC, SpaceError, "no space left"),
        (errno.EDQUOT, SpaceError, "no space left"),
        (errno.ENOMEM, SpaceError, "Cannot allocate memory"),
        (errno.EMFILE, InstallError, "Too many open files; no generation is active"),
        (errno.EIO, InstallError, "Input/output error; no generation is active"),
        (errno.ENOENT, InstallError, "No such file or directory; no generation is active"),
    ],
)
def test_each_has_its_error_and_says_what_to_do(tmp_path, code, kind, said):
    with pytest.raises(kind) as caught, failures.explained(tmp_path):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "again" in caught.value.hint or kind is PreflightError


def test_a_pipe_that_was_closed_is_nobody_s_failure(tmp_path):
    with pytest.raises(BrokenPipeError), failures.explained(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_bug_stays_a_bug(tmp_path):
    with pytest.raises(ZeroDivisionError), failures.explained(tmp_path):
        raise ZeroDivisionError
