"""What each step will move, of a bundle that is to be built, or sent on."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from llava_pack.deploy.estimate import FETCH_RATE, steps_of
from llava_pack.deploy.record import BuiltBundle
from llava_pack.deploy.work import DeployWork

_BUILT = BuiltBundle(inputs="i", contents="c", bundle_id="ab" * 32, folder="/b", size_bytes=10**9)


def _work(**more: Any) -> DeployWork:
    outlook = SimpleNamespace(fetch_bytes=10**9, bundle_bytes=2 * 10**9, findings=())
    installed = SimpleNamespace(prefix="/opt/llava-pack", current={})
    work = DeployWork(
        profile=cast("Any", None),
        options=cast("Any", None),
        inputs="i",
        installed=cast("Any", installed),
        outlook=cast("Any", outlook),
    )
    return replace(work, **more)


def test_a_bundle_to_build_is_sent_as_a_whole_at_most() -> None:
    steps = {step.name: step for step in steps_of(_work(), 1e6, None)}
    assert list(steps) == ["build", "send", "install", "serve", "health"]
    assert steps["build"].about_s > 10**9 / FETCH_RATE
    assert (steps["send"].size_bytes, steps["send"].about_s) == (2 * 10**9, 2000)
    assert "/opt/llava-pack" in steps["install"].does


def test_of_a_bundle_that_is_there_in_part_the_rest_is_sent() -> None:
    steps = {step.name: step for step in steps_of(_work(bundle=_BUILT), 1e6, 5 * 10**6)}
    assert (steps["build"].size_bytes, steps["build"].about_s) == (0, 0)
    assert (steps["send"].size_bytes, steps["send"].about_s) == (5 * 10**6, 5)
