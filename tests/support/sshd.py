"""A real sshd on loopback, with keys of its own."""

import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class LoopbackSshd:
    """An sshd that lets the running user in with one key; `options` is what ssh is told with -o."""

    WRAPPED: ClassVar[tuple[str, ...]] = ()
    """What starts it."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._settings = settings or {}
        self.port = 0
        self.user = getpass.getuser()

    @property
    def options(self) -> tuple[str, ...]:
        """Keep ssh from the person's keys and known hosts."""
        return (
            f"IdentityFile={self._folder / 'user'}",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={self._folder / 'known'}",
            "StrictHostKeyChecking=accept-new",
            "BatchMode=yes",
        )

    def accepted(self) -> int:
        """Stop it, and return how many logins there were."""
        assert self._process.stderr is not None
        self._process.terminate()
        return self._process.stderr.read().count("Accepted publickey")

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        for name in ("host", "user"):
            command = [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                str(self._folder / name),
            ]
            subprocess.run(command, check=True)
        shutil.copy(self._folder / "user.pub", self._folder / "authorized")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        settings = {
            "HostKey": self._folder / "host",
            "AuthorizedKeysFile": self._folder / "authorized",
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
            "ListenAddress": "127.0.0.1",
            **self._settings,
        }
        for port in range(32200, 32300):
            options = [
                part for name, value in settings.items() for part in ("-o", f"{name}={value}")
            ]
            self._process = subprocess.Popen(
                [*self.WRAPPED, PROGRAM, "-f", "/dev/null", "-D", "-e", *options, "-p", str(port)],
                stderr=subprocess.PIPE,
                text=True,
            )
            assert self._process.stderr is not None
            for line in self._process.stderr:
                if re.search(r"Server listening on", line):
                    self.port = port
                    return self
            self._process.wait()
            self._process.stderr.close()
        raise AssertionError("no sshd could be started")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.communicate()


class OfflineSshd(LoopbackSshd):
    """An sshd in a network namespace of its own, from which no packet leaves; for root alone.

    The laptop, which is outside, reaches it by a proxy command of its ssh.
    """

    WRAPPED = ("unshare", "--net", sys.executable, "-m", "llava_pack.cli.laptop.silence")

    @property
    def options(self) -> tuple[str, ...]:
        """Enter the namespace on the way."""
        program = self._folder / "enter"
        program.write_text(
            f"#!/bin/sh\nexec nsenter --net=/proc/{self.pid}/ns/net "
            f"busybox nc 127.0.0.1 {self.port}\n"
        )
        program.chmod(0o755)
        return (*super().options, f"ProxyCommand={program}")

    @property
    def pid(self) -> int:
        """Of a process inside."""
        return self._process.pid
