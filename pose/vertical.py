"""Where up is in the axes of a camera that stands still, learnt from people who move before it.

Pelvises of people on one floor are about equally high. So where people were at several distances,
the heights of their pelvises tell how far the camera looks down. (Lv, Zhao and Nevatia 2006,
"Camera calibration from video of a walking human", use heads and feet of walkers to the same end.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]

# How far cameras look down: shares, means and spreads, radians.
_PRIOR = ((0.6, 0.08, 0.14), (0.3, 0.35, 0.22), (0.1, 0.25, 0.55))
_GRID = np.radians(np.arange(-40.0, 80.5, 1.5))
# A pelvis goes up and down, and is seen too near or too far by this share of its distance;
# those of different people differ besides, and so does what their bodies are taken for.
_HEIGHT_M, _DISTANCE = 0.06, 0.07
_PERSON_M, _SIZE = 0.1, 0.08
# The camera's height above pelvises, and its spread.
_ABOVE_M, _ABOVE_SPREAD_M = 0.5, 0.8
_STEP_M = 0.4  # a sample of a person counts where they are so far from their others
_SAMPLES_MIN, _SAMPLES_MAX = 8, 120
_MEMORY_S, _EVERY_S = 30.0, 0.7
_SURE_RAD, _HALF_SURE_RAD = np.radians(4.5), np.radians(11.0)
# Rows of seats rise, and then the trunks of people tell another story than their pelvises.
_CONTRARY_RAD, _CONTRARY_SHARE = np.radians(8.0), 0.6
_TURN_RAD_S = np.radians(10.0)


class Vertical:
    """Learns from one frame after another; `up` is None until it is sure.

    When it has become sure, `up` goes slowly from where people's trunks point to where it should
    be, and on as more is learnt: what is half a minute old no longer counts.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, Float, float]] = deque(maxlen=_SAMPLES_MAX)
        self._pitch_rad: float | None = None  # in use
        self._goal_rad: float | None = None
        self._new = 0
        self._time_s: float | None = None
        self._judged_s = -np.inf

    @property
    def up(self) -> Float | None:
        """The unit vector up (3,) in camera axes, or None."""
        return None if self._pitch_rad is None else up_of(self._pitch_rad)

    def forget(self) -> None:
        """Start anew, as after a cut."""
        self._samples.clear()
        self._pitch_rad = self._goal_rad = self._time_s = None
        self._new, self._judged_s = 0, -np.inf

    def learn(self, roots_m: Mapping[int, Float], necks_m: Mapping[int, Float], now: float) -> None:
        """Take note of the people of a frame.

        Args:
            roots_m: pelvis (3,) in camera axes by the number of the person.
            necks_m: neck (3,) relative to the pelvis, as Stage II read it.
            now: time of the frame, s.
        """
        step_s = 0.0 if self._time_s is None else min(max(now - self._time_s, 0.0), 0.2)
        self._time_s = now
        while self._samples and not 0 <= now - self._samples[0][0] <= _MEMORY_S:
            self._samples.popleft()
        for number, root in roots_m.items():
            if not np.isfinite(root).all() or root[2] <= 0:
                continue
            others = [at for _, who, at, _ in self._samples if who == number]
            if others and np.linalg.norm(np.array(others) - root, axis=1).min() < _STEP_M:
                continue
            self._samples.append((now, number, root, float(_leans(necks_m[number]))))
            self._new += 1
        due = not 0 <= now - self._judged_s < _EVERY_S
        if due and self._new >= 4 and len(self._samples) >= _SAMPLES_MIN:
            self._new, self._judged_s = 0, now
            self._judge()
        if self._pitch_rad is not None and self._goal_rad is not None:
            turn = _TURN_RAD_S * step_s
            self._pitch_rad += float(np.clip(self._goal_rad - self._pitch_rad, -turn, turn))

    def _judge(self) -> None:
        numbers, roots, leans = zip(*(sample[1:] for sample in self._samples), strict=True)
        pitch, error = camera_pitch(np.array(roots), np.array(numbers))
        if error > _SURE_RAD:
            return
        if self._pitch_rad is None:
            lean = float(np.median(leans))
            if _contrary(pitch, lean):
                return
            self._pitch_rad = lean
        self._goal_rad = pitch


