"""Zero-phase smoothing of recorded tracks: what no live filter can do, since it knows the future.

Positions are smoothed joint by joint with their true times; then every bone gets back the length
it had, so that bodies stay rigid. Gaps are never bridged, but the shortest of joints in the
picture. The methods are those of `pose.filters` and, adaptive, `pose.whittaker`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.reading import Run
from manypose.pose import angles, filters, metrics, skeleton, whittaker
from manypose.pose.joints import PARENT, ROOT, TOPOLOGICAL

Float = NDArray[np.floating[Any]]

METHODS = ("none", "adaptive", "butterworth", "kalman")
_CUTOFF_HZ = 6.0  # of walking and most sports in the literature (Winter 2009)
# What the fit leaves: errors of a frame (m), and how fast people change their speed (m/s^2).
_NOISE_M, _ACCELERATION = 0.012, 8.0
# Of adaptive smoothing. Errors last for several frames: the curve is told of more noise than
# neighbours differ by, within limits (m; of rotations, half of rad). Depth is twice as noisy. The
# acceleration of what rests (m/s^2; rotations: of limbs of 0.3 m), and its growth with speed (1/s).
_NOISE_FACTOR, _NOISE_LIMITS_M, _NOISE_LIMITS_TURN = 12.0, (0.015, 0.15), (0.02, 0.25)
_DEPTH = np.array([1.0, 1.0, 2.0])
_REST_M_S2, _REST_TURN, _GROWTH = 0.5, 0.8, 14.0
# Joints in the picture: a person's box is about so large (m). Those that are found before and after
# so short a gap, less than so far apart, are put between, with this confidence.
_SIDE_M, _GAP_S, _GAP_M, _GAP_CONFIDENCE = 1.7, 0.1, 0.14, 0.1
# Rows of a person at once, and so many more before and after, beyond which nothing matters.
_WINDOW, _MARGIN = 6000, 300
_AT_ONCE = 500
_UP = [p if p >= 0 else j for j, p in enumerate(PARENT)]


def smooth_joints(joints_m: Float, times_s: Float, how: str) -> Float:
    """Return the joints (T, J, 3) of one person smoothed, bones as long as before; NaN stays NaN.

    how: "adaptive", "butterworth" or "kalman".
    """
    before = np.array(joints_m, float)
    out = _adapted(before, times_s) if how == "adaptive" else _filtered(before, times_s, how)
    rigid = metrics.with_true_bones(out, before, _UP, TOPOLOGICAL)
    return np.where(np.isfinite(rigid), rigid, out)  # beyond a missing joint: as smoothed


def _filtered(
    values: Float, times_s: Float, how: str, noise: float = _NOISE_M,
    acceleration: float = _ACCELERATION,
) -> Float:  # fmt: skip
    """Return values (T, ...) after one of the fixed filters; NaN stays NaN."""
    if how == "butterworth":
        return filters.butterworth(values, times_s, _CUTOFF_HZ)
    if how == "kalman":
        out = filters.kalman_smooth(values, times_s, noise, acceleration)
        return np.where(np.isfinite(values), out, np.nan)
    raise ValueError(f"smoothing: {how!r}, wanted one of {METHODS[1:]}")


def _adapted(joints_m: Float, times_s: Float) -> Float:
    """Return joints (T, J, 3) smoothed as far as their noise asks: root, and the rest about it."""
    own: Float = joints_m - joints_m[:, [ROOT]]
    own[:, ROOT] = joints_m[:, ROOT]
    noise = _noise(own, _NOISE_LIMITS_M)
    own = whittaker.smoothed(own, times_s, noise, _REST_M_S2, _GROWTH, _DEPTH)
    out = own + own[:, [ROOT]]
    out[:, ROOT] = own[:, ROOT]
    return np.asarray(out)


def _noise(values: Float, limits: tuple[float, float]) -> float:
    """Return the noise that adaptive smoothing is told of; the most where nothing can be told."""
    told = _NOISE_FACTOR * whittaker.noise_of(values)
    return float(np.clip(told, *limits)) if np.isfinite(told) else limits[1]


def smooth_pixels(found: Float, box_px: Float, times_s: Float, how: str) -> Float:
    """Return the joints in the picture (T, K, 3), x y px and confidence, of one person smoothed.

    Where a joint was not found (NaN, confidence 0) for a tenth of a second at most, and was in
    about one place before and after, it is put between, with a low confidence.

    box_px: (T, 4) x y w h of the person; how: as for `smooth_joints`.
    """
    px_per_m = float(np.nanmedian(box_px[:, 2:].max(1))) / _SIDE_M
    out = np.array(found, float)
    if not np.isfinite(px_per_m) or px_per_m <= 0:
        return out
    before = np.where(out[..., 2:] > 0, out[..., :2] / px_per_m, np.nan)
    calm: Float
    if how == "adaptive":
        noise = _noise(before, _NOISE_LIMITS_M)
        calm = whittaker.smoothed(before, times_s, noise, _REST_M_S2, _GROWTH)
    else:
        calm = _filtered(before, times_s, how)
    for joint in range(out.shape[1]):
        _bridge(calm[:, joint], out[:, joint, 2], times_s)
    out[..., :2] = calm * px_per_m
    return out


def _bridge(at: Float, confidence: Float, times_s: Float) -> None:
    """Put a joint (T, 2) between its neighbours in time where it is missing for a moment."""
    there = np.flatnonzero(np.isfinite(at[:, 0]))
    for n in np.flatnonzero(np.diff(there) > 1):
        a, b = there[n : n + 2]
        lost_s = times_s[b] - times_s[a]
        if lost_s > _GAP_S + 1e-6 or np.linalg.norm(at[b] - at[a]) > _GAP_M:
            continue
        share = ((times_s[a + 1 : b] - times_s[a]) / lost_s)[:, None]
        at[a + 1 : b] = at[a] + share * (at[b] - at[a])
        confidence[a + 1 : b] = min(_GAP_CONFIDENCE, *confidence[[a, b]])


def smooth_rotations(quat: Float, times_s: Float, how: str) -> Float:
    """Return local rotations (T, J, 4) of one person smoothed, of length one."""
    q = np.array(quat, float)
    # q and -q are one rotation: no jumps between them
    turn = np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0)
    q[1:] *= np.cumprod(turn, axis=0)[..., None]
    if how == "adaptive":
        noise = _noise(q, _NOISE_LIMITS_TURN)
        out = whittaker.smoothed(q, times_s, noise, _REST_TURN, _GROWTH)
    else:
        out = _filtered(q, times_s, how, 0.03, 25.0)
    out = out / np.linalg.norm(out, axis=-1, keepdims=True)
    return np.asarray(np.where(out[..., 3:] < 0, -out, out))


def _agreed(rotations: Float, joints_m: Float, before_m: Float) -> tuple[Float, Float]:
    """Return rotations (T, J, 4) and joints (T, J, 3) of one body, both smoothed, made to agree.

    The rotations are turned towards the joints, then the joints are where the rotations put them,
    with the bones they had before.
    """
    bones = np.linalg.norm(before_m - before_m[:, _UP], axis=-1)
    usual = skeleton.AVERAGE_LENGTHS_M.copy()
    told = np.flatnonzero(np.isfinite(bones).any(0))
    usual[told] = np.nanmedian(bones[:, told], axis=0)
    bones = np.where(np.isfinite(bones), bones, usual)
    rooted = joints_m.copy()
    lost = np.isnan(rooted[:, ROOT, 0])
    rooted[lost, ROOT] = 0
    turned, places = np.empty_like(rotations), np.empty_like(rooted)
    for start in range(0, len(rooted), _AT_ONCE):  # frames of all joints are large
        some = slice(start, start + _AT_ONCE)
        offsets = skeleton.offsets_m(bones[some])
        turned[some], places[some] = angles.aimed(rotations[some], offsets, rooted[some])
    places = np.where(np.isfinite(joints_m), places, np.nan)
    places[lost] = joints_m[lost]
    return turned, places


def smooth_run(stored: Run, how: str, tell: Callable[[float], None] | None = None) -> Run:
    """Return a stored run with everybody's joints and rotations smoothed, person by person.

    The arrays of `stored` are changed (`reading.run_on_disk`: hours of people need little memory).
    meta says how it was done. tell is told how much is done,
    in [0, 1].
    """
    done = 0
    for track_id in np.unique(stored.id):
        rows = stored.person(int(track_id))
        t = stored.t[stored.row_frame[rows]].astype(float)
        if len(rows) < 3 or (np.diff(t) <= 0).any():
            continue
        quats = stored.quat
        if quats is not None and not np.isfinite(quats[rows, :, 3]).all():
            quats = None
        behind = np.arange(0)  # rows of the window before
        joints = np.empty((0, len(PARENT), 3))  # as they were before they were smoothed
        turns = np.empty((0, len(PARENT), 4))
        found = np.empty((0, *stored.kp2d.shape[1:]))
        for start in range(0, len(rows), _WINDOW):
            here, ahead = rows[start : start + _WINDOW], rows[start : start + _WINDOW + _MARGIN]
            kept = slice(len(behind), len(behind) + len(here))
            times = t[start - len(behind) : start + len(ahead)]
            joints = np.concatenate([joints[-len(behind) :], stored.kp3d[ahead]], dtype=float)
            after = smooth_joints(joints, times, how)
            if quats is not None:
                turns = np.concatenate([turns[-len(behind) :], quats[ahead]], dtype=float)
                turned, after = _agreed(smooth_rotations(turns, times, how), after, joints)
                quats[here] = turned[kept]
            stored.kp3d[here] = after[kept]
            found = np.concatenate([found[-len(behind) :], stored.kp2d[ahead]], dtype=float)
            box = stored.box[rows[start - len(behind) : start + len(ahead)]]
            stored.kp2d[here] = smooth_pixels(found, box, times, how)[kept]
            pelvis = after[kept, ROOT]
            stored.root[here] = np.where(np.isfinite(pelvis), pelvis, stored.root[here])
            joints, turns, found = joints[: kept.stop], turns[: kept.stop], found[: kept.stop]
            behind = here[-_MARGIN:]
            done += len(here)
            if tell is not None:
                tell(done / len(stored.id))
    return dataclasses.replace(stored, meta={**stored.meta, "smooth": how})
