from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from manypose.app.handover import Closed, Latest, Line


def test_a_late_consumer_gets_the_newest_and_the_loss_is_counted() -> None:
    slot: Latest[int] = Latest()
    for i in range(5):
        slot.put(i)
    assert slot.get(1.0) == 4
    assert slot.dropped == {"stale": 4}
    assert slot.offered == slot.taken + sum(slot.dropped.values())


def test_an_empty_slot_answers_within_its_limit() -> None:
    start = time.monotonic()
    assert Latest[int]().get(0.05) is None
    assert time.monotonic() - start < 1.0


def test_the_end_and_an_error_come_after_the_last_item() -> None:
    slot: Latest[int] = Latest()
    slot.put(1)
    slot.end(OSError("unplugged"))
    assert slot.get(1.0) == 1
    with pytest.raises(OSError, match="unplugged"):
        slot.get(1.0)
    ended: Latest[int] = Latest()
    ended.end()
    assert list(ended) == []


def test_closing_frees_both_sides() -> None:
    slot: Latest[int] = Latest()
    threading.Timer(0.05, slot.close).start()
    with pytest.raises(Closed):
        slot.get(5.0)
    with pytest.raises(Closed):
        slot.put(1)


def test_a_line_loses_nothing_and_waits_for_room() -> None:
    line: Line[int] = Line(2)
    thread = threading.Thread(target=lambda: ([line.put(i) for i in range(100)], line.end()))
    thread.start()
    assert list(line) == list(range(100))
    thread.join(1)


def test_a_consumer_that_fails_frees_the_producer() -> None:
    line: Line[int] = Line(1)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for i in range(10):
                line.put(i)
        except Closed:
            stopped.set()

    threading.Thread(target=produce, daemon=True).start()
    for _ in line:
        break
    line.close()
    assert stopped.wait(2)


def test_a_producers_error_reaches_the_consumer() -> None:
    line: Line[int] = Line(4)
    line.put(1)
    line.end(ValueError("damaged"))
    with pytest.raises(ValueError, match="damaged"):
        list(line)


def test_latest_box_lag() -> None:
    """A 90 Hz source and a 30 Hz worker: the worker always sees a recent item."""
    slot: Latest[float] = Latest()

    def produce() -> None:
        for _ in range(60):
            slot.put(time.perf_counter())
            time.sleep(1 / 90)
        slot.end()

    threading.Thread(target=produce, daemon=True).start()
    lags = []
    for stamp in slot:
        time.sleep(1 / 30)
        lags.append(time.perf_counter() - stamp)
    assert np.median(lags) < 0.2
    assert slot.dropped["stale"] > 10
    assert slot.offered == slot.taken + sum(slot.dropped.values()) == 60
