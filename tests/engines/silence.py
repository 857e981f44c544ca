"""Nothing of an engine speaks to anybody but this machine's own address, whatever it starts."""

import shutil

import pytest

from tests.engines.installed import Installed, is_known, serving, text_of
from tests.support.traces import reached, traced


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_it_reaches_for_nothing_outside(installed: Installed) -> None:
    log = installed.home / "strace.log"
    with serving(installed, wrap=traced(log)) as served:
        assert is_known(text_of(served.ask()))
        installed.told("stop")  # strace keeps signals to itself
    assert reached(log, "llava-pack")[1] == []
    assert "/engine/bin/python" in log.read_text(errors="replace")  # it was looked at too
