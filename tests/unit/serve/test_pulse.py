"""Whether an engine moves, judged with a clock that is given."""

from llava_pack.engine.stats import Stats
from llava_pack.serve.liveness import Pulse


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _pulse(stall_s: float = 60.0) -> tuple[Pulse, _Clock]:
    clock = _Clock()
    pulse = Pulse(stall_s, clock)
    pulse.begin()
    return pulse, clock


def test_idle_for_hours_is_healthy() -> None:
    pulse, clock = _pulse()
    for _ in range(10_000):
        clock.now_s += 0.5
        pulse.hear(Stats(steps=7))
        assert not pulse.vitals.stalled


def test_busy_for_hours_is_healthy_while_steps_end() -> None:
    pulse, clock = _pulse()
    for steps in range(1000):
        clock.now_s += 30
        pulse.hear(Stats(steps=steps, running=8, waiting=56, last_step_age_s=29))
        assert not pulse.vitals.stalled


def test_work_without_a_step_is_a_stall_after_the_bound_and_not_before() -> None:
    pulse, _clock = _pulse()
    pulse.hear(Stats(steps=3, running=1, last_step_age_s=60.0))
    assert not pulse.vitals.stalled
    pulse.hear(Stats(steps=3, running=1, last_step_age_s=60.5))
    assert pulse.vitals.stalled


def test_a_process_that_does_not_answer_has_stalled_even_with_nothing_to_do() -> None:
    pulse, clock = _pulse(stall_s=10)
    pulse.hear(Stats(steps=3))
    clock.now_s += 4
    assert pulse.vitals.stalled_s == 0
    clock.now_s += 4
    assert pulse.vitals.stalled_s == 8
    assert not pulse.vitals.stalled
    clock.now_s += 4
    assert pulse.vitals.stalled


def test_the_longest_step_that_ended_well_widens_the_bound_but_not_without_end() -> None:
    pulse, _clock = _pulse(stall_s=10)
    pulse.hear(Stats(steps=1, running=1, last_step_age_s=9))
    pulse.hear(Stats(steps=2, running=1, last_step_age_s=0))
    assert pulse.vitals.bound_s == 27
    pulse.hear(Stats(steps=2, running=1, last_step_age_s=500))
    pulse.hear(Stats(steps=3, running=1, last_step_age_s=0))
    assert pulse.vitals.bound_s == 100


def test_what_has_ended_is_not_waited_for() -> None:
    pulse, clock = _pulse()
    pulse.hear(Stats(steps=1, running=1, last_step_age_s=99))
    pulse.end()
    clock.now_s += 1000
    assert not pulse.vitals.stalled
