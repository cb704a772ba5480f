from __future__ import annotations

import numpy as np
import pytest

from manypose.pose.joints import BONE_UNIT_M, INDEX, INDEX_2D, JOINTS, JOINTS_2D, LIMBS
from manypose.pose.targets import SIGMA_CELLS, cells_to_px, draw, px_to_cells

K, J = len(JOINTS_2D), len(JOINTS)


def person(**joints: tuple[float, float]) -> np.ndarray:
    out = np.zeros((K, 3))
    for name, xy in joints.items():
        out[INDEX_2D[name]] = (*xy, 2)
    return out


def test_cell_centres_lie_at_8c_plus_3_5() -> None:
    assert cells_to_px(np.array([0.0, 63.0])).tolist() == [3.5, 507.5]
    assert px_to_cells(np.array([-0.5, 511.5])).tolist() == [-0.5, 63.5]


def test_a_joint_is_a_gaussian_of_seven_pixels() -> None:
    heatmaps, _, _ = draw(person(nose=(83.5, 43.5))[None], 160, 256)
    nose = heatmaps[INDEX_2D["nose"]]
    assert nose[5, 10] == pytest.approx(1)
    assert nose[5, 12] == pytest.approx(np.exp(-(16**2) / (2 * 7**2)))
    assert nose[6, 11] == pytest.approx(np.exp(-1 / SIGMA_CELLS**2))
    assert heatmaps.sum() == pytest.approx(nose.sum())


def test_of_two_people_the_nearer_gaussian_stays() -> None:
    two = np.stack([person(nose=(43.5, 43.5)), person(nose=(59.5, 43.5))])
    heatmaps, _, _ = draw(two, 160, 256)
    assert heatmaps[INDEX_2D["nose"], 5, 5:8].tolist() == pytest.approx(
        [1, np.exp(-1 / (2 * SIGMA_CELLS**2)), 1]
    )


def test_a_limb_is_a_band_of_unit_vectors() -> None:
    one = person(l_elbow=(43.5, 43.5), l_wrist=(83.5, 43.5))
    _, pafs, _ = draw(one[None], 160, 256)
    limb = LIMBS.index((INDEX_2D["l_elbow"], INDEX_2D["l_wrist"]))
    assert (pafs[2 * limb, 4:7, 5:11] == 1).all()
    assert not pafs[2 * limb + 1].any()
    assert not pafs[2 * limb, [3, 7]].any()
    assert pafs[2 * limb].sum() == 18


def test_overlapping_limbs_are_averaged() -> None:
    there = person(l_elbow=(43.5, 43.5), l_wrist=(83.5, 43.5))
    down = person(l_elbow=(59.5, 19.5), l_wrist=(59.5, 83.5))
    _, pafs, _ = draw(np.stack([there, down]), 160, 256)
    limb = LIMBS.index((INDEX_2D["l_elbow"], INDEX_2D["l_wrist"]))
    assert pafs[2 * limb : 2 * limb + 2, 5, 7].tolist() == [0.5, 0.5]


def test_a_limb_leads_out_of_the_picture_but_its_far_joint_is_not_drawn() -> None:
    heatmaps, pafs, _ = draw(person(l_elbow=(243.5, 43.5), l_wrist=(283.5, 43.5))[None], 160, 256)
    limb = LIMBS.index((INDEX_2D["l_elbow"], INDEX_2D["l_wrist"]))
    assert pafs[2 * limb, 5, 31] == 1
    assert not heatmaps[INDEX_2D["l_wrist"]].any()


def test_pixels_of_a_joint_carry_the_bones_that_meet_there_and_the_bigger_person_wins() -> None:
    small = person(l_elbow=(43.5, 43.5), l_wrist=(43.5, 75.5))
    big = person(l_elbow=(51.5, 43.5), l_wrist=(51.5, 123.5))
    bones = np.full((2, J, 3), np.nan)
    bones[:, INDEX["l_elbow"]] = [[0.1, 0, 0], [0.3, 0, 0]]
    bones[:, INDEX["l_wrist"]] = [[0, 0.2, 0], [0, 0.25, 0.1]]
    for order in ([0, 1], [1, 0]):
        _, _, encodings = draw(np.stack([small, big])[order], 160, 256, bones[order])
        assert encodings is not None
        grid = encodings.reshape(J, 3, 20, 32) * BONE_UNIT_M
        assert grid[INDEX["l_elbow"], 0, 5, 4:8].tolist() == pytest.approx([0.1, 0.3, 0.3, 0.3])
        assert grid[INDEX["l_wrist"], :, 15, 6].tolist() == pytest.approx([0, 0.25, 0.1])
        assert not grid[INDEX["l_hand"]].any()


def test_nobody_and_unknown_joints_draw_nothing() -> None:
    heatmaps, pafs, encodings = draw(np.zeros((0, K, 3)), 160, 256, np.zeros((0, J, 3)))
    assert encodings is not None
    assert not heatmaps.any()
    assert not pafs.any()
    assert not encodings.any()
    nowhere = np.full((1, K, 3), np.nan)
    assert not draw(nowhere, 160, 256)[0].any()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="people_px: shape"):
        draw(np.zeros((1, 17, 3)), 160, 256)
    with pytest.raises(ValueError, match="multiples of 8"):
        draw(np.zeros((1, K, 3)), 161, 256)
    with pytest.raises(ValueError, match="bones_m: shape"):
        draw(np.zeros((1, K, 3)), 160, 256, np.zeros((2, J, 3)))
