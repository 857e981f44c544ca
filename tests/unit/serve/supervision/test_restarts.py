"""How long a process rests before it is started again, with a clock that is given."""

from llava_pack.serve.supervision.restarts import Restarts


def test_each_rest_is_longer_until_a_life_was_long() -> None:
    now_s = 0.0
    restarts = Restarts(clock=lambda: now_s)
    rests = []
    for _ in range(7):
        restarts.begin()
        now_s += 60
        rests.append(restarts.rest_s())
    assert rests == [0.5, 1, 2, 5, 10, 30, 30]
    restarts.begin()
    now_s += 121
    assert restarts.rest_s() == 0.5
    assert restarts.count == 8
