"""Projection, rays and the ways a camera follows its picture, against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manypose.calib.camera import Camera

K = np.array([[800.0, 0, 310.5], [0, 790.0, 255.0], [0, 0, 1]])
LENS = np.array([-0.12, 0.05, 0.001, -0.002, 0.01])


def a_camera(**changes: object) -> Camera:
    fields: dict[str, object] = {"K": K, "width": 640, "height": 480, "distortion": LENS}
    return Camera(**{**fields, **changes})  # type: ignore[arg-type]


def points(rng: np.random.Generator, n: int = 50) -> np.ndarray:
    return np.stack([rng.uniform(-1, 1, n), rng.uniform(-0.8, 0.8, n), rng.uniform(2, 6, n)], 1)


def test_projection_equals_opencv() -> None:
    p = points(np.random.default_rng(0))
    want = cv2.projectPoints(p, np.zeros(3), np.zeros(3), K, LENS)[0][:, 0]
    np.testing.assert_allclose(a_camera().camera_to_image(p), want, atol=1e-9)


def test_rays_equal_opencv() -> None:
    px = a_camera().camera_to_image(points(np.random.default_rng(1)))
    want = cv2.undistortPoints(px[:, None], K, LENS, criteria=(cv2.TERM_CRITERIA_COUNT, 100, 0))[
        :, 0
    ]
    np.testing.assert_allclose(a_camera().image_to_rays(px)[:, :2], want, atol=1e-6)


@given(st.floats(-0.9, 0.9), st.floats(-0.7, 0.7), st.floats(1.5, 20))
def test_a_ray_goes_back_through_its_point(x: float, y: float, z: float) -> None:
    p = np.array([x * z / 2, y * z / 2, z])
    ray = a_camera().image_to_rays(a_camera().camera_to_image(p))
    np.testing.assert_allclose(ray * z, p, atol=1e-5 * z)


def test_behind_the_camera_is_nan() -> None:
    assert np.isnan(a_camera().camera_to_image(np.array([0.1, 0.1, -1.0]))).all()
    assert np.isnan(a_camera().camera_to_image(np.zeros(3))).all()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
def test_a_turned_picture_keeps_its_pixels(turns: int) -> None:
    camera = a_camera(R=cv2.Rodrigues(np.array([0.1, 0.2, 0.3]))[0], t=np.array([0.1, 0, 4.0]))
    world = points(np.random.default_rng(2)) - [0, 0, 4]
    px = camera.camera_to_image(camera.world_to_camera(world))
    turned = camera.rotated(turns)
    got = turned.camera_to_image(turned.world_to_camera(world))
    # mark the pixel of each point in an index picture and turn it with numpy
    want = px.copy()
    w, h = camera.width, camera.height
    for _ in range(turns % 4):
        want = np.stack([want[:, 1], w - 1 - want[:, 0]], 1)
        w, h = h, w
    np.testing.assert_allclose(got, want, atol=1e-9)
    assert np.rot90(np.zeros((480, 640)), turns).shape == (turned.height, turned.width)


def test_np_rot90_moves_a_pixel_where_the_camera_says() -> None:
    image = np.zeros((480, 640), np.uint8)
    image[100, 200] = 1
    y, x = np.argwhere(np.rot90(image))[0]
    assert (x, y) == (100, 640 - 1 - 200)


def test_a_resized_picture_keeps_edges_together() -> None:
    small = a_camera().resized(320, 240)
    # the left edge of the picture is at -0.5 px before and after
    ray = a_camera().image_to_rays(np.array([-0.5, -0.5]))
    np.testing.assert_allclose(small.camera_to_image(ray), [-0.5, -0.5], atol=1e-6)


def test_world_and_camera_are_inverse() -> None:
    camera = a_camera(R=cv2.Rodrigues(np.array([0.3, -0.2, 0.9]))[0], t=np.array([1.0, 2, 3]))
    p = points(np.random.default_rng(3))
    np.testing.assert_allclose(camera.camera_to_world(camera.world_to_camera(p)), p, atol=1e-12)


def test_a_field_of_view_is_what_the_rays_span() -> None:
    camera = Camera.from_fov(1280, 720, 70.0, source="fov")
    left, right = camera.image_to_rays(np.array([[-0.5, 359.5], [1279.5, 359.5]]))
    angle = np.degrees(np.arctan(right[0]) - np.arctan(left[0]))
    assert angle == pytest.approx(70.0, abs=1e-9)


def test_a_guess_applies_to_the_longer_side() -> None:
    upright, lying = Camera.from_fov(404, 720), Camera.from_fov(720, 404)
    assert upright.K[0, 0] == lying.K[0, 0]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Camera\.K"):
        Camera(np.eye(2), 640, 480)
