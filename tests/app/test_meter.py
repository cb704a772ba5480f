from __future__ import annotations

import pytest

from manypose.app.meter import Meter, Numbers, level, status_line


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ran(seconds: float, in_hz: float, every: int, lag_s: float) -> tuple[Meter, Clock]:
    """Return a meter that saw a source at in_hz of which every n-th picture was shown."""
    clock = Clock()
    meter = Meter(clock)
    for k in range(round(seconds * in_hz)):
        clock.now = 100 + k / in_hz
        meter.source(k + 1, {"stale": k - k // every})
        if k % every == 0:
            meter.done(people=3)
            meter.shown(clock.now - lag_s)
    return meter, clock


def test_rates_are_those_of_the_source_and_the_worker() -> None:
    meter, _ = ran(10, 30, 3, 0.1)
    numbers = meter.numbers()
    assert numbers.in_hz == pytest.approx(30, abs=0.3)
    # n stamps span n - 1 intervals: 10 Hz reads 10, not 10.3
    assert numbers.done_hz == pytest.approx(10, abs=0.05)
    assert numbers.shown_hz == pytest.approx(10, abs=0.05)
    assert numbers.lag_ms == pytest.approx((100, 100, 100))
    assert numbers.people == 3


def test_a_source_that_falls_silent_turns_the_line_red() -> None:
    meter, clock = ran(5, 30, 1, 0.05)
    assert level(meter.numbers()) == "ok"
    clock.now += 1.5
    assert level(meter.numbers()) == "red"
    assert level(meter.numbers(), ended=True) == "ok"
    clock.now += 5
    assert meter.numbers().done_hz == 0
    assert meter.numbers().in_hz == 0


def test_a_late_or_slow_view_turns_amber() -> None:
    late, _ = ran(5, 30, 1, 0.2)
    slow, _ = ran(10, 30, 2, 0.05)
    assert level(late.numbers()) == "amber"
    assert level(slow.numbers()) == "amber"


def test_warm_up_does_not_count_in_the_lag() -> None:
    clock = Clock()
    meter = Meter(clock)
    for k in range(60):
        clock.now += 1 / 30
        meter.source(k, {})
        meter.done(0)
        meter.shown(clock.now - (3.0 if k < 20 else 0.05))
    lag = meter.numbers().lag_ms
    assert lag is not None
    assert lag[2] < 60


def test_the_status_line_reads_as_documented() -> None:
    numbers = Numbers(30, 27.8, 30, (74, 90, 110), 3, dropped={"stale": 63}, silent_s=0.0)
    assert status_line(numbers, "cuda fp16", 12.4) == (
        "in 30.0 | done 27.8 | shown 30.0 fps | lag 74 ms (p99 110) | 3 people"
        " | dropped 2.1 s: stale 63 | cuda fp16 | rec 00:12"
    )
    assert "1 person" in status_line(Numbers(people=1), "", None)
