"""Law: whatever is done to a prefix and wherever it is killed, `current` is complete and verified."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llava_pack.cli import removal
from llava_pack.format.errors import InstallError
from llava_pack.format.progress import Silent
from llava_pack.target import generations
from tests.support.bundle import BASE_PYTHON, PYTHON_MINOR
from tests.support.memory_disk import memory_disk
from tests.support.site import RECIPE, Site, complete

QUICK_UV = f"""\
python={BASE_PYTHON}
packages=lib/python{PYTHON_MINOR}/site-packages
case "$*" in
*' venv '*)
    for venv; do :; done
    mkdir -p "$venv/bin" "$venv/$packages"
    ln -s "$python" "$venv/bin/python"
    echo "home = ${{python%/*}}" >"$venv/pyvenv.cfg" ;;
*' pip sync '*)
    while [ "$1" != --python ]; do shift; done
    "$python" -I -S -m zipfile -e wheels/*.whl "${{2%/bin/python}}/$packages" ;;
esac
exit
"""
"""In place of uv, for speed: what uv makes is in the tests of faults."""
KEPT = st.none() | st.integers(0, 120)
"""The write before which it is killed; None for not at all."""


class Installation(RuleBasedStateMachine):
    """One prefix, three bundles of one recipe."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="llava-pack-", dir=memory_disk()))
        self.site = Site(self.folder)
        for number, name in enumerate(("one", "two", "three")):
            self.site.write(
                name,
                weights=f"weights {number}".encode(),
                uv_first=QUICK_UV,
            )

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule(name=st.sampled_from(["one", "two", "three"]), at=KEPT)
    def install(self, name, at):
        if at is None:
            self.site.install(name)
            assert self.site.says("hello") == f"{self.site.prefix} hello"
        else:
            self.site.killed(f"write:{at}", *self.site.installing(name))

    @rule(number=st.none() | st.integers(1, 3), at=KEPT)
    def revert(self, number, at):
        before = self.site.current()
        if at is not None:
            self.site.killed(f"write:{at}", "revert", *([str(number)] if number else []))
            return
        try:
            removal.revert(self.site.prefix, None, number, Silent())
        except InstallError:
            assert self.site.current() == before

    @rule(keep=st.integers(1, 2), at=KEPT)
    def gc(self, keep, at):
        before = self.site.current()
        if at is not None:
            self.site.killed(f"write:{at}", "gc", str(keep))
        elif before is not None:
            removal.gc(self.site.prefix, Silent(), keep=keep)
            assert len(generations.numbers(self.site.prefix, RECIPE)) <= keep
        assert self.site.current() == before

    @rule()
    def uninstall(self):
        if self.site.current() is not None:
            removal.uninstall(self.site.prefix, None, Silent())
            assert not self.site.prefix.exists()

    @invariant()
    def current_is_complete(self):
        if hasattr(self, "site"):
            complete(self.site.prefix)


Installation.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestInstallation = Installation.TestCase
