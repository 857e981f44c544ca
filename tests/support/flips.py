"""One flipped bit anywhere in a signed bundle: no way in may take it."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from llava_pack.cli.verification import examine
from llava_pack.format.errors import PackError
from llava_pack.format.progress import Silent
from llava_pack.format.signature import SIG_NAME, SSHSIG_NAME
from llava_pack.format.sums import SUMS_NAME, UNLISTED
from llava_pack.target import inventory, trust
from llava_pack.target.inventory import refusal
from tests.support.keys import Publisher
from tests.support.site import Site

Way = Callable[[Path], int]
"""Verify or install a bundle, whose publisher's key and whose id are known, and return the code."""
_CODES = {SUMS_NAME: {5}, SIG_NAME: {4, 5}, SSHSIG_NAME: {4, 5}}
"""What ends with another code than 4. A signature is bad, or only not as it was written."""


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file, at `bit` modulo its length."""
    with path.open("r+b") as stream:
        at, mask = divmod(bit % (8 * path.stat().st_size), 8)
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1 << mask]))


def flips(root: Path, ways: dict[str, Way], chance: random.Random, tries: int) -> Iterator[str]:
    """Flip one bit after the other, first of what is not listed, and try every way in.

    Yields:
        What went wrong, or nothing.
    """
    paths = [path for path in root.rglob("*") if path.is_file()]
    chance.shuffle(paths)
    paths.sort(key=lambda path: path.name not in UNLISTED)
    for number in range(tries):
        path, bit = paths[number % len(paths)], chance.randrange(2**40)
        name = path.relative_to(root).as_posix()
        flip(path, bit)
        found = {way: enter(root) for way, enter in ways.items()}
        flip(path, bit)
        expected = _CODES.get(name, {4})
        bad = {way: code for way, code in found.items() if code not in expected}
        yield f"bit {bit} of {name}: expected {expected}, got {bad}" if bad else ""


def ways_into(site: Site, publisher: Publisher, name: str) -> dict[str, Way]:
    """Return `verify` and an install of a site's bundle, with its key trusted and its id known."""
    key = str(publisher.public_file)

    def verify(_root: Path) -> int:
        listing = inventory.read_listing(site.medium(name), expect=site.ids[name])
        verdict = trust.judge(listing, trust_key=key, prefix=None)
        found = examine(listing, key=verdict.key, progress=Silent())
        return int(refusal(found.defects, of=1).exit_code) if found.defects else 0

    def install(_root: Path) -> int:
        shutil.rmtree(site.prefix, ignore_errors=True)  # what is stored is not read from the medium
        site.install(name, trust_key=key)
        return 0

    return {"verify": _code_of(verify), "install": _code_of(install)}


def _code_of(way: Way) -> Way:
    def enter(root: Path) -> int:
        try:
            return way(root)
        except PackError as error:
            return int(error.exit_code)

    return enter
