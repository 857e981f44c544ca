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
from llava_pack.deploy.record import BuiltBundle, Record, Records
from llava_pack.deploy.remote_commands import RemoteCommands
from llava_pack.deploy.work import DeployWork, Wanted, contents_digest, inputs_digest
from llava_pack.fetch.cache import Cache
from llava_pack.format.progress import Progress


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
        inputs = inputs_digest(options, wanted.typed)
        recipe = options.recipe.value.name
        record = self._kept.read(wanted.destination, recipe)
        known = record.prefix if record is not None else None
        installed = self._server.installed(wanted.prefix or known)
        work = DeployWork(
            profile=profile,
            options=replace(options, out=wanted.out or self._kept.folder(recipe, inputs)),
            inputs=inputs,
            installed=installed,
            prefix=installed.prefix,
            as_root=profile.uid == 0 and not wanted.service,
        )
        bundle = record.bundle if record is not None and record.bundle.inputs == inputs else None
        there = replace(work, bundle=bundle)
        if bundle is not None and not wanted.upgrade and not there.sends:
            return there
        return self._planned(work, self._kept.built(inputs) or bundle)

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
            return replace(work, prefix=self._place(work, outlook))
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
        place = choose_place(work.profile, outlook.target_bytes)
        if place is None or place == default_place(work.profile):
            return work.prefix
        return f"{place.path.rstrip('/')}/llava-pack"

    def build(self, work: DeployWork, accepted: Collection[str]) -> BuiltBundle:
        """Return the bundle, built now where it was not before.

        Raises:
            PackError: see `assemble.build.build`.
        """
        if work.bundle is not None:
            return work.bundle
        options = replace(work.options, accepted=frozenset(accepted))
        plan = work.plan or plan_build(options, self._cache, self._progress)
        card = build(options, self._cache, self._progress, plan=plan)
        bundle = BuiltBundle(
            inputs=work.inputs,
            contents=contents_digest(plan, options, self._cache),
            bundle_id=card.bundle_id,
            folder=card.bundle,
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
        """Install what was sent, and remove what is left of it."""
        self._server.install(folder, bundle.bundle_id, work.prefix, self._wanted.install)
        self._remember(work, bundle, installed=work.prefix)
        self._server.remove(folder)

    def serve(self, work: DeployWork) -> None:
        """Have the server serve by itself, if it does not."""
        options = ["--port", str(self._wanted.port)]
        if not self._wanted.service:
            more = [*options, "--keep-token", *self._wanted.reached_as]
            more += ["--as-root"] if work.as_root else []
            self._server.serve(work.prefix, [work.recipe, *more])
        elif work.sends or not self._server.service_runs(work.prefix, options):
            self._server.service(work.prefix, [work.recipe], ["--", *options])

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
