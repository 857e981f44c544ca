"""Whether a process gives signs of life, judged with a clock that is given."""

from llava_pack.serve.supervision.heartbeat import Heartbeat


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _heart(bound_s: float) -> tuple[Heartbeat, _Clock]:
    clock = _Clock()
    return Heartbeat(bound_s, clock=clock), clock


def test_silence_is_a_stall_after_the_bound_and_not_before() -> None:
    heart, clock = _heart(10)
    for _ in range(20):
        clock.now_s += 0.5
        heart.look()
        assert not heart.stalled
    clock.now_s += 0.5
    heart.look()
    assert heart.stalled
    assert heart.silent_s == 10.5


def test_a_sign_of_life_makes_good() -> None:
    heart, clock = _heart(1)
    for _ in range(100):
        clock.now_s += 0.9
        heart.look()
        heart.heard()
    assert heart.silent_s == 0
    assert not heart.stalled


def test_a_look_after_a_long_time_holds_nothing_against_the_other() -> None:
    """Who looks was stopped, or the machine slept; the other may have lived all the time."""
    heart, clock = _heart(10)
    clock.now_s += 1_000_000
    heart.look()
    assert heart.silent_s == 1
    assert not heart.stalled
