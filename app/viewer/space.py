"""From the camera's frame to the room that the 3D view shows: z up, floor at z = 0, metres.

The camera frame is x right, y down, z forward. Where the camera's extrinsics are known they give
the vertical, or the people who moved before it; until then it is guessed from how people stand, for
display only: results stay as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.pose.joints import INDEX, JOINTS, PARENT
from manypose.pose.records import TrackedPerson
from manypose.pose.vertical import turn_to_down

Float = NDArray[np.floating[Any]]

BONES: tuple[tuple[int, int], ...] = tuple(
    (parent, joint) for joint, parent in enumerate(PARENT) if parent >= 0
)
# Camera axes to display axes: x stays, depth becomes y, up becomes z (a rotation).
_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
# World axes (y up) to display axes.
_FROM_WORLD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_CAMERA_HEIGHT_M = 1.4
_TILT_MAX_COS = 0.64  # a person who leans by more than 50 degrees says nothing about the vertical
_MEMORY_S = 4.0
_FEET = [INDEX[name] for name in ("l_foot", "r_foot", "l_ankle", "r_ankle")]
_SOLE_M = np.array([0.03, 0.03, 0.09, 0.09])  # height of those joints in a standing body


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """People in the display frame: joints_m (N, J, 3) with NaN, state (N, J), track ids (N)."""

    joints_m: Float
    state: NDArray[np.uint8]
    ids: tuple[int, ...]


NOBODY = Bodies(np.zeros((0, len(JOINTS), 3)), np.zeros((0, len(JOINTS)), np.uint8), ())


class Room:
    """Keeps the vertical and the floor of one camera, slowly adapting; turns people into Bodies."""

    def __init__(self) -> None:
        self._down = np.array([0.0, 1.0, 0.0])
        self._weight = 0.0
        self._soles: deque[float] = deque(maxlen=300)
        self._floor = -_CAMERA_HEIGHT_M
        self._time_s: float | None = None
        self._known = False
        self._rotation = _UPRIGHT
        self._offset = np.array([0.0, 0.0, _CAMERA_HEIGHT_M])

    def bodies(
        self, people: Sequence[TrackedPerson], camera: Camera | None, time_s: float,
        up: Float | None = None,
    ) -> Bodies:  # fmt: skip
        """Return the people of one frame in the display frame, after learning from them.

        up: unit vector (3,) in camera axes, where it is known better than from how people stand.
        """
        joints = np.stack([p.joints_m for p in people]).astype(float) if people else NOBODY.joints_m
        self._learn(joints, camera, time_s, up)
        shown = joints @ self._rotation.T + self._offset
        state = np.stack([p.state for p in people]) if people else NOBODY.state
        return Bodies(shown, state, tuple(p.track_id for p in people))

    def frustum(self, camera: Camera, depth_m: float = 0.7) -> Float:
        """Return the camera's pyramid as line ends (2 n, 3) in the display frame."""
        w, h = camera.width - 1.0, camera.height - 1.0
        corners = np.array([[0, 0], [w, 0], [w, h], [0, h]])
        K = camera.K
        rays = np.column_stack(
            [(corners[:, 0] - K[0, 2]) / K[0, 0], (corners[:, 1] - K[1, 2]) / K[1, 1], np.ones(4)]
        )
        far = rays * depth_m
        top = np.array([(far[0] + far[1]) / 2 + (far[0] - far[3]) * 0.12])
        near = np.zeros((1, 3))
        points = np.concatenate([near, far, top])
        order = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1, 1, 5, 5, 2]
        lines: Float = points[order] @ self._rotation.T + self._offset
        return lines

    def _learn(self, joints: Float, camera: Camera | None, time_s: float, up: Float | None) -> None:
        if camera is not None and camera.placed:
            self._rotation = _FROM_WORLD @ camera.R.T
            self._offset = -_FROM_WORLD @ camera.R.T @ camera.t
            return
        dt = 0.0 if self._time_s is None else float(np.clip(time_s - self._time_s, 0.0, 0.5))
        self._time_s = time_s
        downs = _downs(joints) if up is None else -np.asarray(up)[None]
        if len(downs):
            mean = downs.mean(0)
            self._weight = min(self._weight + max(dt, 0.02), _MEMORY_S)
            share = max(dt, 0.02) / self._weight
            self._down = self._down + share * (mean - self._down)
            self._down /= np.linalg.norm(self._down)
        self._rotation = _UPRIGHT @ turn_to_down(self._down)
        soles = (joints[:, _FEET] @ self._rotation.T)[..., 2] - _SOLE_M
        with np.errstate(invalid="ignore"):
            lowest = [row[np.isfinite(row)].min() for row in soles if np.isfinite(row).any()]
        self._soles.extend(float(v) for v in lowest)
        if self._soles:
            goal = float(np.percentile(self._soles, 20))
            step = 1.0 if not self._known else min(1.0, dt / 1.0)
            self._floor += step * (goal - self._floor)
            self._known = True
        self._offset = np.array([0.0, 0.0, -self._floor])


