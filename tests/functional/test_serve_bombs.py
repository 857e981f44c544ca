"""A sample of tests/attack/bombs.py: bombs at every door, and an honest question beside them."""

import random
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.bombing import Attack
from tests.support.bombs import asked, json_bombs, picture_bombs, png_of_zeros
from tests.support.gateway import KEY, Gateway, gateway
from tests.support.waiting import until


def test_a_sample_of_bombs_hurts_nobody() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(
            Path(folder) / "run", "--web", "--key", KEY, engine="--slots 4 --context 8192"
        ) as served,
        Attack(served) as attack,
    ):
        for name, body in dice.sample(list(json_bombs(dice)), 6):
            attack.json_at_every_door(name, body)
        for name, pictures in dice.sample(list(picture_bombs(dice)), 5):
            attack.pictures_at_every_door(name, pictures)
        verdict = attack.verdict()
    assert not verdict.wrong, str(verdict) + "\n" + "\n".join(verdict.wrong)


def _most_memory(served: Gateway) -> int:
    """Return the most bytes that the gateway's process ever had in memory."""
    status = Path(f"/proc/{served.gateway_pid()}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


@pytest.mark.parametrize(("without", "grows"), [((), False), (("--without", "pixels"), True)])
def test_decoded_pictures_do_not_lie_in_the_gateway(
    tmp_path: Path, without: tuple[str, ...], *, grows: bool
) -> None:
    """Four pictures of 75 MB each were 1.2 GB of it: decoded, joined, waiting to be sent."""
    pictures = [png_of_zeros(5000, 5000 - number) for number in range(4)]
    with gateway(tmp_path / "run", *without) as served, served.client() as http:
        before = _most_memory(served)
        headers = {"Content-Type": "application/json"}
        answer = http.post("/v1/chat/completions", content=asked(*pictures), headers=headers)
        assert "Picture 5000x5000" in answer.text
        assert (_most_memory(served) - before > 50_000_000) is grows


def _pictures_held(served: Gateway) -> int:
    """Return how many files of decoded pictures the gateway has open."""
    held = 0
    for link in Path(f"/proc/{served.gateway_pid()}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            held += "memfd:picture" in str(link.readlink())
    return held


def test_decoded_pictures_are_gone_once_the_model_has_them(tmp_path: Path) -> None:
    """Their room is free from the first token on, so they must not lie there until the last."""
    with gateway(tmp_path / "run", engine="--step-s 0.05") as served, served.client() as http:
        body = asked(png_of_zeros(500, 500), png_of_zeros(501, 500), stream=True, max_tokens=200)
        headers = {"Content-Type": "application/json"}
        path = "/v1/chat/completions"
        for _ in range(2):  # after one that is over, and while one is underway
            with http.stream("POST", path, content=body, headers=headers) as answer:
                assert "data: {" in next(answer.iter_lines())
                # Two are the decoders' own; the answer takes ten seconds.
                until(lambda: _pictures_held(served) <= 2, within_s=8)
