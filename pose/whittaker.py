"""Smoothing of recorded motion that follows fast motion closely and holds still what stands still.

A curve is sought that is near the samples and bends little: the least sum of squared distances, in
units of the noise, and of squared second derivatives, in units of the acceleration to be expected.
That is large where the point moves fast and small where it rests; it is taken from the curve of the
round before, as are the weights of samples that lie far from it. Nothing is late, since the curve
knows what comes.

Sources: Whittaker 1923 and Eilers 2003, "A perfect smoother" (penalised least squares, here with
divided differences of true times); weights of Student's t as in Lange et al. 1989; that the
smoothing should give way to speed is the idea of Casiez et al. 2012 (One-Euro).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]

_ROUNDS = 3
_FREEDOM = 4.0  # of Student's t: samples a few times the noise away count less
_REACH_S = 0.2  # so long before and after fast motion is fast motion expected
_FIRST, _MOST = 8.0, 60.0  # expected acceleration in the first round, and at most, in units/s^2
_LEAST = 5  # samples; shorter pieces stay as they are


def smoothed(
    values: Float, t: Float, noise: float, rest: float, growth: float, scale: Float | None = None,
    max_gap_s: float = 0.5,
) -> Float:  # fmt: skip
    """Return points (F, N, C) at times t (F,) s smoothed, each on its own; NaN stays NaN.

    Args:
        values: C components of a point share their weights.
        t: strictly increasing.
        noise: expected error of a sample, in the unit of the values.
        rest: acceleration (unit/s^2) to be expected of a point that rests.
        growth: how much (1/s) that grows with the speed.
        scale: (C,) how noisy the components are, as factors on `noise`.
        max_gap_s: samples farther apart in time belong to different pieces.
    """
    out = np.array(values, float)
    factors = np.ones(out.shape[2]) if scale is None else np.asarray(scale, float)
    for n in range(out.shape[1]):
        good = np.flatnonzero(np.isfinite(out[:, n]).all(-1))
        breaks = np.flatnonzero(np.diff(t[good]) > max_gap_s) + 1
        for piece in np.split(good, breaks):
            if len(piece) >= _LEAST:
                z = out[piece, n] / factors
                out[piece, n] = factors * _curve(z, t[piece], noise, rest, growth)
    return out


def noise_of(values: Float) -> float:
    """Return the noise (one component, white) of points (F, N, C): what neighbours do not share.

    The mean over the points of the median second difference; NaN where there is nothing to tell.
    """
    bend = np.abs(np.diff(values, n=2, axis=0))
    known = np.isfinite(bend).all((0, 2)) if len(bend) else np.zeros(bend.shape[1], bool)
    if not known.any():
        rows = np.isfinite(bend).all((1, 2))
        bend, known = bend[rows], np.full(bend.shape[1], rows.any())
    if not known.any():
        return float("nan")
    return float(1.4826 / np.sqrt(6) * np.median(bend[:, known], axis=0).mean())


def _curve(z: Float, t: Float, noise: float, rest: float, growth: float) -> Float:
    """Return the curve (n, C) through samples z (n, C) at times t (n,)."""
    weight = np.ones(len(t))
    bend = np.full(len(t) - 2, _FIRST)
    differences = _second_differences(t)
    x = z
    for round_ in range(_ROUNDS + 1):
        x = _solved(z, weight, (noise / bend) ** 2, differences)
        if round_ < _ROUNDS:
            far = ((x - z) ** 2).mean(1) / noise**2
            weight = (_FREEDOM + 1) / (_FREEDOM + far)
            speed = np.linalg.norm(np.gradient(x, t, axis=0), axis=1)
            bend = np.minimum(rest + growth * _highest(speed, t)[1:-1], _MOST)
    return x


def _highest(speed: Float, t: Float) -> Float:
    """Return the highest speed (n,) within `_REACH_S` of each sample."""
    from scipy.ndimage import maximum_filter1d

    step = float(np.median(np.diff(t)))
    reach = min(round(_REACH_S / max(step, 1e-6)), len(t))
    return np.asarray(maximum_filter1d(speed, 2 * reach + 1, mode="nearest"))


def _second_differences(t: Float) -> tuple[Float, Float, Float]:
    """Return the factors (n - 2,) of a sample's left, own and right value: its 2nd derivative."""
    h = np.diff(t)
    left, right = 2 / (h[:-1] * (h[:-1] + h[1:])), 2 / (h[1:] * (h[:-1] + h[1:]))
    return left, -left - right, right


def _solved(z: Float, weight: Float, bend: Float, d: tuple[Float, Float, Float]) -> Float:
    """Return x (n, C) with the least sum of weight |x - z|^2 and bend |second derivative of x|^2.

    The normal equations have five diagonals; these are the upper three.
    """
    from scipy.linalg import solveh_banded

    bands = np.zeros((3, len(z)))
    bands[2] = weight
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        first = j
        bands[2 - (j - i), first : len(z) - 2 + first] += bend * d[i] * d[j]
    x: Float = solveh_banded(bands, weight[:, None] * z)
    return x