def _downs(joints: Float) -> Float:
    """Return unit vectors (n, 3) from neck to ankles (or pelvis) of those who roughly stand."""
    neck = joints[:, INDEX["neck"]]
    ankles = (joints[:, INDEX["l_ankle"]] + joints[:, INDEX["r_ankle"]]) / 2
    low = np.where(np.isfinite(ankles), ankles, joints[:, INDEX["pelvis"]])
    down = low - neck
    length = np.linalg.norm(down, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        down = down / length
        upright = down[:, 1] > _TILT_MAX_COS
    kept: Float = down[upright & np.isfinite(down).all(1)]
    return kept


class Orbit:
    """The point of view of the 3D pane: turns about a centre, frames people by itself."""

    FOV_DEG = 50.0

    def __init__(self) -> None:
        self.grid = True
        self.follow = False
        self.mirror = False
        self.note = ""  # where the metres come from
        self.reset()

    def reset(self) -> None:
        """Go back to the view over the camera's shoulder."""
        self.azimuth_deg, self.elevation_deg = -68.0, 14.0
        self.centre = np.array([0.0, 2.0, 0.9])
        self.distance_m = 6.5
        self._zoom = 1.0
        self._pan = np.zeros(3)
        self._framed = False

    def turn(self, dx_px: float, dy_px: float) -> None:
        """Turn the view as a mouse drag of so many pixels does."""
        self.azimuth_deg -= 0.4 * dx_px
        self.elevation_deg = float(np.clip(self.elevation_deg + 0.3 * dy_px, -5, 89))

    def zoom(self, steps: float) -> None:
        """Go nearer (positive) or farther by notches of a mouse wheel."""
        self._zoom = float(np.clip(self._zoom * 0.9**steps, 0.2, 5.0))

    def pan(self, dx_px: float, dy_px: float, width: int) -> None:
        """Shift the centre along the picture plane."""
        right, up, _ = self.axes()
        scale = self.eye_distance * 2 * np.tan(np.radians(self.FOV_DEG / 2)) / max(width, 1)
        self._pan = self._pan + (-right * dx_px + up * dy_px) * scale

    @property
    def eye_distance(self) -> float:
        """Distance from eye to centre in metres, with the user's zoom."""
        return self.distance_m * self._zoom

    @property
    def target(self) -> Float:
        """The point looked at (3,), with the user's pan."""
        point: Float = self.centre + self._pan
        return point

    def axes(self) -> tuple[Float, Float, Float]:
        """Return unit vectors right, up and towards the eye."""
        a, e = np.radians(self.azimuth_deg), np.radians(self.elevation_deg)
        back = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        return right, np.cross(back, right), back

    def frame(self, bodies: Bodies, dt_s: float) -> None:
        """Move slowly so that everybody (or with `follow` the nearest) is in view."""
        points = bodies.joints_m
        if self.follow and len(points):
            with np.errstate(invalid="ignore"):
                depth = np.where(np.isfinite(points[:, :, 1]), points[:, :, 1], np.inf).min(1)
            points = points[[int(np.argmin(depth))]]
        flat = points.reshape(-1, 3)
        flat = flat[np.isfinite(flat).all(1)]
        if not len(flat):
            return
        low, high = np.percentile(flat, [3, 97], axis=0)
        centre = (low + high) / 2
        centre[2] = 0.95
        first = not self._framed
        self._framed = True
        move = 1.0 if first else 1 - float(np.exp(-dt_s / (0.4 if self.follow else 1.0)))
        self.centre = self.centre + move * (centre - self.centre)
        # from the centre as it is now, so that nobody is lost while it still moves
        distance = float(np.clip(self._distance_for(flat - self.centre), 2.8, 25))
        hurry = 0.25 if distance > self.distance_m else 2.0
        near = 1.0 if first else 1 - float(np.exp(-dt_s / hurry))
        self.distance_m += near * (distance - self.distance_m)

    def _distance_for(self, points: Float) -> float:
        """Return how far the eye must be from the centre to have all points (n, 3) in view.

        The pane is taken to be at least 3/4 as high as wide.
        """
        right, up, back = self.axes()
        reach = np.tan(np.radians(self.FOV_DEG / 2)) * 0.86
        across, above, towards = np.abs(points @ right), np.abs(points @ up), points @ back
        need = np.maximum(across / reach, above / (0.75 * reach)) + towards
        return float(np.percentile(need, 98))

    def project(self, points: Float, width: int, height: int) -> Float:
        """Return x, y in widget px and depth in metres (..., 3); NaN behind the eye."""
        right, up, back = self.axes()
        seen = points - (self.target + back * self.eye_distance)
        depth = -(seen @ back)
        focal = width / 2 / np.tan(np.radians(self.FOV_DEG / 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            depth = np.where(depth > 0.05, depth, np.nan)
            x = width / 2 + focal * (seen @ right) / depth
            y = height / 2 - focal * (seen @ up) / depth
        return np.stack([x, y, depth], -1)


def grid_lines(centre: Float, radius_m: int = 7) -> tuple[Float, Float]:
    """Return a metre grid on the floor as line ends (2 n, 3) and their opacity (2 n,).

    It lies at whole metres round `centre` and fades out, so it seems to have no border.
    """
    cx, cy = np.round(centre[:2])
    steps = np.arange(-radius_m, radius_m + 1.0)
    a, b = (m.ravel() for m in np.meshgrid(steps, steps[:-1], indexing="ij"))
    along_y = np.stack([np.stack([a, b], 1), np.stack([a, b + 1], 1)], 1)
    ends = np.concatenate([along_y, along_y[..., ::-1]]).reshape(-1, 2)
    opacity = np.clip(1 - np.hypot(ends[:, 0], ends[:, 1]) / radius_m, 0, 1)
    points = np.column_stack([ends[:, 0] + cx, ends[:, 1] + cy, np.zeros(len(ends))])
    visible = opacity.reshape(-1, 2).max(1).repeat(2) > 0
    return points[visible], opacity[visible]


def body_height_m(joints_m: Float) -> float:
    """Return the length of the chain foot sole to head top of joints (J, 3), NaN if unknown.

    Bones are added up, so a seated person has the same height.
    """

    def length(*names: str) -> float:
        chain = joints_m[[INDEX[n] for n in names]]
        return float(np.linalg.norm(np.diff(chain, axis=0), axis=1).sum())

    legs = [length(f"{s}_hip", f"{s}_knee", f"{s}_ankle") for s in "lr"]
    known = [v for v in legs if np.isfinite(v)]
    if not known:
        return float("nan")
    return max(known) + length("pelvis", "spine", "neck", "head", "head_top") + 0.09
