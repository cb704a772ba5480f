"""The four numbers of a live view, never one: in, done, shown and lag; and the drops by reason.

Rates are counts over the last two seconds, lag is capture to screen over the last ten. Lag starts
when a picture reaches the computer; exposure and the screen's own delay are not in it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

RATE_S = 2.0
LAG_S = 10.0
_WARM_UP = 20  # frames that do not count
_LAG_AMBER_MS = 150.0
_SILENT_RED_S = 1.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """The state of one source: Hz, milliseconds (50th, 90th, 99th percentile), counts.

    lag_ms is None before anything was shown; silent_s is the time since the source's last picture,
    None before the first.
    """

    in_hz: float = 0.0
    done_hz: float = 0.0
    shown_hz: float = 0.0
    lag_ms: tuple[float, float, float] | None = None
    people: int = 0
    read: int = 0
    done: int = 0
    shown: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    silent_s: float | None = None

    @property
    def dropped_s(self) -> float:
        """Pictures dropped since the network was loaded, as seconds of the source."""
        return sum(self.lost.values()) / self.in_hz if self.in_hz > 0 else 0.0

    @property
    def lost(self) -> dict[str, int]:
        """Drops by reason without those of the warm-up."""
        return {k: v for k, v in self.dropped.items() if k != "loading"}


class Meter:
    """Counts what passes one source; called from several threads."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._read: deque[tuple[float, int]] = deque()
        self._done: deque[float] = deque()
        self._shown: deque[float] = deque()
        self._lags: deque[tuple[float, float]] = deque()
        self._last_picture: float | None = None
        self._counts: Counter[str] = Counter()
        self._dropped: dict[str, int] = {}
        self._people = 0

    def source(self, read: int, dropped: Mapping[str, int]) -> None:
        """Note how many pictures the source has offered so far, and its losses."""
        now = self._clock()
        with self._lock:
            if read != self._counts["read"]:
                self._last_picture = now
                self._counts["read"] = read
            self._read.append((now, read))
            while len(self._read) > 2 and self._read[1][0] <= now - RATE_S:
                self._read.popleft()
            self._dropped = dict(dropped)

    def done(self, people: int) -> None:
        """Note a result."""
        with self._lock:
            self._counts["done"] += 1
            self._people = people
            self._push(self._done)

    def shown(self, capture_s: float) -> None:
        """Note that the result of the picture captured then is on the screen."""
        with self._lock:
            now = self._clock()
            self._counts["shown"] += 1
            self._push(self._shown)
            if self._counts["done"] > _WARM_UP:
                self._lags.append((now, now - capture_s))
            while self._lags and self._lags[0][0] < now - LAG_S:
                self._lags.popleft()

    def _push(self, stamps: deque[float]) -> None:
        now = self._clock()
        stamps.append(now)
        while stamps[0] < now - RATE_S:
            stamps.popleft()

    def restart(self) -> None:
        """Begin anew with another source."""
        with self._lock:
            for row in (self._read, self._done, self._shown, self._lags):
                row.clear()
            self._counts.clear()
            self._last_picture = None
            self._people = 0
            self._dropped = {}

    def numbers(self) -> Numbers:
        """Return the present numbers."""
        now = self._clock()
        with self._lock:
            lags = np.array([lag for _, lag in self._lags]) * 1e3
            lag = tuple(float(v) for v in np.percentile(lags, [50, 90, 99])) if len(lags) else None
            return Numbers(
                in_hz=_slope(self._read, now),
                done_hz=rate(self._done, now),
                shown_hz=rate(self._shown, now),
                lag_ms=None if lag is None else (lag[0], lag[1], lag[2]),
                people=self._people,
                read=self._counts["read"],
                done=self._counts["done"],
                shown=self._counts["shown"],
                dropped={k: v for k, v in self._dropped.items() if v},
                silent_s=None if self._last_picture is None else now - self._last_picture,
            )


def rate(stamps: deque[float], now: float) -> float:
    """Return events per second: N stamps span N - 1 intervals; it falls when they stay away."""
    recent = [s for s in stamps if s > now - RATE_S]
    if len(recent) < 2:
        return len(recent) / RATE_S
    mean = (recent[-1] - recent[0]) / (len(recent) - 1)
    if mean <= 0 or now - recent[-1] > 3 * mean:
        return len(recent) / RATE_S
    return 1 / mean


def _slope(samples: deque[tuple[float, int]], now: float) -> float:
    if len(samples) < 2 or samples[-1][0] < now - RATE_S:
        return 0.0
    (t0, n0), (t1, n1) = samples[0], samples[-1]
    return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0


def status_line(numbers: Numbers, network: str, recorded_s: float | None) -> str:
    """Return the one line that is always on the screen."""
    n = numbers
    lag = "lag -" if n.lag_ms is None else f"lag {n.lag_ms[0]:.0f} ms (p99 {n.lag_ms[2]:.0f})"
    parts = [
        f"in {n.in_hz:.1f}",
        f"done {n.done_hz:.1f}",
        f"shown {n.shown_hz:.1f} fps",
        lag,
        f"{n.people} {'person' if n.people == 1 else 'people'}",
    ]
    if n.lost:
        reasons = ", ".join(f"{reason} {count}" for reason, count in n.lost.items())
        parts.append(f"dropped {n.dropped_s:.1f} s: {reasons}")
    if network:
        parts.append(network)
    if recorded_s is not None:
        parts.append(f"rec {int(recorded_s) // 60:02}:{int(recorded_s) % 60:02}")
    return " | ".join(parts)


def level(numbers: Numbers, ended: bool = False) -> str:
    """Return "ok", "amber" (late or too slow) or "red" (the source is silent)."""
    if ended or numbers.silent_s is None:
        return "ok"
    if numbers.silent_s > _SILENT_RED_S:
        return "red"
    if numbers.done <= _WARM_UP:
        return "ok"
    late = numbers.lag_ms is not None and numbers.lag_ms[0] > _LAG_AMBER_MS
    return "amber" if late or numbers.done_hz < 0.8 * numbers.in_hz else "ok"
