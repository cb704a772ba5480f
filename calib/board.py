"""A camera from pictures of a board: checkerboard or ChArUco, with an error for every view.

Source: Zhang 2000 (planar calibration) as implemented by OpenCV's calibrateCamera. The third
radial coefficient is kept at zero: a handful of board views cannot tell it from the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.errors import CalibrationError

Float = NDArray[np.floating[Any]]
UInt8 = NDArray[np.uint8]

VIEWS_MIN = 4
# The picture is divided into 3 x 3 fields; a good calibration has corners in all of them.
FIELDS = 3
_WORST_VIEW_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Board:
    """A flat board. Checkerboard: columns x rows of INNER corners; ChArUco: of squares.

    square_m is the side of a square; marker_ratio and dictionary concern ChArUco only.
    """

    kind: str
    columns: int
    rows: int
    square_m: float
    marker_ratio: float = 0.75
    dictionary: str = "4X4_1000"

    def __post_init__(self) -> None:
        if self.kind not in ("checkerboard", "charuco"):
            raise CalibrationError(f"board {self.kind!r}: there are checkerboard and charuco")
        if min(self.columns, self.rows) < 2 or self.square_m <= 0:
            raise CalibrationError("a board needs 2 or more columns and rows, and a square size")
        if not 0.1 < self.marker_ratio < 1:
            raise CalibrationError("the marker ratio is marker side / square side, below 1")
        if self.kind == "charuco" and not hasattr(cv2.aruco, "DICT_" + self.dictionary):
            raise CalibrationError(
                f"no ArUco dictionary {self.dictionary!r}, as in 4X4_50, 5X5_100"
            )


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Corners found in one picture: px (n, 2) and their place on the board (n, 3) in metres."""

    name: str
    corners_px: Float
    corners_m: Float


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A camera with how well it explains its views.

    rms_px over all corners used; view_rms_px by view name (used and dropped ones); dropped: views
    left out because their own error was far above the others'; coverage: share of the picture's
    3 x 3 fields that hold corners; sigma_px: standard deviation of the focal length.
    """

    camera: Camera
    rms_px: float
    view_rms_px: dict[str, float]
    dropped: tuple[str, ...]
    coverage: float
    sigma_px: float


class BoardFinder:
    """Finds a board in pictures; keeps OpenCV's detector, and whether the print is inverted."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._inverted: bool | None = None
        if board.kind == "charuco":
            names = cv2.aruco.getPredefinedDictionary(
                getattr(cv2.aruco, "DICT_" + board.dictionary)
            )
            side = float(board.square_m)
            self._charuco = cv2.aruco.CharucoBoard(
                (board.columns, board.rows), side, side * board.marker_ratio, names
            )
            self._detector = cv2.aruco.CharucoDetector(self._charuco)

    def find(self, image: UInt8, name: str = "") -> View | str:
        """Return the view in a BGR picture, or the reason why there is none."""
        grey = image
        if image.ndim == 3:
            grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        if self.board.kind == "checkerboard":
            return self._checkerboard(grey, name)
        tries = (False, True) if self._inverted is None else (self._inverted,)
        for inverted in tries:
            found = self._charuco_view(255 - grey if inverted else grey, name)
            if isinstance(found, View):
                self._inverted = inverted
                return found
        return found

    def _checkerboard(self, grey: UInt8, name: str) -> View | str:
        b = self.board
        flags = cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_NORMALIZE_IMAGE
        ok, corners = cv2.findChessboardCornersSB(grey, (b.columns, b.rows), flags=flags)
        if not ok:
            return (
                f"no board of {b.columns} x {b.rows} inner corners: all of it must be in view, "
                "flat, evenly lit, with a white margin"
            )
        y, x = np.mgrid[0 : b.rows, 0 : b.columns]
        points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1) * b.square_m
        return View(name, corners.reshape(-1, 2).astype(float), points)

    def _charuco_view(self, grey: UInt8, name: str) -> View | str:
        corners, ids, _, markers = self._detector.detectBoard(grey)
        if markers is None or len(markers) == 0:
            return f"no marker of dictionary {self.board.dictionary} seen"
        if ids is None or len(ids) < 6:
            n = 0 if ids is None else len(ids)
            return f"{n} inner corners seen, 6 are needed: check columns x rows, come nearer"
        ids = np.asarray(ids).ravel()
        points = np.asarray(self._charuco.getChessboardCorners(), float)[ids]
        if np.linalg.matrix_rank(points[:, :2] - points[:1, :2], tol=1e-6) < 2:
            return "all corners seen lie on one line of the board"
        return View(name, np.asarray(corners, float).reshape(-1, 2), points)


