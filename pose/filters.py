"""Smoothing over time: One-Euro for live use; Butterworth and a Kalman smoother for recordings.

All of them take true times. A gap in the data (NaN, or no sample for longer than `max_gap_s`) is
never bridged by smoothing: each side is filtered as its own segment.

Sources: Casiez, Roussel, Vogel 2012 (One-Euro, the derivative taken from the filtered value);
Winter 2009, section 2.2 (dual-pass Butterworth and its cut-off correction); Rauch, Tung, Striebel
1965 (backward pass of the smoother).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import ConfigError

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class OneEuroSettings:
    """Cut-off at rest (Hz), its growth with speed (Hz per unit/s), cut-off of the speed (Hz).

    Speeds below `rest_speed` (unit/s) are taken for noise and do not raise the cut-off; with 0 the
    filter is the published one.
    """

    min_cutoff_hz: float
    beta: float
    speed_cutoff_hz: float = 1.0
    rest_speed: float = 0.0


@dataclass(frozen=True, slots=True)
class Preset:
    """One choice of smoothing for all quantities of a person.

    `angle` acts on joint angles and root orientation (rad), `root` on the root across the line of
    sight and `depth` along it (metres; depth is the noisier one and filtered more), `pixel` on
    how far 2D points are from those of the fitted body (in units of the person's box height).
    """

    angle: OneEuroSettings
    root: OneEuroSettings
    depth: OneEuroSettings
    pixel: OneEuroSettings


PRESETS: dict[str, Preset] = {
    "steady": Preset(
        angle=OneEuroSettings(0.3, 2.0, 2.0, 0.2),
        root=OneEuroSettings(0.3, 5.0, 3.0, 0.03),
        depth=OneEuroSettings(0.2, 0.6, 1.0, 0.03),
        pixel=OneEuroSettings(0.8, 2.0, 2.0),
    ),
    "normal": Preset(
        angle=OneEuroSettings(0.27, 6.0, 2.0, 0.5),
        root=OneEuroSettings(0.4, 8.0, 3.0, 0.05),
        depth=OneEuroSettings(0.2, 0.8, 1.0, 0.03),
        pixel=OneEuroSettings(1.0, 5.0, 3.0),
    ),
    "fast": Preset(
        angle=OneEuroSettings(1.0, 12.0, 3.0, 0.2),
        root=OneEuroSettings(1.5, 14.0, 3.0),
        depth=OneEuroSettings(0.5, 2.0, 1.0),
        pixel=OneEuroSettings(4.0, 20.0, 3.0),
    ),
}


def preset(name: str) -> Preset:
    """Return the smoothing of this name.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"Filter preset {name!r} is unknown: choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def between(level: float) -> Preset:
    """Return the smoothing at a level: 0 = fast, 1 = normal, 2 = steady, and all between them.

    Cut-off and its growth are interpolated on a logarithmic scale.
    """
    names = ("fast", "normal", "steady")
    at = min(max(level, 0.0), 2.0)
    low = min(int(at), 1)
    share = at - low
    a, b = PRESETS[names[low]], PRESETS[names[low + 1]]

    def mix(x: OneEuroSettings, y: OneEuroSettings) -> OneEuroSettings:
        return OneEuroSettings(
            x.min_cutoff_hz ** (1 - share) * y.min_cutoff_hz**share,
            x.beta ** (1 - share) * y.beta**share,
            x.speed_cutoff_hz ** (1 - share) * y.speed_cutoff_hz**share,
            x.rest_speed * (1 - share) + y.rest_speed * share,
        )

    return Preset(
        mix(a.angle, b.angle), mix(a.root, b.root), mix(a.depth, b.depth), mix(a.pixel, b.pixel)
    )


def _gain(cutoff_hz: Float | float, dt_s: Float) -> Float:
    """Weight of the new sample in a first-order low pass; 1 for dt much above the period."""
    r = 2 * math.pi * cutoff_hz * dt_s
    return np.asarray(r / (1 + r))


class OneEuro:
    """A bank of One-Euro filters: `rows` independent tracks of arrays of one shape.

    Every element remembers its own time of last update, so that a joint not seen for some frames
    goes on with its true time step, and starts anew after `max_gap_s`. NaN in, NaN out. With
    `joint_speed`, the last axis shares one cut-off, from the length of its speed: a point in space
    is then smoothed alike in all directions.
    """

    def __init__(
        self,
        rows: int,
        shape: tuple[int, ...],
        settings: OneEuroSettings,
        max_gap_s: float = 0.5,
        joint_speed: bool = True,
    ) -> None:
        self._settings = settings
        self._max_gap_s = max_gap_s
        self._joint_speed = joint_speed and len(shape) > 0
        self._value = np.full((rows, *shape), np.nan)
        self._speed = np.zeros((rows, *shape))
        self._time = np.full((rows, *shape), np.nan)

    def retune(self, settings: OneEuroSettings) -> None:
        """Filter with other settings from the next value on; nothing is forgotten."""
        self._settings = settings

    def clear(self, rows: NDArray[np.intp] | None = None) -> None:
        """Forget these rows (all when None)."""
        where = slice(None) if rows is None else rows
        self._value[where] = np.nan
        self._speed[where] = 0
        self._time[where] = np.nan

    def last(self, rows: NDArray[np.intp]) -> Float:
        """Return the last results (n, *shape) of these rows, NaN where there are none."""
        return np.asarray(self._value[rows])

    def __call__(
        self,
        value: Float,
        time_s: float,
        rows: NDArray[np.intp] | None = None,
        unit: Float | float = 1.0,
    ) -> Float:
        """Return the smoothed value (n, *shape) of these rows at this time.

        Speeds are divided by `unit`, which broadcasts against `value`, before they act on the
        cut-off. A time before an element's last one restarts it; at an equal time the last
        result stands.
        """
        index = np.arange(len(self._value)) if rows is None else rows
        s = self._settings
        last, speed, then = self._value[index], self._speed[index], self._time[index]
        dt = time_s - then  # NaN for an element never seen; 0.0 is a time like any other
        old = (dt >= 0) & (dt <= self._max_gap_s) & np.isfinite(last)
        all_old = bool(old.all())
        step = dt if all_old else np.where(old, dt, 1.0)
        change = value - last
        change /= np.maximum(step, 1e-6)
        known = np.isfinite(change)
        if not known.all():
            change[~known] = 0.0
        gain = _gain(s.speed_cutoff_hz, step)
        if not all_old:
            change[~old] = 0.0
            speed[~old] = 0.0
        speed += gain * (change - speed)
        joint = self._joint_speed
        rate = np.sqrt(np.vecdot(speed, speed))[..., None] if joint else np.abs(speed)
        rate = np.maximum(rate / unit - s.rest_speed, 0)
        out = last + _gain(s.min_cutoff_hz + s.beta * rate, step) * (value - last)
        if not all_old:
            out = np.where(old, out, value)
        good = np.isfinite(out)
        if good.all():
            self._value[index], self._speed[index], self._time[index] = out, speed, time_s
            return np.asarray(out)
        self._value[index] = np.where(good, out, last)
        self._speed[index] = np.where(good, speed, self._speed[index])
        self._time[index] = np.where(good, time_s, then)
        return np.where(np.isfinite(value), out, np.nan)


def measured_delay_s(settings: OneEuroSettings, rate_hz: float = 30.0, hz: float = 1.0,
                     amplitude: float = 0.25) -> float:  # fmt: skip
    """Return how late the filter shows a sine of this amplitude (peak, the value's own unit).

    The delay is the shift, by cross-correlation with sub-sample precision, that fits the output
    best over whole periods after the start. The default is a hand that swings half a metre to and
    fro once a second.
    """
    t = np.arange(int(rate_hz * 10 / hz)) / rate_hz
    x = amplitude * np.sin(2 * math.pi * hz * t)
    bank = OneEuro(1, (1,), settings)
    y = np.array([bank(np.array([[v]]), float(s))[0, 0] for v, s in zip(x, t)])
    tail = t >= 2 / hz
    phase = np.sum(y[tail] * np.exp(-2j * math.pi * hz * t[tail]))
    reference = np.sum(x[tail] * np.exp(-2j * math.pi * hz * t[tail]))
    return float(-np.angle(phase / reference) / (2 * math.pi * hz))


def _segments(good: NDArray[np.bool_], t: Float, max_gap_s: float) -> list[tuple[int, int]]:
    """Return half-open ranges of samples that belong together: no NaN, no long step in time."""
    cut = np.flatnonzero(~good[1:] | ~good[:-1] | (np.diff(t) > max_gap_s)) + 1
    edges = [0, *cut.tolist(), len(t)]
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a and good[a]]


