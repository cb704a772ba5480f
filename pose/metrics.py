"""How far a 3D pose is from the truth: errors of joints, shares within reach, motion over time.

Errors come in the unit of the points; thresholds are metres by default. A joint without truth is
NaN and is not counted; a joint with truth that was not found is infinitely wrong: it is a miss
for every share, and `mean_error` leaves it out, so give the share found beside each mean.
Source: Mehta et al. 2017 and 2018 (3DPCK, AUC, the MuPoTS-3D and MPI-INF-3DHP evaluation),
Ionescu et al. 2014 (MPJPE), Kanazawa et al. 2019 (acceleration error).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]

PCK_THRESHOLD_M = 0.15
AUC_THRESHOLDS_M = np.linspace(0, 0.2, 41)

# The 17 joints of MuPoTS-3D and MPI-INF-3DHP are the first 17 of `joints.JOINTS`, in that order.
MUPOTS_PARENTS = (1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, 14, 14, 1)
MUPOTS_ORDER = (14, 15, 1, 0, 16, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
MUPOTS_ROOT = 14
MUPOTS_SCORED = tuple(range(14))  # the pelvis would be a free hit
MUPOTS_MATCHED = tuple(range(1, 14))
_MATCH_PX, _MATCH_WIDTH_PX = 40.0, 1920.0


def joint_errors(found: Float, truth: Float, root: int | None = None) -> Float:
    """Return the distances (..., J) of found and true points (..., J, 3).

    Args:
        found: NaN where a joint was not found: its error is infinite.
        truth: NaN where it is not known: its error is NaN.
        root: this joint is subtracted from both first; None compares absolute positions. Where
            the found root is missing everything is infinitely wrong.
    """
    if root is not None:
        found = found - found[..., root : root + 1, :]
        truth = truth - truth[..., root : root + 1, :]
    return _distance(found, truth)


def scaled_errors(found: Float, truth: Float, root: int) -> Float:
    """Return root-relative errors (..., J) after the best scaling of each person (N-MPJPE)."""
    found = found - found[..., root : root + 1, :]
    truth = truth - truth[..., root : root + 1, :]
    both = np.isfinite(found).all(-1, keepdims=True) & np.isfinite(truth).all(-1, keepdims=True)
    f, t = np.where(both, found, 0), np.where(both, truth, 0)
    power = (f * f).sum((-2, -1), keepdims=True)
    scale = (f * t).sum((-2, -1), keepdims=True) / np.where(power > 0, power, 1)
    return _distance(found * scale, truth)


def aligned_errors(found: Float, truth: Float) -> Float:
    """Return errors (..., J) after similarity Procrustes of each person (PA-MPJPE)."""
    return _distance(procrustes(found, truth), truth)


def procrustes(found: Float, truth: Float) -> Float:
    """Return `found` (..., J, 3) rotated, scaled and moved as near to `truth` as can be.

    Joints with NaN on either side do not count; with fewer than two joints nothing is turned.
    Reflections are not allowed. Source: Umeyama 1991.
    """
    both = np.isfinite(found).all(-1, keepdims=True) & np.isfinite(truth).all(-1, keepdims=True)
    count = np.maximum(both.sum(-2, keepdims=True), 1)
    f, t = np.where(both, found, 0), np.where(both, truth, 0)
    f_mean, t_mean = f.sum(-2, keepdims=True) / count, t.sum(-2, keepdims=True) / count
    f, t = np.where(both, f - f_mean, 0), np.where(both, t - t_mean, 0)
    u, s, vt = np.linalg.svd(np.swapaxes(f, -1, -2) @ t)
    sign = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    u[..., -1] *= sign[..., None]
    s[..., -1] *= sign
    power = (f * f).sum((-2, -1))
    scale = np.where(power > 0, s.sum(-1) / np.where(power > 0, power, 1), 1)
    aligned: Float = scale[..., None, None] * ((found - f_mean) @ (u @ vt)) + t_mean
    return aligned


def mean_error(errors: Float) -> float:
    """Return the mean of the finite errors (MPJPE and its relatives), NaN if there is none."""
    finite = errors[np.isfinite(errors)]
    return float(finite.mean()) if finite.size else float("nan")


def pck(errors: Float, threshold: float = PCK_THRESHOLD_M) -> float:
    """Return the share of known joints nearer than the threshold; NaN if none is known."""
    known = ~np.isnan(errors)
    if not known.any():
        return float("nan")
    return float((errors[known] < threshold).mean())


def auc(errors: Float, thresholds: Float = AUC_THRESHOLDS_M) -> float:
    """Return the mean of `pck` over the thresholds (0 to 200 mm in 41 steps by default)."""
    return float(np.mean([pck(errors, float(t)) for t in thresholds]))


def match_boxes(
    truth_px: Float,
    found_px: Float,
    width_px: float = _MATCH_WIDTH_PX,
    joints: Sequence[int] = MUPOTS_MATCHED,
) -> NDArray[np.intp]:
    """Return for every true person the found one (M,), -1 = none, by MuPoTS-3D's rule.

    A joint agrees if it is less than 40 px away in x and in y. In the order of the annotations
    each takes the free person with most agreeing joints, the first one on a tie. Surplus people
    are not punished.

    Args:
        truth_px: (M, J, 2); NaN = not known.
        found_px: (N, J, 2); NaN, or exactly (0, 0), = not found.
        width_px: of the picture; the 40 px are for 1920 and grow with it.
        joints: those that count.
    """
    limit = _MATCH_PX * width_px / _MATCH_WIDTH_PX
    a, b = truth_px[:, None, list(joints)], found_px[None, :, list(joints)]
    agree = ((np.abs(a - b) < limit).all(-1) & (b != 0).any(-1)).sum(-1)
    matched = np.full(len(truth_px), -1, np.intp)
    for n, row in enumerate(agree):
        if len(row) and row.max() > 0:
            matched[n] = row.argmax()
            agree[:, matched[n]] = 0
    return matched


def with_true_bones(
    found: Float,
    truth: Float,
    parents: Sequence[int] = MUPOTS_PARENTS,
    order: Sequence[int] = MUPOTS_ORDER,
) -> Float:
    """Return `found` (..., J, 3) with the true bone lengths and its own bone directions.

    The first joint of `order` stays; every other one is set from its parent, which must come
    earlier. A found bone of no length stays of no length, one without truth keeps its own. It
    gives limb lengths away for free, so publish the figure without it too.
    """
    parent = np.asarray(parents)
    bone = found - found[..., parent, :]
    wanted = np.linalg.norm(truth - truth[..., parent, :], axis=-1)
    length = np.linalg.norm(bone, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(np.isfinite(wanted), wanted / length, 1)
    bone = bone * np.where(length > 0, scale, 0)[..., None]
    out = np.array(found, np.float64)
    for joint in order[1:]:
        out[..., joint, :] = out[..., parent[joint], :] + bone[..., joint, :]
    return out


def root_share(found_root: Float, true_root: Float, threshold: float = 0.25) -> float:
    """Return the share of people (N, 3) whose root is nearer to the truth than the threshold."""
    return pck(_distance(found_root, true_root), threshold)


def depth_order(found_z: Float, true_z: Float, apart: float = 0.3) -> tuple[int, int]:
    """Return (pairs ranked right, pairs) of people (N,) whose true depths differ by more."""
    i, j = np.triu_indices(len(true_z), 1)
    gap = true_z[i] - true_z[j]
    counted = np.abs(gap) > apart
    right = np.sign(found_z[i] - found_z[j]) == np.sign(gap)
    return int((right & counted).sum()), int(counted.sum())


def acceleration(points: Float, times_s: Float) -> Float:
    """Return the second differences (T - 2, ..., 3) of points (T, ..., 3) per second squared.

    The time steps may differ; with equal ones it is (x0 - 2 x1 + x2) * fps^2.
    """
    step = np.diff(np.asarray(times_s, np.float64)).reshape(-1, *[1] * (points.ndim - 1))
    speed = np.diff(points, axis=0) / step
    result: Float = np.diff(speed, axis=0) / (0.5 * (step[1:] + step[:-1]))
    return result


def acceleration_error(found: Float, truth: Float, times_s: Float) -> float:
    """Return the mean |acceleration(found) - acceleration(truth)| of points (T, J, 3), per s^2."""
    if len(times_s) < 3:
        return float("nan")
    error = acceleration(found, times_s) - acceleration(truth, times_s)
    return mean_error(np.linalg.norm(error, axis=-1))


def jitter(points: Float) -> float:
    """Return the mean |second difference| of points (T, ..., 3) of somebody at rest.

    In the unit of the points, not divided by the time step.
    """
    if len(points) < 3:
        return float("nan")
    return mean_error(np.linalg.norm(np.diff(points, n=2, axis=0), axis=-1))


def bone_length_spread(points: Float, parents: Sequence[int]) -> float:
    """Return the standard deviation of bone lengths over time, as a share, mean over bones.

    points (T, J, 3) of one person, NaN = missing; roots have parent -1 or themselves.
    """
    children = [j for j, p in enumerate(parents) if p not in (-1, j)]
    ends = [parents[j] for j in children]
    length = np.linalg.norm(points[:, children] - points[:, ends], axis=-1)
    spreads = []
    for column in length.T:
        known = column[np.isfinite(column)]
        if len(known) > 1 and known.mean() > 0:
            spreads.append(known.std() / known.mean())
    return float(np.mean(spreads)) if spreads else float("nan")


def foot_slide(
    feet: Float, contact: Bool, times_s: Float, up: Sequence[float] = (0.0, -1.0, 0.0)
) -> float:
    """Return the mean horizontal speed (per second) of feet that should stand.

    Args:
        feet: (T, F, 3) points of feet.
        contact: (T, F) where the truth has the foot on the floor; both ends of a step must.
        times_s: (T,).
        up: direction away from the floor; camera axes by default (y down).
    """
    axis = np.asarray(up, np.float64)
    axis = axis / np.linalg.norm(axis)
    step = np.diff(feet, axis=0)
    step = step - (step @ axis)[..., None] * axis
    speed = np.linalg.norm(step, axis=-1) / np.diff(times_s)[:, None]
    return mean_error(speed[contact[1:] & contact[:-1]])


def _distance(found: Float, truth: Float) -> Float:
    distance = np.linalg.norm(found - truth, axis=-1)
    known = np.isfinite(truth).all(-1)
    result: Float = np.where(known, np.where(np.isfinite(distance), distance, np.inf), np.nan)
    return result