def up_in_picture(roots_m: Float, necks_m: Float) -> Float | None:
    """Return the unit vector up (3,) in camera axes as the people of one picture tell it, or None.

    Args:
        roots_m: pelvises (N, 3) in camera axes.
        necks_m: necks (N, 3) relative to the pelvises.
    """
    if len(roots_m) < 2:
        return None
    pitch, error = camera_pitch(roots_m)
    if error > _HALF_SURE_RAD or _contrary(pitch, float(np.median(_leans(necks_m)))):
        return None
    return up_of(pitch)


def _leans(necks_m: Float) -> Float:
    """Return by how much trunks (..., 3) lean towards the camera, radians."""
    return np.asarray(np.arctan2(-necks_m[..., 2], -necks_m[..., 1]))


def _contrary(pitch_rad: float, lean_rad: float) -> bool:
    return bool(abs(pitch_rad - lean_rad) > _CONTRARY_RAD + _CONTRARY_SHARE * abs(pitch_rad))


def up_of(pitch_rad: float) -> Float:
    """Return the unit vector up (3,) in the axes of a camera that looks down so far."""
    return np.array([0.0, -np.cos(pitch_rad), -np.sin(pitch_rad)])


def turn_to_down(down: Float) -> Float:
    """Return the smallest rotation (3, 3) of a unit vector (3,) to (0, 1, 0) (Rodrigues)."""
    v = np.cross(down, [0.0, 1.0, 0.0])
    m = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.asarray(np.eye(3) + m + m @ m / max(1 + float(down[1]), 1e-6))


def to_y_up(up: Float | None) -> Float:
    """Return the rotation (3, 3) from camera axes to axes with y up, right-handed.

    up: unit vector (3,) in camera axes; None: the camera is taken to be level.
    """
    half_turn = np.diag([1.0, -1.0, -1.0])
    return half_turn if up is None else np.asarray(half_turn @ turn_to_down(-np.asarray(up)))


def camera_pitch(roots_m: Float, numbers: NDArray[np.integer] | None = None) -> tuple[float, float]:
    """Return how far a camera looks down and the expected error, radians.

    Args:
        roots_m: (N, 3) pelvises in camera axes.
        numbers: (N,) whose they are; None: each somebody else's.

    At each of a number of pitches the heights of each person are compared with their mean, and the
    means with each other: somebody taken for larger than they are is too far away all the time.
    """
    y, z = roots_m[:, 1], roots_m[:, 2]
    height = -(y * np.cos(_GRID)[:, None] + z * np.sin(_GRID)[:, None])
    spread = _HEIGHT_M**2 + (_DISTANCE * height) ** 2  # distance moves a pelvis along its ray
    weight = 1 / spread
    whose = np.arange(len(z)) if numbers is None else np.unique(numbers, return_inverse=True)[1]
    one_hot = np.eye(whose.max() + 1)[whose]
    total = weight @ one_hot
    mean = (weight * height) @ one_hot / total
    log = -0.5 * (weight * (height - mean[:, whose]) ** 2 + np.log(spread)).sum(1)
    # what is measured is the distance; a height changes with it by height / distance
    log += 0.5 * np.log(height**2 + _HEIGHT_M**2).sum(1)
    apart = 1 / total + _PERSON_M**2 + (_SIZE * mean) ** 2
    log -= 0.5 * np.log(total).sum(1)
    among = 1 / apart
    all_of = among.sum(1) + 1 / _ABOVE_SPREAD_M**2
    middle = ((among * mean).sum(1) - _ABOVE_M / _ABOVE_SPREAD_M**2) / all_of
    log -= 0.5 * (among * (mean - middle[:, None]) ** 2 + np.log(apart)).sum(1)
    log -= 0.5 * ((middle + _ABOVE_M) ** 2 / _ABOVE_SPREAD_M**2 + np.log(all_of))
    log += np.log(sum(w / s * np.exp(-0.5 * ((_GRID - m) / s) ** 2) for w, m, s in _PRIOR))
    share = np.exp(log - log.max())
    share /= share.sum()
    pitch = float((share * _GRID).sum())
    return pitch, float(np.sqrt((share * (_GRID - pitch) ** 2).sum()))