def butterworth(
    values: Float, t: Float, cutoff_hz: float = 6.0, order: int = 4, max_gap_s: float = 0.25
) -> Float:
    """Return values (F, ...) smoothed without delay by a dual-pass Butterworth low pass.

    `order` is that of both passes together, and the cut-off is corrected so that `cutoff_hz` is
    the -3 dB point of the whole. Irregular times are resampled to the median rate and back.
    Segments too short for the filter, and everything when the cut-off is above half the rate,
    stay as they are. Works by segment and element; NaN stays NaN.
    """
    from scipy.signal import butter, sosfiltfilt

    out = np.array(values, float)
    flat = out.reshape(len(t), -1)
    passes = max(order // 2, 1)
    correction = (2**0.5 - 1) ** (1 / (2 * passes))
    for column in range(flat.shape[1]):
        for a, b in _segments(np.isfinite(flat[:, column]), t, max_gap_s):
            if b - a < 4:
                continue
            step = float(np.median(np.diff(t[a:b])))
            n = round((t[b - 1] - t[a]) / step) + 1
            wanted = cutoff_hz / correction
            if n <= 3 * (passes + 1) or wanted >= 0.5 / step:
                continue
            grid = np.linspace(t[a], t[b - 1], n)
            sos = butter(passes, wanted * 2 * (grid[1] - grid[0]), output="sos")
            y = sosfiltfilt(sos, np.interp(grid, t[a:b], flat[a:b, column]))
            flat[a:b, column] = np.interp(t[a:b], grid, y)
    return flat.reshape(out.shape)


def kalman_smooth(
    values: Float, t: Float, noise: float = 0.02, acceleration: float = 8.0, max_gap_s: float = 0.5
) -> Float:
    """Return values (F, ...) smoothed by a constant-velocity Kalman filter and the RTS pass back.

    `noise` is the standard deviation of a sample, `acceleration` that of the second derivative
    (unit/s^2, white over one step of 1/30 s). Uses the true time steps; short runs of NaN up to
    `max_gap_s` are filled by the model, longer ones stay NaN and separate segments.
    """
    out = np.array(values, float)
    flat = out.reshape(len(t), -1)
    density = acceleration**2 / 30
    patterns, which = np.unique(np.isfinite(flat), axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):  # columns with the same gaps go together
        columns, good = np.flatnonzero(which.ravel() == number), np.flatnonzero(pattern)
        if len(good) == 0:
            continue
        breaks = np.flatnonzero(np.diff(t[good]) > max_gap_s) + 1
        for part in np.split(good, breaks):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            flat[rows, columns] = _rts(flat[rows, columns], t[rows], noise**2, density)
    return flat.reshape(out.shape)


def _rts(z: Float, t: Float, r: float, q: float) -> Float:
    """Return (n, m) the smoothed columns of z (n, m), all NaN in the same rows or in none."""
    n, m = z.shape
    x, P = np.zeros((n, 2, m)), np.zeros((n, 2, 2))
    xp, Pp, Fs = x.copy(), P.copy(), np.tile(np.eye(2), (n, 1, 1))
    x[0, 0], P[0] = z[0], np.diag([r, 100.0])
    for k in range(1, n):
        dt = max(float(t[k] - t[k - 1]), 0.0)
        F = np.array([[1.0, dt], [0.0, 1.0]])
        Q = q * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        Fs[k], xp[k] = F, F @ x[k - 1]
        Pp[k] = F @ P[k - 1] @ F.T + Q
        x[k], P[k] = xp[k], Pp[k]
        if np.isfinite(z[k, 0]):
            gain = Pp[k][:, 0] / (Pp[k][0, 0] + r)
            x[k] = xp[k] + gain[:, None] * (z[k] - xp[k][0])
            P[k] = Pp[k] - np.outer(gain, Pp[k][0])
    for k in range(n - 2, -1, -1):
        C = P[k] @ Fs[k + 1].T @ np.linalg.inv(Pp[k + 1] + 1e-12 * np.eye(2))
        x[k] = x[k] + C @ (x[k + 1] - xp[k + 1])
    return x[:, 0]
