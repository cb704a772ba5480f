from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manypose.pose.joining import statures
from manypose.pose.joints import INDEX_2D, JOINTS_2D
from manypose.pose.long_shots import enlarged_part, with_far
from manypose.pose.records import Person2D

W, H = 1280, 800
SIZE = (384, 240)  # so that a px of the input is 3.33 px of the picture
K = len(JOINTS_2D)


def person(score: float, middle: tuple[float, float], tall_px: float) -> Person2D:
    """Return somebody of this stature who stands upright, seen from the front."""
    at = {
        "nose": (0, 0.07), "eye": (0.02, 0.055), "ear": (0.04, 0.06), "head_top": (0, 0),
        "neck": (0, 0.18), "shoulder": (0.1, 0.18), "elbow": (0.12, 0.34), "wrist": (0.12, 0.48),
        "pelvis": (0, 0.47), "hip": (0.06, 0.47), "knee": (0.06, 0.71), "ankle": (0.06, 0.96),
    }  # fmt: skip
    joints = np.zeros((K, 2))
    for name, k in INDEX_2D.items():
        x, y = at[name.removeprefix("l_").removeprefix("r_")] if name not in at else at[name]
        joints[k] = (-x if name.startswith("r_") else x), y
    joints = (joints - (0, 0.5)) * tall_px + middle
    return Person2D(joints, np.full(K, score), score)


def test_a_stature_is_what_the_joints_ask_for_at_least() -> None:
    one = person(0.8, (600, 400), 300)
    legs = np.where(np.arange(K)[:, None] >= INDEX_2D["l_hip"], one.joints_px, np.nan)
    nobody = np.full((K, 2), np.nan)
    tall = statures(np.stack([one.joints_px, legs, nobody]))
    assert 0.75 * 300 < tall[0] < 1.25 * 300
    assert 0.5 * 300 < tall[1] <= tall[0]
    assert tall[2] == 0


def test_the_part_holds_everybody_small_and_reaches_no_farther_than_the_picture() -> None:
    small = [person(0.6, (200, 300), 180), person(0.25, (420, 330), 150)]
    large = person(0.9, (1000, 420), 700)
    part = enlarged_part([*small, large], W, H, SIZE)
    assert part is not None
    x0, y0, x1, y1 = part
    for one in small:
        assert (one.joints_px >= (x0, y0)).all()
        assert (one.joints_px <= (x1, y1)).all()
    assert 0 <= x0 < x1 <= W
    assert 0 <= y0 < y1 <= H
    assert x0 % 2 == y0 % 2 == 0
    assert x1 - x0 < W / 1.2
    assert (x1 - x0) / (y1 - y0) == pytest.approx(W / H, rel=0.02)


@pytest.mark.parametrize("people", [
    [],
    [person(0.9, (600, 400), 600)],  # large
    [person(0.1, (600, 400), 150)],  # nobody
    [person(0.9, (100, 400), 150), person(0.9, (1200, 300), 150)],  # all over the picture
    [Person2D(np.where(np.eye(K)[3, :, None] > 0, [50.0, 50.0], np.nan), np.eye(K)[3], 0.9)],
])  # fmt: skip
def test_no_second_look_where_it_would_show_nothing_new(people: list[Person2D]) -> None:
    assert enlarged_part(people, W, H, SIZE) is None


@pytest.mark.parametrize("middle", [(3, 3), (1277, 797), (640, 2)])
def test_somebody_in_a_corner(middle: tuple[float, float]) -> None:
    part = enlarged_part([person(0.5, middle, 60)], W, H, SIZE)
    assert part is not None
    x0, y0, x1, y1 = part
    assert x1 - x0 == pytest.approx(W / 3, abs=4)  # no more than three times enlarged
    assert 0 <= x0 < x1 <= W
    assert 0 <= y0 < y1 <= H


def test_a_picture_smaller_than_the_input_is_enlarged_too() -> None:
    part = enlarged_part([person(0.5, (40, 30), 20)], 96, 60, SIZE)
    assert part is not None
    assert part[2] - part[0] == pytest.approx(20 * 1.6 * W / H, abs=4)  # 0.3 of 20 px all round


def test_who_is_far_is_taken_from_the_enlarged_part_and_who_is_near_stays() -> None:
    coarse = person(0.5, (200, 300), 180)
    fine = replace(coarse, joints_px=coarse.joints_px + 5.0, score=0.7)
    near = person(0.9, (900, 400), 700)
    piece = replace(near, joints_px=near.joints_px - 4.0, score=0.95)
    new = person(0.6, (500, 320), 160)
    found = with_far([near, coarse], [piece, fine, new], W, H, SIZE)
    assert found == [near, fine, new]


def test_a_much_surer_reading_of_the_whole_picture_is_kept() -> None:
    coarse = person(0.9, (200, 300), 180)
    fine = replace(coarse, joints_px=coarse.joints_px + 5.0, score=0.5)
    assert with_far([coarse], [fine], W, H, SIZE) == [coarse]
    assert with_far([], [], W, H, SIZE) == []
    assert with_far([coarse], [], W, H, SIZE) == [coarse]
