"""The steps of `deploy`: what is to do is found out first, and nothing is done twice."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from llava_pack.assemble.build import build, check_target
from llava_pack.assemble.forecast import Outlook, look_ahead, outlook_of
from llava_pack.assemble.install_location import choose_place, default_place
from llava_pack.assemble.planning import Plan, plan_build
from llava_pack.client.sending.cargo import read_cargo
from llava_pack.client.sending.send import SendRequest, look, send_bundle
from llava_pack.client.ssh_tunnel import Remote
from llava_pack.deploy.record import BuiltBundle, Record, Records
from llava_pack.deploy.remote_commands import Installed, RemoteCommands
from llava_pack.deploy.work import (
    DeployWork,
    Wanted,
    check_account,
    contents_digest,
    inputs_digest,
    unit_name,
)
from llava_pack.fetch.cache import Cache
from llava_pack.format.progress import Progress

_EVERYBODYS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are avoided
"""Places where another account could have made our folder before."""


class Deployment:
    """The steps, each taken only where it is not done already.

    Args:
        wanted: what was asked for.
        server: where it goes.
        kept: what is remembered.
        cache: of fetched files.
        progress: told of every step.
    """

    def __init__(
        self,
        wanted: Wanted,
        server: RemoteCommands,
        kept: Records,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._wanted = wanted
        self._server = server
        self._kept = kept
        self._cache = cache
        self._progress = progress

    def look(self) -> DeployWork:
        """Return what is to do, without anything heavy.

        Raises:
            PreflightError: the bundle would not run there; every reason is named.
            PackError: see `plan_build`, and what the server answers.
        """
        wanted = self._wanted
        profile = self._server.probe()
        options = wanted.options(profile)
        check_account(wanted, profile)
        inputs = inputs_digest(options, wanted.typed)
        recipe = options.recipe.value.name
        record = self._kept.read(wanted.destination, recipe)
        work = DeployWork(
            profile=profile,
            options=replace(options, out=wanted.out or self._kept.folder(recipe, inputs)),
            inputs=inputs,
            installed=self._installed(None if record is None else record.prefix),
            as_root=profile.uid == 0 and not wanted.service,
        )
        bundle = record.bundle if record is not None else None
        if bundle is not None and not (bundle.inputs == inputs and work.lies(bundle)):
            bundle = None
        there = replace(work, bundle=bundle)
        if bundle is not None and not wanted.upgrade and not there.sends:
            return there
        built = self._kept.built(inputs)
        return self._planned(work, built if built is not None and work.lies(built) else bundle)

    def _installed(self, known: str | None) -> Installed:
        """Return what is installed: where it was said, else where it was put before, or belongs."""
        if self._wanted.prefix or not known:
            return self._server.installed(self._wanted.prefix)
        found = self._server.installed(known)
        return found if found.current else self._server.installed(None)

    def _planned(self, work: DeployWork, bundle: BuiltBundle | None) -> DeployWork:
        """Return the work with its outlook; a bundle of the same is taken, unless newer is wanted.

        Args:
            work: without a bundle.
            bundle: that was built of the same inputs, perhaps gone from here.
        """
        plan = None
        if bundle is not None and bundle.lies_here and not self._wanted.upgrade:
            outlook = look_ahead(work.options, self._cache, self._progress)
        else:
            plan = plan_build(work.options, self._cache, self._progress)
            outlook = outlook_of(work.options, plan, self._cache)
            if bundle is None or self._is_newer(plan, work, bundle):
                bundle = None
            else:
                plan = None
        work = replace(work, bundle=bundle, outlook=outlook, plan=plan)
        if work.sends:
            check_target(work.profile, outlook)
            return replace(work, chosen_prefix=self._place(work, outlook))
        return work

    def _is_newer(self, plan: Plan, work: DeployWork, bundle: BuiltBundle) -> bool:
        """Whether a bundle has to be built: what is published now differs, or it is gone."""
        if contents_digest(plan, work.options, self._cache) != bundle.contents:
            return True
        return replace(work, bundle=bundle).sends and not bundle.lies_here

    def _place(self, work: DeployWork, outlook: Outlook) -> str:
        """Return the prefix: a first one goes to a disk that is large enough."""
        if self._wanted.prefix or work.installed.current:
            return work.prefix
        private = tuple(one for one in work.profile.disks or () if one.path not in _EVERYBODYS)
        profile = replace(work.profile, disks=private)
        place = choose_place(profile, outlook.target_bytes)
        if place is None or place == default_place(profile):
            return work.prefix
        return f"{place.path.rstrip('/')}/llava-pack"

    def build(self, work: DeployWork, accepted: Collection[str]) -> BuiltBundle:
        """Return the bundle, built now where it was not before.

        Raises:
            PackError: see `assemble.build.build`.
        """
        if work.bundle is not None:
            if work.sends:  # what is sent now stays, whatever else is deployed meanwhile
                self._remember(work, work.bundle, installed="")
            return work.bundle
        options = replace(work.options, accepted=frozenset(accepted), replace=True)
        plan = work.plan or plan_build(options, self._cache, self._progress)
        card = build(options, self._cache, self._progress, plan=plan)
        bundle = BuiltBundle(
            inputs=work.inputs,
            contents=contents_digest(plan, options, self._cache),
            bundle_id=card.bundle_id,
            folder=str(Path(card.bundle).absolute()),
            size_bytes=card.size_bytes,
        )
        self._remember(work, bundle, installed="")
        return bundle

    def request(self, work: DeployWork, bundle: BuiltBundle) -> SendRequest:
        """Return what is sent: into the prefix, so that the installer can move it into its store.

        Raises:
            PackError: see `read_cargo`.
        """
        cargo = read_cargo(Path(bundle.folder), expect=bundle.bundle_id)
        folder = f"{work.prefix}/received/{work.recipe}-{bundle.bundle_id[:12]}"
        return SendRequest(cargo=cargo, to=folder, prefix=work.prefix)

    def send(self, work: DeployWork, bundle: BuiltBundle) -> str:
        """Send what the server does not have, and return the folder there.

        Raises:
            PackError: see `send_bundle`.
        """
        return send_bundle(self._server.host, self.request(work, bundle), self._progress).folder

    def missing_bytes(self, work: DeployWork) -> int | None:
        """Return how much of the bundle the server lacks; None where it is not built yet."""
        if work.bundle is None:
            return None
        request = self.request(work, work.bundle)
        return look(self._server.host, request, self._progress)[1].size_bytes

    def install(self, work: DeployWork, bundle: BuiltBundle, folder: str) -> None:
        """Install what was sent."""
        self._server.install(folder, bundle.bundle_id, work.prefix, self._wanted.install)
        self._remember(work, bundle, installed=work.prefix)

    def serve(self, work: DeployWork) -> Remote:
        """Have the server serve by itself, if it does not, and return where.

        Raises:
            PackError: the server's own error.
        """
        wanted, recipe, prefix = self._wanted, work.recipe, work.prefix
        self._server.remove(prefix, recipe)
        options = ["--port", str(wanted.port)]
        unit = unit_name(recipe)
        if self._server.service_runs(prefix, recipe, unit, options):
            self._server.wait_ready(prefix)
        elif wanted.service:
            self._server.end_server(prefix, work.model)
            account = ["--account", wanted.account] if wanted.account else []
            self._server.service(prefix, unit, [*account, "--", recipe, *options])
            self._server.wait_ready(prefix)
        else:
            root = ["--as-root"] if work.as_root else []
            more = [*options, "--keep-token", *wanted.reached_as, *root]
            self._server.serve(prefix, [recipe, *more])
        return self._server.reached(prefix, work.model)

    def health(self, work: DeployWork) -> str:
        """Return what `health` says on the server, in a line."""
        return self._server.health(work.prefix)

    def _remember(self, work: DeployWork, bundle: BuiltBundle, installed: str) -> None:
        self._kept.write(
            Record(
                destination=self._wanted.destination,
                recipe=work.recipe,
                bundle=bundle,
                prefix=installed,
            )
        )
