"""The floor from points that touch it now and then: the feet of walking people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import CalibrationError

Float = NDArray[np.floating[Any]]

_POINTS_MIN = 30
_THICKNESS_M = 0.04
_TILT_MAX_DEG = 60.0


def floor_plane(points_m: Float, seed: int = 0) -> tuple[Float, Float]:
    """Return a point (3,) and the upward unit normal (3,) of the floor, camera axes, metres.

    A plane is drawn through three points at a time; it scores by the points near it less those
    more than its thickness below it, because feet lift off the floor but never sink into it.
    The best one is refined by least squares on its inliers.

    Args:
        points_m: (n, 3) positions of feet in the camera frame; NaN rows are left out.
        seed: of the random draws.

    Raises:
        CalibrationError: too few points, or points that lie on one line.
    """
    p = points_m[np.isfinite(points_m).all(1)]
    if len(p) < _POINTS_MIN:
        raise CalibrationError(
            f"{len(p)} foot positions seen, {_POINTS_MIN} are needed: use a longer recording "
            "in which whole people walk about"
        )
    rng = np.random.default_rng(seed)
    a, b, c = (p[rng.integers(0, len(p), 2000)] for _ in range(3))
    n = np.cross(b - a, c - a)
    size = np.linalg.norm(n, axis=1)
    ok = size > 1e-3
    n = n[ok] / size[ok, None]
    n = np.where(n[:, 1:2] > 0, -n, n)  # up is towards -y of the camera
    a = a[ok]
    upright = -n[:, 1] > np.cos(np.radians(_TILT_MAX_DEG))
    n, a = n[upright], a[upright]
    if not len(n):
        raise CalibrationError(
            "the feet lie on one line: the floor's tilt cannot be told, let people walk about"
        )
    height = p @ n.T - (a * n).sum(1)  # (points, planes)
    score = (np.abs(height) < _THICKNESS_M).sum(0) - 2 * (height < -_THICKNESS_M).sum(0)
    best = int(score.argmax())
    inliers = p[np.abs(height[:, best]) < _THICKNESS_M]
    centre = inliers.mean(0)
    spread = np.linalg.svd(inliers - centre, full_matrices=False)
    if len(inliers) < 3 or spread.S[1] / np.sqrt(len(inliers)) < 0.05:
        raise CalibrationError(
            "the feet lie on one line: the floor's tilt cannot be told, let people walk about"
        )
    up = spread.Vh[2]
    return centre, -up if up[1] > 0 else up
