"""Zero-phase smoothing of recorded tracks: what no live filter can do, since it knows the future.

Positions are smoothed joint by joint with their true times; then every bone gets back the length
it had, so that bodies stay rigid. Gaps are never bridged. The methods are those of `pose.filters`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.reading import Run
from manypose.pose import filters, metrics
from manypose.pose.joints import PARENT, ROOT, TOPOLOGICAL

Float = NDArray[np.floating[Any]]

METHODS = ("none", "butterworth", "kalman")
_CUTOFF_HZ = 6.0  # of walking and most sports in the literature (Winter 2009)
# What the fit leaves: errors of a frame (m), and how fast people change their speed (m/s^2).
_NOISE_M, _ACCELERATION = 0.012, 8.0
_UP = [p if p >= 0 else j for j, p in enumerate(PARENT)]


def smooth_joints(joints_m: Float, times_s: Float, how: str) -> Float:
    """Return the joints (T, J, 3) of one person smoothed, bones as long as before; NaN stays NaN.

    how: "butterworth" or "kalman".
    """
    before = np.asarray(joints_m, float)
    if how == "butterworth":
        out = filters.butterworth(before, times_s, _CUTOFF_HZ)
    elif how == "kalman":
        out = filters.kalman_smooth(before, times_s, _NOISE_M, _ACCELERATION)
        out = np.where(np.isfinite(before), out, np.nan)
    else:
        raise ValueError(f"smooth_joints: {how!r}, wanted butterworth or kalman")
    rigid = metrics.with_true_bones(out, before, _UP, TOPOLOGICAL)
    return np.where(np.isfinite(rigid), rigid, out)  # beyond a missing joint: as smoothed


def smooth_rotations(quat: Float, times_s: Float, how: str) -> Float:
    """Return local rotations (T, J, 4) of one person smoothed, of length one."""
    q = np.array(quat, float)
    # q and -q are one rotation: no jumps between them
    turn = np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0)
    q[1:] *= np.cumprod(turn, axis=0)[..., None]
    if how == "butterworth":
        out = filters.butterworth(q, times_s, _CUTOFF_HZ)
    else:
        out = filters.kalman_smooth(q, times_s, 0.03, 25.0)
    out = out / np.linalg.norm(out, axis=-1, keepdims=True)
    return np.asarray(np.where(out[..., 3:] < 0, -out, out))


def smooth_run(stored: Run, how: str) -> Run:
    """Return a stored run with everybody's 3D joints and rotations smoothed, person by person.

    2D joints stay as they were found. meta says how it was done.
    """
    kp3d, root = stored.kp3d.copy(), stored.root.copy()
    quat = None if stored.quat is None else stored.quat.copy()
    for track_id in np.unique(stored.id):
        rows = stored.person(int(track_id))
        t = stored.t[stored.row_frame[rows]].astype(float)
        if len(rows) < 3 or (np.diff(t) <= 0).any():
            continue
        kp3d[rows] = smooth_joints(kp3d[rows], t, how)
        known = np.isfinite(kp3d[rows, ROOT]).all(-1)
        root[rows] = np.where(known[:, None], kp3d[rows, ROOT], root[rows])
        if quat is not None and np.isfinite(quat[rows]).all():
            quat[rows] = smooth_rotations(quat[rows], t, how)
    meta = {**stored.meta, "smooth": how}
    return dataclasses.replace(stored, kp3d=kp3d, root=root, quat=quat, meta=meta)
