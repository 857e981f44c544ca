"""An install that is killed (-9) somewhere, and done again."""

import random
import shutil
from collections.abc import Iterator

from tests.support.site import Site, complete


def killed_installs(site: Site, chance: random.Random, tries: int) -> Iterator[str]:
    """Kill first installs and upgrades at changes to the file system that are drawn by chance.

    Yields:
        What went wrong, or nothing: the prefix was not whole, the next run did not complete it, or
        what it came to differs from an install that nobody killed.
    """
    site.write("old")
    site.write("new", weights=b"newer weights", release=1_800_000_000)
    untouched, writes = {}, {}
    for first in (True, False):
        _begin(site, first=first)
        name = "old" if first else "new"
        writes[first] = int(site.killed("write:", *site.installing(name)).stdout)
        untouched[first] = site.state()
    for _ in range(tries):
        first = chance.random() < 0.3
        _begin(site, first=first)
        point = f"write:{chance.randrange(writes[first])}"
        yield _killed(site, "old" if first else "new", point, untouched[first])


def _begin(site: Site, *, first: bool) -> None:
    if first:
        shutil.rmtree(site.prefix, ignore_errors=True)
    elif not (site.folder / "saved").exists():
        shutil.rmtree(site.prefix, ignore_errors=True)
        site.install("old")
        site.save()
    else:
        site.restore()


def _killed(site: Site, name: str, point: str, untouched: object) -> str:
    done = site.killed(point, *site.installing(name))
    if done.returncode not in {-9, 0}:  # threads place files: the last writes are not always made
        return f"{name} at {point}: exit {done.returncode}: {done.stderr}"
    complete(site.prefix)
    site.install(name)
    return "" if site.state() == untouched else f"{name} at {point}: not what an install gives"
