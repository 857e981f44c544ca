"""Keys on the command line: the one to trust, and the passphrase of the one that signs.

A passphrase is asked on the terminal or read from a file; it is never an argument.
"""

import getpass
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.language import translated
from llava_pack.format.errors import UsageError

TrustKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The key that must have signed the bundle: a file from another source, or the "
        "fingerprint from the card.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="Read the key's passphrase from the first line of this file instead of the terminal."
    ),
]


def read_passphrase(file: Path) -> str:
    """Return the first line of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            facts = file.stat()
            shared = facts.st_mode & 0o077 and sys.platform != "win32"  # where modes say nothing
            if stat.S_ISREG(facts.st_mode) and shared:
                console.say(f"! {file} is readable by other accounts: chmod 600 {file}")
            return stream.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "cannot be read as text, expected a passphrase on its first line",
            subject=str(file),
            hint="use another --passphrase-file, or leave it out to be prompted",
        ) from error


def ask_passphrase(prompt: str, *, twice: bool = False) -> str:
    """Ask on the terminal, without showing what is typed.

    Raises:
        UsageError: there is no terminal, or what was typed the second time differs.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "a passphrase is needed, but there is no terminal to ask on",
            subject="passphrase",
            hint="pass it with --passphrase-file FILE",
        )
    typed = getpass.getpass(f"{translated(prompt)}: ")
    if twice and getpass.getpass(f"{translated('repeat')}: ") != typed:
        raise UsageError("the passphrases do not match", subject="passphrase")
    return typed
