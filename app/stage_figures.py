"""Figures of one stage beside the truth: errors, jitter, lag, slide, bones, place, identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.motion import Motion
from manypose.calib.floor import floor_plane
from manypose.errors import CalibrationError
from manypose.pose import metrics
from manypose.pose.joints import INDEX, JOINTS, PARENT, ROOT, SHOWN_BY
from manypose.pose.tracking_scores import Sightings, tracking_scores

Float = NDArray[np.floating[Any]]
_J = len(JOINTS)
_FEET = [INDEX[n] for n in ("l_ankle", "r_ankle", "l_foot", "r_foot")]
_REST_M_S, _STANDING_M_S, _FAST_M_S, _MOVING_M_S = 0.05, 0.1, 1.0, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one stage says: joints_m (T, P, J, 3) of each true person, NaN = not found.

    sightings: who is who, where the stage knows; ms: CPU time a frame, NaN = not measured.
    """

    joints_m: Float
    sightings: list[Sightings] | None = None
    ms: float = float("nan")


def floor_up(motion: Motion) -> Float:
    """Return the direction (3,) away from the floor, from feet that stand; -y where none is."""
    speed = _speed(motion)[..., _FEET]
    feet = motion.joints_m[..., _FEET, :][speed < _STANDING_M_S]
    try:
        # tips and ankles stand at two heights: a plane through the tips
        tips = motion.joints_m[..., _FEET[2:], :][speed[..., 2:] < _STANDING_M_S]
        return floor_plane(tips if len(tips) else feet)[1]
    except CalibrationError:
        return np.array([0.0, -1.0, 0.0])


def _speed(motion: Motion) -> Float:
    """Return true speeds (T, P, J) m/s; the first frame's are those of the second."""
    step = np.diff(motion.times_s)[:, None, None]
    speed = np.linalg.norm(np.diff(motion.joints_m, axis=0), axis=-1) / step
    return np.concatenate([speed[:1], speed])


def figures(found: Found, motion: Motion, warm_up_s: float = 0.0) -> dict[str, float]:
    """Return the figures of one stage over the frames after `warm_up_s`.

    Lengths in mm, lag in ms, speeds in mm/s; jitter is the mean second difference, at rest of the
    joints as they are (true speed below 50 mm/s), in motion of their error (above 500 mm/s); lag is
    the delay that explains most of the error of joints faster than 1 m/s, relative to the pelvis.
    """
    kept = motion.times_s >= motion.times_s[0] + warm_up_s
    t = motion.times_s[kept]
    true, got = motion.joints_m[kept], found.joints_m[kept]
    speed = _speed(motion)[kept]
    rel = [m - m[:, :, ROOT : ROOT + 1] for m in (got, true)]
    error = rel[0] - rel[1]
    distance = np.linalg.norm(error, axis=-1)
    body = np.arange(_J) != ROOT
    shown = np.array(SHOWN_BY)
    out_of_sight = (shown >= 0) & ~motion.seen[kept][..., np.maximum(shown, 0)]
    out_of_sight[..., ROOT] = False
    there = motion.seen[kept].any(-1)
    calm = (speed < _REST_M_S)[1:-1] & (speed < _REST_M_S)[2:]
    swift = (speed > _MOVING_M_S)[1:-1] & (speed > _MOVING_M_S)[2:]
    bend = np.linalg.norm(np.diff(got, n=2, axis=0), axis=-1)
    shake = np.linalg.norm(np.diff(error, n=2, axis=0), axis=-1)
    stands = speed[..., _FEET] < _STANDING_M_S
    slide = metrics.foot_slide(
        got[:, :, _FEET].reshape(len(got), -1, 3),
        stands.reshape(len(got), -1),
        t,
        floor_up(motion).tolist(),
    )
    spreads = [metrics.bone_length_spread(got[:, p], PARENT) for p in range(got.shape[1])]
    ids: Mapping[str, float] = {}
    if found.sightings is not None:
        ids = tracking_scores([s for s, k in zip(found.sightings, kept) if k])
    root = np.linalg.norm(got[:, :, ROOT] - true[:, :, ROOT], axis=-1)
    finite = np.isfinite(distance)
    pa = metrics.aligned_errors(got[there], true[there])
    return {
        "found_share": float(finite[there].mean()) if there.any() else float("nan"),
        "mpjpe_mm": 1000 * metrics.mean_error(distance[..., body]),
        "pa_mpjpe_mm": 1000 * metrics.mean_error(pa[..., body]),
        "hidden_mpjpe_mm": 1000 * metrics.mean_error(distance[out_of_sight]),
        "jitter_at_rest_mm": 1000 * metrics.mean_error(bend[calm]),
        "jitter_moving_mm": 1000 * metrics.mean_error(shake[swift]),
        "lag_ms": _lag_ms(rel[0], rel[1], t),
        "foot_slide_mm_s": 1000 * slide,
        "bone_spread": float(np.nanmean(spreads)) if np.isfinite(spreads).any() else float("nan"),
        "root_mm": 1000 * metrics.mean_error(root),
        "idf1": float(ids.get("IDF1", float("nan"))),
        "ms": found.ms,
    }


def _lag_ms(found: Float, true: Float, t: Float) -> float:
    """Return the delay d that minimises |found(t) - true(t - d)| to first order, fast joints."""
    if len(t) < 3:
        return float("nan")
    velocity = np.gradient(true, t, axis=0)
    fast = np.linalg.norm(velocity, axis=-1) > _FAST_M_S
    use = fast & np.isfinite(found).all(-1)
    if not use.any():
        return float("nan")
    v, e = velocity[use], (found - true)[use]
    return float(-1000 * (v * e).sum() / (v * v).sum())
