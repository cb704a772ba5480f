from __future__ import annotations

import numpy as np
import pytest

from manypose.models.preprocess import BORDER, grid_to_image, letterbox
from manypose.pose.records import Float


def _cell_to_px(affine: Float, cell: tuple[float, float]) -> Float:
    return affine @ np.array([*cell, 1.0])


def _ramp(height: int, width: int) -> np.ndarray:
    """A picture whose blue grows with x and green with y."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return image


@pytest.mark.parametrize("size", [(320, 512), (512, 320), (64, 64), (336, 176)])
@pytest.mark.parametrize("picture", [(480, 640), (1080, 1920), (641, 359), (100, 100), (33, 2000)])
def test_a_place_in_the_network_input_shows_the_picture_at_its_affine(
    size: tuple[int, int], picture: tuple[int, int]
) -> None:
    height, width = size
    image = _ramp(*picture)
    boxed, affine = letterbox(image, height, width)
    assert boxed.shape == (height, width, 3)
    for y in range(0, height, 7):
        for x in range(0, width, 5):
            px, py = _cell_to_px(affine, ((x - 3.5) / 8, (y - 3.5) / 8))
            # Well inside the picture its colours must be those of the place the affine names.
            if 2 < px < picture[1] - 3 and 2 < py < picture[0] - 3:
                blue, green, _ = boxed[y, x].astype(float)
                assert abs(blue - 255 * px / (picture[1] - 1)) < 1.6 + 255 / picture[1] * 0.6
                assert abs(green - 255 * py / (picture[0] - 1)) < 1.6 + 255 / picture[0] * 0.6
            elif not (-3 < px < picture[1] + 2 and -3 < py < picture[0] + 2):
                assert (boxed[y, x] == BORDER).all()


def test_half_pixels_are_exact() -> None:
    # Twice as large: pixel 10 of the picture covers 20 and 21 of the input, its centre is 20.5.
    image = np.zeros((40, 64, 3), np.uint8)
    image[20, 10] = 255
    boxed, affine = letterbox(image, 80, 128)
    mass = boxed[..., 0].astype(float)
    y, x = (np.indices(mass.shape) * mass).sum((1, 2)) / mass.sum()
    assert (x, y) == pytest.approx((20.5, 40.5))
    assert _cell_to_px(affine, ((x - 3.5) / 8, (y - 3.5) / 8)) == pytest.approx([10, 20])


def test_the_whole_picture_is_kept_and_scales_may_differ_by_rounding_only() -> None:
    _, affine = letterbox(np.zeros((719, 1281, 3), np.uint8), 320, 512)
    assert affine[0, 0] == pytest.approx(affine[1, 1], rel=0.01)
    assert affine[0, 1] == affine[1, 0] == 0


def test_it_writes_into_an_array_of_old_content() -> None:
    image = _ramp(90, 50)
    fresh, _ = letterbox(image, 64, 96)
    old = np.full((64, 96, 3), 7, np.uint8)
    again, _ = letterbox(image, 64, 96, old)
    assert again is old
    np.testing.assert_array_equal(fresh, again)


def test_turned_and_strided_pictures_are_taken() -> None:
    image = _ramp(90, 50)
    for view in (np.rot90(image), image[::-1], image[::2, ::2], np.asfortranarray(image)):
        expected, _ = letterbox(np.ascontiguousarray(view), 64, 96)
        np.testing.assert_array_equal(letterbox(view, 64, 96)[0], expected)


def test_an_empty_picture_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        letterbox(np.zeros((0, 5, 3), np.uint8), 64, 64)


def test_without_scaling_the_grid_lies_at_8c_plus_3_5() -> None:
    np.testing.assert_allclose(grid_to_image(1, 1), [[8, 0, 3.5], [0, 8, 3.5]])


def test_a_part_shows_the_picture_at_its_affine() -> None:
    image = _ramp(480, 640)
    part = (200, 120, 520, 320)
    boxed, affine = letterbox(image, 160, 256, part=part)
    for cell in ((3, 4), (20, 9), (30, 15)):
        px, py = _cell_to_px(affine, cell)
        blue, green, _ = boxed[round(8 * cell[1] + 3.5), round(8 * cell[0] + 3.5)].astype(float)
        assert abs(blue - 255 * px / 639) < 1.5
        assert abs(green - 255 * py / 479) < 1.5
    assert _cell_to_px(affine, (-0.4375, -0.4375)) == pytest.approx(
        [200 - 0.5 + 0.5 * 320 / 256, 120 - 0.5 + 0.5 * 200 / 160]
    )
