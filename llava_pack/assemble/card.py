"""The words around a bundle: the card that `build` prints, and START-HERE.txt."""

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person needs to carry a bundle over and install it.

    Attributes:
        bundle: the bundle's folder as the person knows it.
        release: UTC seconds of the release.
        key: fingerprint of the key that signed it, None for an unsigned one.
    """

    recipe: str
    bundle: str
    bundle_id: str
    release: int
    size_bytes: int
    files: int
    key: str | None = None

    @property
    def folder(self) -> str:
        """Return the last part of the bundle's path: its name on the other side."""
        return self.bundle.rstrip("/").rsplit("/", 1)[-1]

    def lines(self) -> tuple[str, ...]:
        """Return the card, a line each, to print and to copy by hand."""
        there = f"~/{shlex.quote(self.folder)}"
        when = datetime.fromtimestamp(self.release, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            f"recipe    {self.recipe}",
            f"release   {when}",
            f"size      {self.size_bytes / 1e9:.2f} GB in {self.files} files",
            f"id        {self.bundle_id}",
            *([] if self.key is None else [f"key       {self.key}"]),
            "",
            "carry it over, one of:",
            *(f"  {line}" for line in carry_lines(self.bundle, self.folder)),
            "",
            "on the server (compare the number with the id above, then install):",
            *(f"  {line}" for line in contact_lines(there, self.bundle_id, self.key)),
        )


def carry_lines(bundle: str, folder: str) -> tuple[str, ...]:
    """Return ready commands that copy a bundle; USER, SERVER and PORT are left to fill in."""
    source = shlex.quote(bundle)
    there = shlex.quote(f"USER@SERVER:{folder}/")
    return (
        f"rsync -a --partial --append-verify -e 'ssh -p PORT' {source}/ {there}",
        f"scp -P PORT -r {source} USER@SERVER:",
        f"cp -r {source} /media/USB/     # any file system, FAT32 too: no file is over 3.9 GB",
    )


def contact_lines(bundle: str, bundle_id: str, key: str | None = None) -> tuple[str, ...]:
    """Return what is typed on the server for the first installation.

    Args:
        bundle: its folder there.
        bundle_id: that the installer holds it against.
        key: fingerprint of the signing key, which is pinned then: upgrades need no card.
    """
    trusted = "" if key is None else f" --trust-key {key}"
    return (
        f'B={bundle}; D=$(mktemp -d) && cp "$B"/install.sh "$B"/SHA256SUMS "$D" && cd "$D"',
        "sha256sum SHA256SUMS",
        "grep '  install.sh$' SHA256SUMS | sha256sum -c -",
        f'sh install.sh --bundle "$B" --expect {bundle_id}{trusted}',
    )


def start_here(recipe: str, title: str) -> str:
    """Return START-HERE.txt: it cannot hold the id, and is never evidence."""
    steps = "\n".join(f"  {line}" for line in contact_lines("/path/to/this/folder", "ID"))
    return (
        f"llava-pack bundle: {recipe}\n{title}\n\n"
        "This folder holds a vision-language model, its Python packages and an installer that\n"
        "needs no network. It was made by `llava-pack build`, which printed a card with the\n"
        "bundle's id. Take ID from that card, never from this folder.\n\n"
        f"On the server:\n\n{steps}\n\n"
        "The second line must print the id of the card, the third must print `install.sh: OK`.\n"
        "The installer's last line is the next command to type.\n"
    )
