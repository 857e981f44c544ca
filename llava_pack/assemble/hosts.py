"""Every host that a build with these options would talk to, each visited once, all in parallel."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from llava_pack.assemble.model_sources import recipe_sources
from llava_pack.assemble.planning import BuildOptions
from llava_pack.assemble.runtimes import packed_for
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.python import listed_standalone
from llava_pack.fetch.repository import Repository
from llava_pack.format.errors import PackError
from llava_pack.lock.indexes import Indexes, configured_indexes
from llava_pack.lock.resolve import default_index
from llava_pack.lock.torch_build import choose_torch
from llava_pack.network.front import NetworkFront, read_front
from llava_pack.network.index_pages import ACCEPT, links_of, page_of
from llava_pack.network.visit import HostVisit, visit

_PACKAGE = "tokenizers"
"""Every bundle has it, and its wheels are large enough to measure a rate."""
_TORCH = "https://download.pytorch.org/whl"
_RANGE = {"Range": f"bytes=0-{(4 << 20) - 1}"}

_AT_ONCE = 8

Visits = tuple[HostVisit, ...]


@dataclass(frozen=True, kw_only=True)
class Errand:
    """One thing that a build fetches, and how to try it.

    Attributes:
        what: for a person.
        run: returns the hosts on the way, with what is wrong of them.
    """

    what: str
    run: Callable[[], Visits]


@dataclass(frozen=True, kw_only=True)
class ErrandOutcome:
    """What came of one errand; `problem` is what is wrong where no host is to blame."""

    what: str
    visits: Visits
    problem: PackError | None = None

    @property
    def failures(self) -> tuple[PackError, ...]:
        """Return everything that would stop a build."""
        own = () if self.problem is None else (self.problem,)
        return (*own, *(one.problem for one in self.visits if one.problem is not None))


def visit_hosts(
    request: BuildOptions, pip: Callable[[], Mapping[str, str]]
) -> tuple[ErrandOutcome, ...]:
    """Visit every host that a build would.

    Args:
        request: what would be built.
        pip: returns pip's settings, perhaps after a while: the other hosts do not wait for it.

    Raises:
        UsageError: a variable of proxies or certificates cannot be used.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="visit") as pool:
        outcomes = [pool.submit(_tried, errand) for errand in _errands(request, pip)]
        return tuple(outcome.result() for outcome in outcomes)


def _tried(errand: Errand) -> ErrandOutcome:
    try:
        return ErrandOutcome(what=errand.what, visits=errand.run())
    except PackError as error:
        return ErrandOutcome(what=errand.what, visits=(), problem=error)


def _errands(request: BuildOptions, pip: Callable[[], Mapping[str, str]]) -> Iterator[Errand]:
    front = read_front(os.environ)
    pins = None if request.locked is None else request.locked.sources
    sources = recipe_sources(request.recipe, pins, request.sources, request.mirror)
    repositories = [one for one in sources.values() if isinstance(one, Repository)]
    for endpoint in dict.fromkeys(one.endpoint for one in repositories):
        there = [one for one in repositories if one.endpoint == endpoint]
        what = "the Hub" if isinstance(there[0], HubSource) else "ModelScope"
        yield Errand(what=what, run=partial(_repositories, there, front))
    if request.choice.own_python and request.python_archive is None:
        yield Errand(what="CPython", run=lambda: _python(request, front))
    mirror = request.mirror
    indexes = configured_indexes(mirror=mirror.index, torch=mirror.torch, pip=pip())
    environ = {**os.environ, **indexes.environment}
    packages = read_front(environ)
    if not indexes.no_index:
        page = page_of(default_index(environ, indexes), _PACKAGE)
        yield Errand(what="package index", run=lambda: _index(page, packages))
        if torch := _torch_page(request, indexes):
            yield Errand(what="torch's index", run=lambda: _index(torch, packages))


def _repositories(sources: Sequence[Repository], front: NetworkFront) -> Visits:
    """List repositories of one host, and read the beginning of the first one's largest file."""
    try:
        listing, *_ = [source.list() for source in sources]
    except PackError as error:
        visits, _ = visit(sources[0].endpoint, front, {}, page=True)
        if any(one.problem for one in visits):
            return visits
        return (*visits[:-1], replace(visits[-1], problem=error))
    path = max(listing.files, key=lambda path: listing.files[path].size_bytes)
    pinned = replace(sources[0], revision=listing.pinned.revision)
    file = pinned.remote_file(path, listing.files[path])
    return visit(file.url, front, {**file.headers, **_RANGE})[0]


def _index(page: str, front: NetworkFront) -> Visits:
    """Read a package's page, and the beginning of a file that it links to."""
    visits, reply = visit(page, front, ACCEPT, page=True)
    if reply is None or any(one.problem for one in visits):
        return visits
    links = links_of(reply)
    if not links:
        return visit(page, front, ACCEPT)[0]  # what it is, if it is no page of an index
    return (*visits, *visit(links[-1], front, _RANGE)[0])


def _torch_page(request: BuildOptions, indexes: Indexes) -> str | None:
    """Return torch's page on an index of its own, None where the package index has it."""
    choice = request.choice
    torch = choose_torch(
        choice.cuda,
        choice.platform,
        indexes.local_folders(),
        backend=choice.torch_backend,
        series=choice.series,
    )
    torch = packed_for(request.recipe.value).torch(torch, choice.platform, choice.cuda)
    if torch.backend in {None, "pypi"}:
        return None
    return page_of(f"{indexes.torch or _TORCH}/{torch.backend}", "torch")


def _python(request: BuildOptions, front: NetworkFront) -> Visits:
    """Read the beginning of the archive that uv names."""
    platform = request.choice.platform
    triple = f"{platform.arch}-unknown-linux-gnu"
    found = listed_standalone(platform.python, triple, mirror=request.mirror.python)
    return () if found.file is None else visit(found.file.url, front, _RANGE)[0]
