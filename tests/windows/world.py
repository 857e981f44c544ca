"""Windows as these tests have it: a prefix of wine, and llava-pack in its Pythons."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.windows.run import WORLD

DRIVE_C = WORLD / "prefix" / "drive_c"
OPENSSH = DRIVE_C / "windows" / "system32" / "OpenSSH"
GIT = DRIVE_C / "Program Files" / "Git" / "usr" / "bin"
"""Git's installer leaves this one off the PATH."""
_KEPT = ("PATH", "HOME", "TMPDIR", "USER")
NEWEST = "3.13"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Runs llava-pack as a person at a Windows PC does.

    Attributes:
        folder: where a command runs if nothing else is said.
        environ: what every command gets beside what Windows sets itself.
    """

    folder: Path
    environ: Mapping[str, str]

    def command(self, *arguments: object, python: str = NEWEST) -> list[str]:
        """Return what starts llava-pack."""
        return [*_started(python), "-X", "utf8", "-m", "llava_pack", *map(str, arguments)]

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment, without anything of the person who runs the tests."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        wine = {"WINEPREFIX": str(WORLD / "prefix"), "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8"}
        wine["WINEPATH"] = r"C:\windows\system32\OpenSSH"
        return {**kept, **wine, **self.environ, **more}

    def run(
        self, *arguments: object, python: str = NEWEST, stdin: str | None = None, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run llava-pack and return what came of it, its text as UTF-8."""
        done = self._done(self.command(*arguments, python=python), stdin, more)
        said = [text.decode().replace("\r\n", "\n") for text in (done.stdout, done.stderr)]
        return subprocess.CompletedProcess(done.args, done.returncode, *said)

    def run_in_code_page(
        self, *arguments: object, language: str
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run llava-pack in a Windows of a language; return the bytes that it wrote to a pipe."""
        command = [*_started(NEWEST), "-m", "llava_pack", *map(str, arguments)]
        return self._done(command, None, {"LC_ALL": f"{language}.UTF-8"})

    def started(self, *arguments: object) -> "subprocess.Popen[str]":
        """Start llava-pack, and return its process; stderr goes where stdout goes.

        Wine takes no descriptor of a file that was removed, such as pytest's own.
        """
        return subprocess.Popen(
            self.command(*arguments),
            env=self.env(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def python(self, code: str, *arguments: str, **more: str) -> str:
        """Return what a piece of Python prints under Windows."""
        command = [*_started(NEWEST), "-X", "utf8", "-c", code, *arguments]
        done = self._done(command, None, more)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def _done(
        self, command: Sequence[str], stdin: str | None, more: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            command,
            env=self.env(**more),
            cwd=self.folder,
            input=(stdin or "").encode(),
            capture_output=True,
            timeout=600,
            check=False,
        )


def _started(python: str) -> list[str]:
    return ["wine", str(WORLD / python / "py" / "python.exe")]


def windows_path(path: Path) -> str:
    r"""Return a path of Linux as Windows sees it: below Z:\."""
    return "Z:" + str(path.absolute()).replace("/", "\\")
