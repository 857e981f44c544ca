"""The card that `build` prints: what a person needs to carry a bundle over and install it."""

import re
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
        needs: what the server must have, a few words each.
        media: what the bundle fits on.
        key: fingerprint of the key that signed it, None for an unsigned one.
        python: the version that the server must have, None where the bundle carries one.
        shared_bytes: of the bundle, that take no room here: the cache or another bundle has them.
        replaced: id of the bundle that was in the folder, perhaps the same; None where none was.
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
    needs: tuple[str, ...] = ()
    media: str = ""
    shared_bytes: int = 0
    replaced: str | None = None

    def lines(self, platform: str = sys.platform) -> tuple[str, ...]:
        """Return the card, a line each, to print and to copy by hand: what is compared comes first.

        Args:
            platform: of this machine, as `sys.platform` names it: its shell gets the copy lines.
        """
        when = datetime.fromtimestamp(self.release, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            f"recipe    {self.recipe}",
            f"id        {self.bundle_id}",
            *([] if self.key is None else [f"key       {self.key}"]),
            *([f"needs     {'; '.join(self.needs)}"] if self.needs else []),
            *(
                []
                if self.python is None
                else [f"python    not inside: the server needs {self.python}; {_FILE}"]
            ),
            *self._left_out(),
            f"size      {self.size_bytes / 1e9:.2f} GB in {self.files} files",
            *([f"media     {self.media}"] if self.media else []),
            f"release   {when}",
            "",
            "copy it to the server; each way can be typed again, repairs and updates;",
            "the first prints what to type there, the last is for a medium of any file system:",
            *(f"  {line}" for line in carry_lines(self.bundle, platform)),
            "",
            "on the server (compare the number with the id above, then install):",
            *(f"  {line}" for line in self._contact(f"~/{_name_there(self.bundle, platform)}")),
        )

    def _left_out(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        size = f"{self.left_out_bytes / 1e9:.2f} GB"
        return (f"wheels    {self.left_out}, {size}: the server fetches them from its index, URL",)

    def _contact(self, there: str) -> tuple[str, ...]:
        return contact_lines(there, self.bundle_id, self.key, index=bool(self.left_out))


def _name_there(bundle: str, platform: str) -> str:
    """Return what a bundle's folder is called there: a name that no shell takes apart.

    Up to rsync 3.2.3, and in macOS's, the far side's shell reads it once more; later ones quote it.

    >>> _name_there("/media/my disk/a bundle", "linux")
    'a-bundle'
    """
    name = (PureWindowsPath if platform == "win32" else PurePosixPath)(bundle).name
    return re.sub(r"[^A-Za-z0-9._+]+", "-", name).lstrip(".-") or "bundle"


def carry_lines(bundle: str, platform: str = sys.platform) -> tuple[str, ...]:
    """Return ready commands that copy a bundle; USER, SERVER and PORT are left to fill in.

    Whatever was there before, what is there after each is the bundle and nothing else. rsync gets
    the options alone that 2.6.9, 3 and the openrsync of macOS have in common. scp can neither
    continue nor remove, and does not write over read-only files, so it starts anew. No line ends
    with a remark: neither cmd.exe nor the zsh of macOS leaves one out.

    Args:
        bundle: the folder here.
        platform: of this machine.
    """
    login, name = "USER@SERVER", _name_there(bundle, platform)
    remove = ["ssh", "-p", "PORT", login, "rm", "-rf", name]
    if platform == "win32":
        bundle = str(PureWindowsPath(bundle))
        copied = [bundle, f"E:\\{name}", "/MIR", "/IS", "/IT", "/R:3", "/W:5"]
        return (
            for_windows(["llava-pack", "send", bundle, login, "-p", "PORT"]),
            for_windows(remove),
            f"  {for_windows(['scp', '-P', 'PORT', '-r', bundle, f'{login}:{name}'])}",
            for_windows(["robocopy", *copied]),
        )
    source, stick = shlex.quote(bundle), "/Volumes/USB" if platform == "darwin" else "/media/USB"
    return (
        f"llava-pack send {source} {login} -p PORT",
        f"rsync -rtc --partial --delete -e 'ssh -p PORT' {source}/ {login}:{name}/",
        f"{shlex.join(remove)} && scp -P PORT -r {source} {login}:{name}",
        f"rsync -rtc --partial --delete {source}/ {stick}/{name}/",
    )
