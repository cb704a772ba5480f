"""Feet that stand: found by speed and height, held softly where they are by the legs above them.

Works on the finished pose of a frame, after the filters, because those let the root and the joints
arrive at slightly different times, which shows as feet that slide. An ankle or a toe that is slow,
and low beside the other one, is taken to stand; its anchor follows slowly, so that a wrong one or a
drifting camera does no lasting harm, and lets go once the pose insists on another place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX

Float = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

_POINTS = [INDEX[n] for n in ("l_ankle", "l_foot", "r_ankle", "r_foot")]
_LEGS = ("hip", "knee", "ankle")
# Columns of a step that turn the joints of a leg, left then right, and where those joints are.
_COLUMNS = np.array(
    [
        6 + np.flatnonzero(np.isin(sk.DOF_JOINT, [INDEX[side + n] for n in _LEGS]))
        for side in ("l_", "r_")
    ]
)
_TURNING = sk.DOF_JOINT[_COLUMNS - 6]
_AXIS = sk.DOF_AXIS[_COLUMNS - 6]
# (2, 2, columns): what moves the ankle and the foot; the ankle's own turns leave it where it is.
_ANKLES = np.array([[INDEX["l_ankle"]], [INDEX["r_ankle"]]])
_MOVES = np.stack([_ANKLES != _TURNING, np.ones_like(_TURNING, bool)], 1)


@dataclass(frozen=True, slots=True)
class ContactConfig:
    """When a foot stands and how it is held; metres, seconds.

    slow_m_s: it begins to stand below this speed, and goes above fast_m_s or when the pose wants it
    farther than away_m from its anchor. level_m: so much higher than the lower foot it hangs.
    speed_s, hold_s, drop_s: time constants of its speed, of taking hold and of letting go;
    follow_s: of the anchor. stiff_rad: turn of a joint that costs as much as 1 cm at the foot.
    """

    slow_m_s: float = 0.10
    fast_m_s: float = 0.25
    away_m: float = 0.04
    level_m: float = 0.15
    speed_s: float = 0.06
    hold_s: float = 0.05
    drop_s: float = 0.10
    follow_s: float = 0.35
    stiff_rad: float = 0.10


class Feet:
    """Anchors of all tracks, one row each."""

    def __init__(self, rows: int, config: ContactConfig | None = None) -> None:
        self._config = config or ContactConfig()
        self._last = np.zeros((rows, 4, 3))
        self._speed = np.zeros((rows, 4, 3))
        self._anchor = np.zeros((rows, 4, 3))
        self._share = np.zeros((rows, 4))
        self._stands = np.zeros((rows, 4), bool)
        self._time = np.full(rows, np.nan)

    def clear(self, rows: Rows) -> None:
        """Forget these rows."""
        self._time[rows] = np.nan

    def plant(
        self, rows: Rows, root: Float, rotations: Float, offsets: Float, time_s: float
    ) -> tuple[Float, Float]:
        """Return the rotations (N, J, 4) with standing feet drawn to their anchors, and points.

        root (N, 3) m in the camera frame, rotations (N, J, 4), offsets (N, 26, 3) of the rows. The
        points (N, 26, 3) are those of `skeleton.forward` for the new rotations.
        """
        points, frames = sk.forward(root, rotations, offsets)
        feet = points[:, _POINTS]
        share, anchor = self._follow(rows, feet, time_s)
        held = np.flatnonzero((share > 0.01).any(1))
        if not len(held):
            return rotations, points
        axes = frames[held[:, None, None], _TURNING, :, _AXIS]
        turns = _turns(
            feet[held], points[held][:, _TURNING], axes, anchor[held], share[held],
            self._config.stiff_rad,
        )  # fmt: skip
        change = np.zeros((len(held), sk.DOF_COUNT))
        change[:, _COLUMNS.ravel()] = turns.reshape(len(held), -1)
        out = rotations.copy()
        out[held] = sk.step(root[held], rotations[held], change)[1]
        points[held] = sk.forward(root[held], out[held], offsets[held])[0]
        return out, points

    def _follow(self, rows: Rows, feet: Float, time_s: float) -> tuple[Float, Float]:
        """Return how far (N, 4) feet (N, 4, 3) are held, 0 to 1, and their anchors (N, 4, 3)."""
        c = self._config
        dt = time_s - self._time[rows]
        known = np.isfinite(dt) & (dt >= 0) & (dt < 0.3)
        step = np.where(known, np.maximum(dt, 1e-3), 1.0)[:, None]
        moved = (known & (dt > 1e-3))[:, None, None]
        raw = (feet - self._last[rows]) / step[..., None]
        speed = np.where(known[:, None, None], self._speed[rows], 0.0)
        gain = (step / (step + c.speed_s))[..., None]
        speed = np.where(moved, speed + gain * (raw - speed), speed)
        rate = np.sqrt(np.vecdot(speed, speed))
        anchor = self._anchor[rows]
        stood = self._stands[rows] & known[:, None]
        moved_off = feet - anchor
        away = np.sqrt(np.vecdot(moved_off, moved_off))
        # of the two ankles, and of the two toes: y is down
        height = feet[:, [2, 3, 0, 1], 1] - feet[..., 1]
        goes = (rate > c.fast_m_s) | (away > c.away_m)
        comes = (rate < c.slow_m_s) & (height < c.level_m) & moved[..., 0]
        stands = np.where(stood, ~goes, comes)
        anchor = np.where((stands & ~stood)[..., None], feet, anchor)
        follow = (step / (step + c.follow_s))[..., None]
        anchor = np.where(stands[..., None], anchor + follow * (feet - anchor), anchor)
        share = np.where(known[:, None], self._share[rows], 0.0)
        time = np.where(stands, c.hold_s, c.drop_s)
        share = share + step / (step + time) * (stands - share)
        share = np.where(known[:, None], share, 0.0)
        self._last[rows], self._speed[rows], self._anchor[rows] = feet, speed, anchor
        self._stands[rows], self._share[rows], self._time[rows] = stands, share, time_s
        return share, anchor


def _turns(
    feet: Float, centre: Float, axes: Float, anchor: Float, share: Float, stiff_rad: float
) -> Float:
    """Return the turns (n, 2, 6) of both legs' joints that draw their points to the anchors.

    feet, anchor (n, 4, 3) and share (n, 4) as in `_POINTS`; centre and axes (n, 2, 6, 3) of turns.
    """
    n = len(feet)
    ax, ay, az = axes.transpose(3, 0, 1, 2)[:, :, :, None]  # (n, 2, 1, 6)
    arm = feet.reshape(n, 2, 2, 1, 3) - centre[:, :, None]
    px, py, pz = arm.transpose(4, 0, 1, 2, 3)
    slope = np.stack([ay * pz - az * py, az * px - ax * pz, ax * py - ay * px], 3)
    slope = (slope * _MOVES[:, :, None]).reshape(n, 2, 6, 6)  # rows: ankle x y z, foot x y z
    wanted = (share[..., None] * (anchor - feet)).reshape(n, 2, 6, 1)
    weight = np.repeat(np.maximum(share, 1e-3), 3, axis=1).reshape(n, 2, 6, 1)
    turned = (weight * slope).swapaxes(2, 3)
    normal = turned @ slope + (0.01 / stiff_rad) ** 2 * np.eye(6)
    turns = np.linalg.solve(normal, turned @ wanted)[..., 0]
    return np.asarray(np.minimum(np.maximum(turns, -0.3), 0.3))
