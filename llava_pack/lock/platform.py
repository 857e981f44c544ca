"""What a target accepts: its Python, operating system, architecture and glibc as wheel tags."""

import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.tags import Tag, compatible_tags, cpython_tags

from llava_pack.format.errors import UsageError

_PLATFORM = re.compile(r"^(x86_64|aarch64)-manylinux_2_(\d+)$")
_OLDEST_GLIBC = 5
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A Linux target as wheels see it.

    Attributes:
        python: minor version, for example `3.11`.
        arch: `x86_64` or `aarch64`.
        glibc_minor: the N of glibc 2.N.
    """

    python: str
    arch: str
    glibc_minor: int

    @property
    def python_tag(self) -> str:
        """Return the CPython tag, for example `cp311`."""
        return "cp" + self.python.replace(".", "")

    @property
    def glibc(self) -> str:
        """Return the glibc version, for example `2.35`."""
        return f"2.{self.glibc_minor}"

    @property
    def uv_platform(self) -> str:
        """Return what uv's `--python-platform` takes."""
        return f"{self.arch}-manylinux_2_{self.glibc_minor}"

    def tags(self) -> list[Tag]:
        """Return the wheel tags that it accepts, best first.

        Source: the platform compatibility tags specification (PEP 425, 600).
        """
        version = tuple(int(part) for part in self.python.split("."))
        names = list(self._platforms())
        found = list(cpython_tags(version, platforms=names))
        found += compatible_tags(version, interpreter=self.python_tag, platforms=names)
        return found

    def _platforms(self) -> Iterator[str]:
        for minor in range(self.glibc_minor, _OLDEST_GLIBC - 1, -1):
            yield f"manylinux_2_{minor}_{self.arch}"
            if minor in LEGACY and (self.arch == "x86_64" or minor == 17):
                yield f"{LEGACY[minor]}_{self.arch}"
        yield f"linux_{self.arch}"


def parse_platform(text: str, python: str) -> Platform:
    """Read `--platform`, for example `x86_64-manylinux_2_35`.

    Raises:
        UsageError: it is not of that form.

    >>> parse_platform("x86_64-manylinux_2_35", "3.11").glibc
    '2.35'
    """
    match = _PLATFORM.match(text)
    if match is None:
        raise UsageError(
            f"expected ARCH-manylinux_2_N with ARCH x86_64 or aarch64, got {text!r}",
            subject="--platform",
            hint="a current Ubuntu server is x86_64-manylinux_2_35",
        )
    return Platform(python=python, arch=match[1], glibc_minor=int(match[2]))


def running_platform() -> Platform:
    """Return the platform of the machine and the Python that run this; glibc 2.28 off Linux."""
    libc, version = platform.libc_ver()
    minor = int(version.split(".")[1]) if libc == "glibc" and "." in version else 28
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    arch = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return Platform(python=python, arch=arch, glibc_minor=minor)
