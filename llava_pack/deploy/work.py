"""What `deploy` is asked for, and what is to do: found out without changing either side."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from llava_pack import __version__
from llava_pack.assemble.forecast import Outlook
from llava_pack.assemble.locked_inputs import recipe_digest
from llava_pack.assemble.locking import lock_of
from llava_pack.assemble.model_sources import recipe_sources
from llava_pack.assemble.planning import BuildOptions, Plan
from llava_pack.deploy.record import BuiltBundle
from llava_pack.deploy.remote_commands import Installed
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
from llava_pack.fetch.source import Source
from llava_pack.format import records
from llava_pack.format.errors import UsageError
from llava_pack.format.target import Gpu
from llava_pack.lock.profile import TargetProfile

_ROUNDED_BITS = 30
"""Memory counts in whole GiB: a kernel takes a little more or less of it at each start."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person asks `deploy` for.

    Attributes:
        destination: how the server is reached, as a name for what is remembered of it.
        options: what is built for a machine, and where.
        typed: what was typed about it: another text is another bundle.
        upgrade: newer packages and weights are looked for.
        prefix: on the server, None for where it is or belongs.
        port: that the server listens on.
        service: systemd serves.
        account: that a service of root's runs as.
        out: the bundle's folder here, None for the cache.
        install: what the installer is told beside what to install.
        reached_as: what `serve` is told of how this laptop gets there.
    """

    destination: str
    options: Callable[[TargetProfile], BuildOptions]
    typed: str
    upgrade: bool = False
    prefix: str | None = None
    port: int = 7860
    service: bool = False
    account: str | None = None
    out: Path | None = None
    install: tuple[str, ...] = ()
    reached_as: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeployWork:
    """What is to do, found out without changing anything on either side.

    Attributes:
        options: what a build is asked for.
        inputs: their digest.
        installed: on the server.
        chosen_prefix: where it will be installed, if that is another place.
        as_root: the server serves as root, because root logs in.
        bundle: that was built of the same before; None where one is to be built.
        outlook: what the bundle comes to; None where the server has it already.
        plan: for the build; None where nothing is to be built.
    """

    profile: TargetProfile
    options: BuildOptions
    inputs: str
    installed: Installed
    chosen_prefix: str = ""
    as_root: bool = False
    bundle: BuiltBundle | None = None
    outlook: Outlook | None = None
    plan: Plan | None = None

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return self.options.recipe.value.name

    @property
    def model(self) -> str:
        """The name of the model, which the server serves it by."""
        return self.options.recipe.value.model.name

    @property
    def prefix(self) -> str:
        """Where it is installed, or will be."""
        return self.chosen_prefix or self.installed.prefix

    def lies(self, bundle: BuiltBundle) -> bool:
        """Whether a bundle lies where it shall, which a person may have chosen."""
        return Path(bundle.folder) == self.options.out.absolute()

    @property
    def builds(self) -> bool:
        """Whether a bundle is to be built."""
        return self.bundle is None

    @property
    def sends(self) -> bool:
        """Whether the server's active bundle is another one."""
        active = self.installed.current.get(self.recipe)
        return self.bundle is None or active != self.bundle.bundle_id


def inputs_digest(options: BuildOptions, typed: str) -> str:
    """Return the digest of everything that a bundle is chosen by, but what is published by now.

    Args:
        options: with the choice for the target's facts.
        typed: the options of the command line.
    """
    target = options.target
    sources = recipe_sources(options.recipe, None, options.sources)
    facts = {
        "version": __version__,
        "recipe": recipe_digest(options.recipe),
        "typed": typed,
        "folders": [list(_looks(one)) for one in sources.values()],
        "choice": records.encode(options.choice),
        "gpus": None if target is None else [_lasting(gpu) for gpu in target.gpus or ()],
        "memory": None if target is None else (target.memory_bytes or 0) >> _ROUNDED_BITS,
    }
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _lasting(gpu: Gpu) -> Any:
    """Return what stays as it is while a server runs on a GPU: not how much memory is free."""
    return records.encode(replace(gpu, memory_free_bytes=None))


def unit_name(recipe: str) -> str:
    """Return the name of a recipe's unit of systemd.

    >>> unit_name("llava-v1.5-7b")
    'llava-pack-llava-v1_5-7b'
    """
    return f"llava-pack-{re.sub('[^A-Za-z0-9_-]', '_', recipe)}"


def check_account(wanted: Wanted, profile: TargetProfile) -> None:
    """Refuse a service that systemd would not be given, before anything is built.

    Raises:
        UsageError: root's needs an account, another one has its own.
    """
    if not wanted.service:
        return
    if profile.uid == 0 and wanted.account is None:
        raise UsageError(
            "a service that root installs runs as an account of its own, expected --account",
            subject="--service",
            hint="on the server: useradd --system --shell /usr/sbin/nologin llava; then add "
            "--account llava",
        )
    if profile.uid != 0 and wanted.account is not None:
        raise UsageError(
            "only root can have a service run as another account",
            subject="--account",
            hint="leave it out, or log in as root",
        )


def _looks(source: Source) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of change of the files of a folder; of a repository nothing."""
    if isinstance(source, DirectorySource):
        for path in sorted(source.folder.rglob("*")):
            if path.is_file():
                facts = path.stat()
                yield path.relative_to(source.folder).as_posix(), facts.st_size, facts.st_mtime_ns


def contents_digest(plan: Plan, options: BuildOptions, cache: Cache) -> str:
    """Return the digest of what a plan pins, without its date."""
    pinned = records.encode(replace(lock_of(plan, options, cache), release=0))
    return sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()
