"""Thousands of spoilt events against the page of a real gateway: `make test-attack`.

A seed of its own comes with `PAGE_SEED=N`; the one that was used is printed.
"""

import os
import secrets
from pathlib import Path

from tests.support.gateway import gateway
from tests.support.page_client import page_client
from tests.support.page_tries import spoilt_events

_TRIES = 3000


def test_no_spoilt_event_gets_anything_out(tmp_path: Path) -> None:
    seed = int(os.environ.get("PAGE_SEED") or secrets.randbelow(2**32))
    print(f"seed {seed}")
    secret = tmp_path / "secret.png"
    secret.write_text("somebody-elses-key\n")
    with gateway(tmp_path, "--web") as served, page_client(served) as page:
        tally = spoilt_events(page, secret, seed, _TRIES)
    print(f"{tally.tries} tries, by status {tally.by_status}, wrong {len(tally.wrong)}")
    assert tally.wrong == [], f"PAGE_SEED={seed}"