def calibrate(views: Sequence[View], width: int, height: int) -> Calibration:
    """Return the camera that explains the views of one picture size.

    Views whose own error is more than three times the median (and above 0.5 px) are left out once.

    Raises:
        CalibrationError: fewer than 4 usable views, or views that do not fix a camera.
    """
    used = list(views)
    _need(used)
    camera, rms, per_view, sigma = _solve(used, width, height)
    errors = dict(zip((v.name for v in used), per_view))
    limit = max(0.5, _WORST_VIEW_FACTOR * float(np.median(per_view)))
    kept = [v for v, e in zip(used, per_view) if e <= limit]
    dropped: tuple[str, ...] = ()
    if len(kept) < len(used) and len(kept) >= VIEWS_MIN:
        dropped = tuple(v.name for v in used if all(v is not k for k in kept))
        camera, rms, per_view, sigma = _solve(kept, width, height)
        errors.update(zip((v.name for v in kept), per_view))
        used = kept
    return Calibration(camera, rms, errors, dropped, coverage(used, width, height), sigma)


def coverage(views: Sequence[View], width: int, height: int) -> float:
    """Return the share of the 3 x 3 fields of the picture in which any view has a corner."""
    return float(covered(views, width, height).mean())


def covered(views: Sequence[View], width: int, height: int) -> NDArray[np.bool_]:
    """Return (3, 3): which fields of the picture hold a corner of any view."""
    seen = np.zeros((FIELDS, FIELDS), bool)
    for v in views:
        x = np.clip(v.corners_px[:, 0] / width * FIELDS, 0, FIELDS - 1).astype(int)
        y = np.clip(v.corners_px[:, 1] / height * FIELDS, 0, FIELDS - 1).astype(int)
        seen[y, x] = True
    return seen


def tilt_deg(view: View, camera: Camera) -> float:
    """Return the angle between the board and the picture plane, in degrees."""
    R, _ = board_pose(view, camera)
    return float(np.degrees(np.arccos(np.clip(abs(R[2, 2]), 0, 1))))


def board_pose(view: View, camera: Camera) -> tuple[Float, Float]:
    """Return R (3, 3) and t (3,) m from board to camera coordinates.

    Raises:
        CalibrationError: the corners do not fix a pose.
    """
    ok, r, t = cv2.solvePnP(
        view.corners_m, view.corners_px, camera.K, camera.distortion, flags=cv2.SOLVEPNP_IPPE
    )
    if not ok:
        raise CalibrationError(f"{view.name}: the board's position cannot be found")
    r, t = cv2.solvePnPRefineLM(view.corners_m, view.corners_px, camera.K, camera.distortion, r, t)
    return np.asarray(cv2.Rodrigues(r)[0], float), np.asarray(t, float).ravel()


def floor_from_board(view: View, camera: Camera) -> Camera:
    """Return the camera with extrinsics of a world whose floor is the board: y up, y = 0 on it.

    The origin is the board's first corner; z points from it towards the camera, along the floor.
    """
    R, t = board_pose(view, camera)
    up = R[:, 2] * np.sign(-(R[:, 2] @ t) or 1.0)  # the side of the board that the camera sees
    return with_floor(camera, t, up)


def with_floor(camera: Camera, point_m: Float, up: Float) -> Camera:
    """Return the camera placed in a y-up world with y = 0 through a point, both in camera axes."""
    from dataclasses import replace

    up = up / np.linalg.norm(up)
    back = -point_m - (-point_m @ up) * up  # along the floor, from the point towards the camera
    if np.linalg.norm(back) < 1e-6:
        back = np.array([0.0, -1.0, 0.0]) + up[1] * up
    back = back / np.linalg.norm(back)
    R = np.stack([np.cross(up, back), up, back], 1)  # columns: world axes in the camera
    return replace(camera, R=R, t=np.asarray(point_m, float))


def _need(views: Sequence[View]) -> None:
    if len(views) < VIEWS_MIN:
        raise CalibrationError(
            f"{len(views)} usable board view(s), at least {VIEWS_MIN} are needed (10 to 20 are "
            "good): show the board at different places and tilts"
        )


def _solve(
    views: Sequence[View], width: int, height: int
) -> tuple[Camera, float, list[float], float]:
    objects = [v.corners_m.astype(np.float32) for v in views]
    pixels = [v.corners_px.astype(np.float32).reshape(-1, 1, 2) for v in views]
    try:
        rms, K, d, _, _, sigma, _, per_view = cv2.calibrateCameraExtended(
            objects,
            pixels,
            (width, height),
            np.eye(3),
            np.zeros(5),
            flags=cv2.CALIB_FIX_K3,
        )
    except cv2.error as e:
        raise CalibrationError(
            "the views do not fix a camera: tilt the board more and fill the picture"
        ) from e
    if not (np.isfinite(K).all() and 0.1 < K[0, 0] / max(width, height) < 30):
        raise CalibrationError(
            f"the views give an impossible focal length ({K[0, 0]:.0f} px): tilt the board more"
        )
    intrinsics, lens = np.asarray(K, float), np.asarray(d, float).ravel()[:5]
    lens = np.concatenate([lens, np.zeros(5 - len(lens))])
    camera = Camera(intrinsics, width, height, lens, source="calibrated")
    return camera, float(rms), [float(e) for e in np.ravel(per_view)], float(np.ravel(sigma)[0])
