"""One person's whole motion in a y-up world, at true times or resampled to a constant rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.exports import Options
from manypose.app.formats.reading import Run
from manypose.pose import angles
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, PARENT, ROOT
from manypose.pose.vertical import to_y_up

Float = NDArray[np.floating[Any]]

_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_FOOT_HEIGHT_M = 0.025
_FEET = [INDEX[n] for n in ("l_foot", "r_foot", "l_ankle", "r_ankle")]
_BONES = [j for j, p in enumerate(PARENT) if p >= 0]


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """One person in a world with y up, metres; frames that hold a gap are marked.

    time_s (F,) from the run's first frame; joints_m (F, J, 3), NaN = not known; rotations (F, J,
    4) local quaternions x y z w of `pose.skeleton` (the root's in the world), kept through gaps;
    root_m (F, 3) kept through gaps; lengths_m (J,) of the bones; held (F,) True inside gaps.
    """

    id: int
    rate_hz: float
    time_s: Float
    joints_m: Float
    rotations: Float
    root_m: Float
    lengths_m: Float
    held: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time_s)


def motions(run: Run, options: Options, *, resample: bool = True) -> list[Motion]:
    """Return the motion of every person of the run that has two frames or more."""
    to_world, shift, floor_known = _world(run)
    found = []
    rate = options.rate_hz or source_rate(run)
    for track in np.unique(run.id):
        if options.ids and int(track) not in options.ids:
            continue
        rows = run.person(int(track))
        joints = run.kp3d[rows].astype(float)
        rows = rows[np.isfinite(joints).all((1, 2))]
        if len(rows) < 2:
            continue
        found.append(_motion(run, int(track), rows, to_world, shift, rate, options, resample))
    if found and options.ground and not floor_known:
        found = _grounded(found)
    return found


def source_rate(run: Run) -> float:
    """Return the frames per second of a run: one over its median step, rounded to the usual."""
    steps = np.diff(run.t)
    steps = steps[steps > 0]
    if not len(steps):
        return 30.0
    rate = 1 / float(np.median(steps))
    for usual in (24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60000 / 1001, 60, 100, 120, 240):
        if abs(rate / usual - 1) < 2e-4:
            return float(usual)
    return rate


def turned(points_m: Float, up: str) -> Float:
    """Return y-up points (..., 3) with the axis asked for upwards: "y", or "z" as (x, -z, y)."""
    return points_m @ _TO_Z_UP.T if up == "z" else points_m


def _world(run: Run) -> tuple[Float, Float, bool]:
    """Return the rotation and shift from camera to y-up world, and whether the floor is known."""
    camera = run.meta.get("camera", {})
    R, t = np.array(camera.get("R", np.eye(3)), float), np.array(camera.get("t", [0, 0, 0]), float)
    if R.shape == (3, 3) and t.shape == (3,) and not (np.allclose(R, np.eye(3)) and not t.any()):
        return R.T, -R.T @ t, True
    return to_y_up(run.up), np.zeros(3), False


def _motion(
    run: Run,
    track: int,
    rows: NDArray[np.intp],
    to_world: Float,
    shift: Float,
    rate: float,
    options: Options,
    resample: bool,
) -> Motion:
    camera_joints = run.kp3d[rows].astype(float)
    quat = None if run.quat is None else run.quat[rows].astype(float)
    if quat is None or not np.isfinite(quat).all():
        quat = angles.rotations_from_joints(camera_joints)
    turn = sk.matrix_to_quaternion(to_world)
    quat[:, ROOT] = sk.quaternion_multiply(np.tile(turn, (len(quat), 1)), quat[:, ROOT])
    joints = camera_joints @ to_world.T + shift
    parents = [PARENT[j] for j in _BONES]
    lengths = np.zeros(len(PARENT))
    lengths[_BONES] = np.median(
        np.linalg.norm(joints[:, _BONES] - joints[:, parents], axis=-1), axis=0
    )
    times = run.t[run.row_frame[rows]].astype(float)
    if not resample:
        quat = continuous(quat)
        held = np.zeros(len(rows), bool)
        return Motion(track, rate, times, joints, quat, joints[:, ROOT], lengths, held)
    first, last = np.ceil(times[0] * rate - 1e-6), np.floor(times[-1] * rate + 1e-6)
    grid = np.arange(first, last + 1) / rate
    after = np.clip(np.searchsorted(times, grid + 1e-9), 1, len(times) - 1)
    before = after - 1
    span = times[after] - times[before]
    share = np.clip((grid - times[before]) / np.maximum(span, 1e-9), 0, 1)[:, None]
    gap = span > max(options.max_gap_s, 1.5 / rate)
    held = gap & (share[:, 0] > 1e-6) & (share[:, 0] < 1 - 1e-6)
    keep = np.where(held[:, None], 0.0, share)  # a gap holds what was known before it
    moved = joints[before] + (joints[after] - joints[before]) * keep[..., None]
    root = moved[:, ROOT].copy()
    moved[held] = np.nan
    return Motion(track, rate, grid, moved, _slerp(quat[before], quat[after], keep), root, lengths,
                  held)  # fmt: skip


def _slerp(a: Float, b: Float, share: Float) -> Float:
    """Return rotations between a and b (F, J, 4), the sign kept continuous over time."""
    step = sk.log_map(sk.quaternion_multiply(sk.conjugate(a), b))
    return continuous(sk.quaternion_multiply(a, sk.exp_map(step * share[..., None])))


def continuous(q: Float) -> Float:
    """Return the same rotations (F, ..., 4): w >= 0 first, then no sign jumps over time."""
    q = q.copy()
    q[0] = np.where(q[0, ..., 3:] < 0, -q[0], q[0])
    flip = np.sign((q[1:] * q[:-1]).sum(-1))
    q[1:] *= np.cumprod(np.where(flip < 0, -1.0, 1.0), axis=0)[..., None]
    return q


def _grounded(found: list[Motion]) -> list[Motion]:
    """Return the motions shifted as one so that the lowest steps stand on height 0."""
    low = np.concatenate([np.nanmin(m.joints_m[~m.held][:, _FEET, 1], axis=1) for m in found])
    floor = float(np.percentile(low, 5)) - _FOOT_HEIGHT_M
    down = np.array([0.0, floor, 0.0])
    return [replace(m, joints_m=m.joints_m - down, root_m=m.root_m - down) for m in found]
