"""A pinhole camera with lens distortion: what turns pixels into rays and metres into pixels.

Axes: x right, y down, z forward, metres. Pixels: centre of the top-left pixel = (0, 0).
World to camera: ``x_camera = R @ x_world + t`` (OpenCV's t, not the optical centre).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]

FOV_GUESS_DEG = 60.0
_UPRIGHT_MIN = 0.25


def _identity() -> Float:
    return np.eye(3)


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Intrinsics K (3, 3) px, distortion (k1 k2 p1 p2 k3), extrinsics R (3, 3) and t (3,) m.

    width and height are those of the picture K belongs to. `source` says where the intrinsics
    come from: "fov-guess", "fov" (given by the user) or "calibrated".
    """

    K: Float
    width: int
    height: int
    distortion: Float = field(default_factory=lambda: np.zeros(5))
    R: Float = field(default_factory=_identity)
    t: Float = field(default_factory=lambda: np.zeros(3))
    source: str = "fov-guess"

    def __post_init__(self) -> None:
        for name, shape in (("K", (3, 3)), ("distortion", (5,)), ("R", (3, 3)), ("t", (3,))):
            got = np.shape(getattr(self, name))
            if got != shape:
                raise ValueError(f"Camera.{name}: shape {got}, wanted {shape}")

    @staticmethod
    def from_fov(
        width: int, height: int, fov_deg: float = FOV_GUESS_DEG, source: str = "fov-guess"
    ) -> Camera:
        """Return a camera with this horizontal field of view (of the longer side if guessed).

        A guess (`source="fov-guess"`) applies the angle to the longer side, so that a phone held
        upright is not taken for a wide-angle lens; a field of view given by the user is the
        horizontal one.
        """
        side = max(width, height) if source == "fov-guess" else width
        f = side / 2 / math.tan(math.radians(fov_deg) / 2)
        K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])
        return Camera(K, width, height, source=source)

    @property
    def has_distortion(self) -> bool:
        """Whether any distortion coefficient is not zero."""
        return bool(np.any(self.distortion != 0))

    @property
    def placed(self) -> bool:
        """Whether extrinsics say where in a world the camera stands."""
        return bool(np.any(np.eye(3) != self.R) or np.any(self.t != 0))

    @property
    def up(self) -> Float | None:
        """The unit vector up (3,) in camera axes, None where the camera is not placed in a world.

        Worlds have y up. One in which this camera would lie on its side or on its head, or in which
        z is more upright, is another kind of world, and says nothing.
        """
        if not self.placed:
            return None
        up: Float = self.R[:, 1]
        return up if -up[1] > max(_UPRIGHT_MIN, -self.R[1, 2]) else None

    def camera_to_image(self, points_m: Float) -> Float:
        """Project points (..., 3) of the camera frame to px (..., 2); NaN at or behind z = 0."""
        z = points_m[..., 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            q = np.where(z > 1e-6, points_m[..., :2] / z, np.nan)
        return self._normalised_to_image(q)

    def image_to_rays(self, points_px: Float) -> Float:
        """Return rays (..., 3) with z = 1 through px (..., 2); NaN stays NaN."""
        q: Float = (points_px - self.K[:2, 2]) / self.K[[0, 1], [0, 1]]
        if self.K[0, 1] != 0:
            x = q[..., 0] - self.K[0, 1] * q[..., 1] / self.K[0, 0]
            q = np.stack([x, q[..., 1]], -1)
        if self.has_distortion:
            q = self._undistort(q)
        return np.concatenate([q, np.ones_like(q[..., :1])], -1)

    def world_to_camera(self, points_m: Float) -> Float:
        """Return points (..., 3) of the world in the camera frame."""
        return points_m @ self.R.T + self.t

    def camera_to_world(self, points_m: Float) -> Float:
        """Return points (..., 3) of the camera frame in the world."""
        return (points_m - self.t) @ self.R

    def transformed(self, affine: Float, width: int, height: int) -> Camera:
        """Return the camera of a picture made by an axis-parallel affine (2, 3), px to px.

        Resizing, cropping and letter-boxing are such maps; distortion acts on rays and stays.
        """
        if abs(affine[0, 1]) > 1e-9 or abs(affine[1, 0]) > 1e-9:
            raise ValueError("Camera.transformed: the affine must keep the axes (no rotation)")
        K = np.vstack([affine, [0, 0, 1]]) @ self.K
        return replace(self, K=K, width=width, height=height)

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of the picture stretched to width x height."""
        sx, sy = width / self.width, height / self.height
        affine = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2]])
        return self.transformed(affine, width, height)

    def rotated(self, quarter_turns: int) -> Camera:
        """Return the camera of the picture turned by np.rot90(image, quarter_turns).

        The camera frame turns with the picture, so extrinsics and tangential distortion turn too.
        """
        camera = self
        for _ in range(quarter_turns % 4):
            # np.rot90 once (counter-clockwise): new x = old y, new y = width - 1 - old x
            turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
            (fx, s, cx), (_, fy, cy) = camera.K[0], camera.K[1]
            if s != 0:
                raise ValueError("Camera.rotated: a skewed camera cannot be turned")
            K = np.array([[fy, 0, cy], [0, fx, camera.width - 1 - cx], [0, 0, 1.0]])
            k1, k2, p1, p2, k3 = camera.distortion
            camera = replace(
                camera,
                K=K,
                width=camera.height,
                height=camera.width,
                distortion=np.array([k1, k2, -p2, p1, k3]),
                R=turn @ camera.R,
                t=turn @ camera.t,
            )
        return camera

    def _normalised_to_image(self, q: Float) -> Float:
        x, y = q[..., 0], q[..., 1]
        if self.has_distortion:
            x, y = _distort(x, y, self.distortion)
        u = self.K[0, 0] * x + self.K[0, 1] * y + self.K[0, 2]
        v = self.K[1, 1] * y + self.K[1, 2]
        return np.stack([u, v], -1)

    def _undistort(self, q: Float) -> Float:
        """Invert the distortion by fixed-point iteration, as OpenCV does."""
        k1, k2, p1, p2, k3 = self.distortion
        x0, y0 = q[..., 0], q[..., 1]
        x, y = x0, y0
        for _ in range(20):
            r2 = x * x + y * y
            radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
            dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
            x, y = (x0 - dx) / radial, (y0 - dy) / radial
        return np.stack([x, y], -1)


def _distort(x: Float, y: Float, distortion: Float) -> tuple[Float, Float]:
    """Apply the Brown-Conrady model in OpenCV's order k1 k2 p1 p2 k3."""
    k1, k2, p1, p2, k3 = distortion
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )
