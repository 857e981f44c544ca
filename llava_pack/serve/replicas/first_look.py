"""The first look at replicas, before a server starts: do they serve the same, and what?"""

import asyncio
from collections.abc import Callable, Sequence

from llava_pack.format.errors import ServeError
from llava_pack.serve.replicas.address import ReplicaAddress
from llava_pack.serve.replicas.dialling import direct
from llava_pack.serve.replicas.refusals import KeyRefusedError
from llava_pack.serve.replicas.report import ReplicaReport, check_same

Looks = dict[str, ReplicaReport | ServeError]
"""What each replica said of itself, by address; or why it could not be asked."""


def first_look(replicas: Sequence[ReplicaAddress]) -> Looks:
    """Ask every replica how it stands, all at once.

    Raises:
        UsageError: one serves several models, or has replicas itself.
        KeyRefusedError: one refuses its key.
    """
    return asyncio.run(_looks(replicas))


def served_by(looks: Looks) -> tuple[str, str | None]:
    """Return the name and the bundle id that the first replica has that could be asked.

    Raises:
        ServeError: none could.
    """
    found = next((look for look in looks.values() if isinstance(look, ReplicaReport)), None)
    if found is None:
        told = "; ".join(f"{address}: {why}" for address, why in looks.items())
        raise ServeError(
            f"no replica can be reached: {told}",
            hint="start one, or check the addresses: llava-pack serve runs there",
        )
    return found.model, found.bundle_id


def check_looks(
    looks: Looks, model: str, bundle_id: str | None, say: Callable[[str], None]
) -> None:
    """Check that all replicas that could be asked serve the same; say which could not be.

    Raises:
        UsageError: one has another model.
        IntegrityError: one has another bundle.
    """
    for address, look in looks.items():
        if isinstance(look, ReplicaReport):
            check_same(address, look, model, bundle_id)
        else:
            say(f"! {address}: {look.message}; it is asked again every second")
    if bundle_id is None:
        say("! folders have no bundle id: nothing checks that the replicas serve the same weights")


async def _looks(replicas: Sequence[ReplicaAddress]) -> Looks:
    looks = await asyncio.gather(*(_look(one) for one in replicas))
    return {one.address: look for one, look in zip(replicas, looks, strict=True)}


async def _look(replica: ReplicaAddress) -> ReplicaReport | ServeError:
    async with direct(replica) as connection:
        try:
            return await connection.report()
        except KeyRefusedError as error:
            error.subject = f"--replica {replica.address}"
            raise
        except ServeError as error:
            return error
