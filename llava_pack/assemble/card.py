"""The card that `build` prints: what a person needs to carry a bundle over and install it."""

import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath

from llava_pack.format.welcome import contact_lines
from llava_pack.shells import for_windows

_FILE = "install.sh looks on its PATH, or takes --python FILE"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person needs to carry a bundle over and install it.

    Attributes:
        bundle: the bundle's folder as the person knows it.
        release: UTC seconds of the release.
        left_out: wheels that the server fetches from its own package index.
        key: fingerprint of the key that signed it, None for an unsigned one.
        python: the version that the server must have, None where the bundle carries one.
    """

    recipe: str
    bundle: str
    bundle_id: str
    release: int
    size_bytes: int
    files: int
    key: str | None = None
    python: str | None = None
    left_out: int = 0
    left_out_bytes: int = 0

    def lines(self, platform: str = sys.platform) -> tuple[str, ...]:
        """Return the card, a line each, to print and to copy by hand.

        Args:
            platform: of this machine, as `sys.platform` names it: its shell gets the copy lines.
        """
        folder = (PureWindowsPath if platform == "win32" else PurePosixPath)(self.bundle).name
        there = f"~/{shlex.quote(folder)}"
        when = datetime.fromtimestamp(self.release, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            f"recipe    {self.recipe}",
            f"release   {when}",
            f"size      {self.size_bytes / 1e9:.2f} GB in {self.files} files",
            *self._left_out(),
            f"id        {self.bundle_id}",
            *([] if self.key is None else [f"key       {self.key}"]),
            *(
                []
                if self.python is None
                else [f"python    not inside: the server needs {self.python}; {_FILE}"]
            ),
            "",
            "copy it to the server, in one of these ways:",
            *(f"  {line}" for line in carry_lines(self.bundle, folder, platform)),
            "",
            "on the server (compare the number with the id above, then install):",
            *(f"  {line}" for line in self._contact(there)),
        )

    def _left_out(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        size = f"{self.left_out_bytes / 1e9:.2f} GB"
        return (f"wheels    {self.left_out}, {size}: the server fetches them from its index, URL",)

    def _contact(self, there: str) -> tuple[str, ...]:
        return contact_lines(there, self.bundle_id, self.key, index=bool(self.left_out))


def carry_lines(bundle: str, folder: str, platform: str = sys.platform) -> tuple[str, ...]:
    """Return ready commands that copy a bundle; USER, SERVER and PORT are left to fill in."""
    if platform == "win32":
        bundle = str(PureWindowsPath(bundle))
        return (
            for_windows(["scp", "-P", "PORT", "-r", bundle, "USER@SERVER:"]),
            for_windows(["robocopy", bundle, f"E:\\{folder}", "/E"]),
        )
    source = shlex.quote(bundle)
    there = shlex.quote(f"USER@SERVER:{folder}/")
    return (
        f"rsync -a --partial --append-verify -e 'ssh -p PORT' {source}/ {there}",
        f"scp -P PORT -r {source} USER@SERVER:",
        f"cp -r {source} /media/USB/     # any file system, FAT32 too: no file is over 3.9 GB",
    )
