"""Where the files of a bundle lie, by their names alone: on one medium or several, whole or not."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

from llava_pack.format import sums
from llava_pack.format.chunks import covered, parse_piece
from llava_pack.format.manifest import Manifest
from llava_pack.format.part import PART_NAME
from llava_pack.target.inventory import BundleListing, FileDefect, unreadable

_MAX_DEFECTS = 2_000
_MAX_ENTRIES = 2 * sums.MAX_FILES
_CUT = 56
"""Letters that a name keeps at least where a medium cuts it; Joliet has room for 64."""
_LITTER = frozenset(
    [
        *(".ds_store", ".trashes", ".spotlight-v100", ".fseventsd", ".temporaryitems", "thumbs.db"),
        *("system volume information", "desktop.ini", "$recycle.bin", "lost+found"),
    ]
)
"""What operating systems leave on a medium; nothing of it is ever read, nor what begins so: `._`"""


@dataclass(frozen=True)
class FilePlace:
    """Where a file is, or a part of one that begins at an offset."""

    root: Path
    """Of the bundle on its medium."""
    name: str
    """Below it, as the medium has it."""
    offset: int = 0

    @property
    def path(self) -> Path:
        """The whole path."""
        return self.root / self.name

    @property
    def size_bytes(self) -> int:
        """The size of that file; 0 where it is gone."""
        try:
            return self.path.lstat().st_size
        except OSError:
            return 0


@dataclass(frozen=True, kw_only=True)
class MediaContents:
    """What is there of a bundle."""

    whole: Mapping[str, Sequence[FilePlace]]
    """By listed path, each place where a file of that name is."""
    pieces: Mapping[str, Sequence[FilePlace]]
    """By listed path, the pieces of that file."""
    strange: tuple[FileDefect, ...]
    """What must not be there, or cannot be looked at."""
    parity: tuple[FilePlace, ...] = ()
    litter: int = 0
    """How many files and folders of operating systems lie around."""
    unnamed: tuple[FilePlace, ...] = field(default=(), repr=False)
    """Files whose names nobody knows; `recognised` tells which a medium renamed."""

    def present(self, path: str, size_bytes: int | None) -> bool:
        """Say whether a file is there, as far as names and the sizes of pieces tell."""
        if self.whole.get(path):
            return True
        if size_bytes is None or path not in self.pieces:
            return False
        spans = [(one.offset, one.offset + one.size_bytes) for one in self.pieces[path]]
        return covered(size_bytes, spans)


def survey(listing: BundleListing) -> MediaContents:
    """Return what is where on all media of a bundle; no file is opened."""
    folders = {path[:at] for path in listing.sums for at, char in enumerate(path) if char == "/"}
    folders.add(sums.PARITY_FOLDER)
    whole: dict[str, list[FilePlace]] = {}
    pieces: dict[str, list[FilePlace]] = {}
    parity: list[FilePlace] = []
    unnamed: list[FilePlace] = []
    strange: list[FileDefect] = []
    litter = 0
    for root in listing.roots:
        for count, found in enumerate(_walk(root, "", folders)):
            if count >= _MAX_ENTRIES:
                strange.append(FileDefect("", "too-many", f"at most {_MAX_ENTRIES} files", "more"))
                break
            if isinstance(found, FileDefect):
                strange.append(found)
                continue
            piece = parse_piece(found.name)
            if found.name in listing.sums:
                whole.setdefault(found.name, []).append(found)
            elif is_litter(found.name):
                litter += 1
            elif piece is not None and piece[0] in listing.sums:
                pieces.setdefault(piece[0], []).append(replace(found, offset=piece[1]))
            elif sums.is_parity(found.name):
                parity.append(found)
            elif found.name not in sums.UNLISTED | {PART_NAME}:
                unnamed.append(found)
    return MediaContents(
        whole=whole,
        pieces=pieces,
        strange=tuple(strange),
        parity=tuple(parity),
        litter=litter,
        unnamed=tuple(unnamed),
    )


def _walk(root: Path, below: str, folders: set[str]) -> Iterator[FilePlace | FileDefect]:
    try:
        entries = os.scandir(root / below)
    except OSError as error:
        yield unreadable(below, error, "a folder that can be read")
        return
    with entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if is_litter(path) and path not in folders:
                yield FilePlace(root, path)
            elif entry.is_dir(follow_symlinks=False):
                if path in folders:
                    yield from _walk(root, path, folders)
                else:
                    yield FileDefect(path, "extra", "nothing", "a folder")
            elif not entry.is_file(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "a device, FIFO or socket"
                yield FileDefect(path, "not-a-file", "a file", kind)
            else:
                yield FilePlace(root, path)


def is_litter(path: str) -> bool:
    """Say whether a file or folder is what an operating system leaves, or lies in such a folder.

    >>> is_litter("model/.DS_Store"), is_litter("$RECYCLE.BIN/a"), is_litter("model/a")
    (True, True, False)
    """
    names = path.lower().split("/")
    return any(name in _LITTER or name.startswith("._") for name in names)


def recognised(contents: MediaContents, manifest: Manifest | None) -> MediaContents:
    """Return the contents with files whose names the medium cut, as Joliet does after 64 letters.

    A file that is missing may be one in the same folder whose size is right and whose name begins
    like it; if several do, the one that is most like it. Its digest decides in the end.
    """
    whole = dict(contents.whole)
    rest = list(contents.unnamed)
    for entry in () if manifest is None else manifest.files:
        if not entry.carried or entry.path in whole:
            continue
        folder = entry.path.rpartition("/")[0]
        likely = [one for one in rest if one.name.rpartition("/")[0] == folder]
        likely = [one for one in likely if _alike(one.name, entry.path) > len(folder) + _CUT]
        likely = [one for one in likely if one.size_bytes == entry.size_bytes]
        if likely:
            best = max(likely, key=lambda one: _alike(one.name, entry.path))
            whole[entry.path] = [best]
            rest.remove(best)
    whole_only = () if manifest is None else contents.pieces.keys() - _divided(manifest)
    rest += [place for path in whole_only for place in contents.pieces[path]]
    pieces = {path: found for path, found in contents.pieces.items() if path not in whole_only}
    extra = [FileDefect(one.name, "extra", "nothing", "a file") for one in rest]
    strange = sorted([*contents.strange, *extra], key=lambda defect: defect.path)
    if len(strange) > _MAX_DEFECTS:
        more = FileDefect("", "too-many", f"at most {_MAX_DEFECTS} differences", "more")
        strange[_MAX_DEFECTS:] = [more]
    return replace(contents, whole=whole, pieces=pieces, strange=tuple(strange), unnamed=())


def _divided(manifest: Manifest) -> set[str]:
    """Return the files that may be there in pieces."""
    return {one.path for one in manifest.files if one.sha256 in manifest.chunks.sha256}


def _alike(one: str, other: str) -> int:
    pairs = zip(one.lower(), other.lower(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
