"""Calibration from drawn boards with known cameras, and from real photographs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from manypose.calib.board import (
    Board,
    BoardFinder,
    View,
    board_pose,
    calibrate,
    coverage,
    floor_from_board,
    tilt_deg,
)
from manypose.calib.camera import Camera
from manypose.calib.floor import floor_plane
from manypose.errors import CalibrationError

TRUE = Camera(
    np.array([[900.0, 0, 330.0], [0, 905.0, 235.0], [0, 0, 1]]),
    640,
    480,
    np.array([-0.15, 0.08, 0.0, 0.0, 0.0]),
)
BOARD = Board("checkerboard", 7, 5, 0.04)


def seen_views(n: int = 12, noise_px: float = 0.1) -> list[View]:
    """Return what a perfect finder would see of the board at random places."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:5, 0:7]
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1) * BOARD.square_m
    views = []
    while len(views) < n:
        R = cv2.Rodrigues(rng.normal(0, 0.4, 3))[0]
        t = np.array([rng.uniform(-0.3, 0.1), rng.uniform(-0.25, 0.1), rng.uniform(0.5, 1.0)])
        px = TRUE.camera_to_image(points @ R.T + t)
        if (px > 5).all() and (px[:, 0] < 635).all() and (px[:, 1] < 475).all():
            views.append(View(f"v{len(views)}", px + rng.normal(0, noise_px, px.shape), points))
    return views


def test_a_known_camera_comes_back() -> None:
    result = calibrate(seen_views(), 640, 480)
    assert abs(result.camera.K[0, 0] - 900) < 4 * result.sigma_px + 3
    assert result.rms_px < 0.2
    assert not result.dropped


def test_a_bad_view_is_named_and_left_out() -> None:
    views = seen_views()
    rng = np.random.default_rng(0)
    bad = View("bad", views[0].corners_px + rng.normal(0, 8, (35, 2)), views[0].corners_m)
    result = calibrate([*views, bad], 640, 480)
    assert result.dropped == ("bad",)
    assert abs(result.camera.K[0, 0] - 900) < 10


def test_too_few_views_say_how_many_are_needed() -> None:
    with pytest.raises(CalibrationError, match="at least 4"):
        calibrate(seen_views(3), 640, 480)


def test_coverage_counts_fields() -> None:
    one = View("a", np.array([[10.0, 10], [630, 10]]), np.zeros((2, 3)))
    assert coverage([one], 640, 480) == pytest.approx(2 / 9)


def test_a_board_on_the_floor_gives_a_world_with_y_up() -> None:
    # a board lying 1.5 m below the camera and 3 m in front of it
    y, x = np.mgrid[0:5, 0:7]
    floor = np.stack([x.ravel() * 0.2 - 0.6, 0 * x.ravel() + 1.5, 3 + y.ravel() * 0.2], 1)
    board = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1) * 0.2
    camera = floor_from_board(View("f", TRUE.camera_to_image(floor), board), TRUE)
    world = camera.camera_to_world(np.array([[0.0, 1.5, 4], [0, 0, 0], [0, 0.5, 4]]))
    np.testing.assert_allclose(world[:, 1], [0, 1.5, 1.0], atol=1e-3)
    assert np.linalg.det(camera.R) == pytest.approx(1)


def test_tilt_of_a_facing_board_is_zero() -> None:
    y, x = np.mgrid[0:5, 0:7]
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1) * 0.04
    view = View("a", TRUE.camera_to_image(points + np.array([0, 0, 1.0])), points)
    assert tilt_deg(view, TRUE) < 1
    np.testing.assert_allclose(board_pose(view, TRUE)[1], [0, 0, 1], atol=1e-3)


def test_a_drawn_charuco_board_is_found_in_both_prints() -> None:
    board = Board("charuco", 5, 4, 0.05, 0.7, "5X5_100")
    names = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
    drawn = cv2.aruco.CharucoBoard((5, 4), 0.05, 0.035, names).generateImage((600, 480), None, 20)
    for image in (drawn, 255 - drawn):
        view = BoardFinder(board).find(image)
        assert isinstance(view, View)
        assert len(view.corners_px) == 12


def test_a_picture_without_a_board_says_why() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert "inner corners" in str(BoardFinder(BOARD).find(grey))
    assert "no marker" in str(BoardFinder(Board("charuco", 4, 5, 0.05)).find(grey))


@pytest.mark.parametrize(("kind", "columns", "square"), [("circle", 4, 1.0), ("charuco", 1, 1.0)])
def test_impossible_boards_are_refused(kind: str, columns: int, square: float) -> None:
    with pytest.raises(CalibrationError):
        Board(kind, columns, 4, square)


def test_the_floor_under_walking_feet() -> None:
    rng = np.random.default_rng(1)
    up = np.array([0.05, -1.0, -0.25]) / np.linalg.norm([0.05, -1.0, -0.25])
    side = np.cross(up, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    p = np.array([0, 1.4, 4.0]) + rng.uniform(-1, 1, (300, 1)) * side
    p = p + rng.uniform(-1, 1, (300, 1)) * np.cross(side, up)
    p = p + np.where(rng.random(300) < 0.4, rng.uniform(0.05, 0.3, 300), 0)[:, None] * up
    point, got = floor_plane(p + rng.normal(0, 0.01, p.shape))
    assert np.degrees(np.arccos(got @ up)) < 1.0
    assert abs((point - [0, 1.4, 4.0]) @ up) < 0.02


def test_feet_on_a_line_are_refused() -> None:
    p = np.linspace([0, 1, 2], [1, 1, 5], 100)
    with pytest.raises(CalibrationError, match="one line"):
        floor_plane(p)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "prefix", "board"),
    [
        ("checkerboard", "cam01", Board("checkerboard", 4, 7, 0.06)),
        ("checkerboard", "cam02", Board("checkerboard", 4, 7, 0.06)),
        ("charuco", "cam0", Board("charuco", 4, 5, 0.054, 0.75, "4X4_1000")),
        ("charuco", "cam1", Board("charuco", 4, 5, 0.054, 0.75, "4X4_1000")),
    ],
)
def test_real_photographs_agree_with_their_reference(
    shared: Path, folder: str, prefix: str, board: Board
) -> None:
    where = shared / "data/calib" / folder
    finder, views = BoardFinder(board), []
    for path in sorted(where.glob(f"{prefix}_*.jpg")):
        image = cv2.imread(str(path))
        view = finder.find(image, path.name)
        if isinstance(view, View):
            views.append(view)
    result = calibrate(views, image.shape[1], image.shape[0])
    want = tomllib.loads((where / "reference.toml").read_text())[prefix]
    assert result.rms_px < 0.6
    # the reference comes from other recordings of the same camera: agree within own uncertainty
    for K in (want["own_K"], want["reference_K"]):
        assert abs(result.camera.K[0, 0] - K[0][0]) < 3 * result.sigma_px + 0.01 * K[0][0]
