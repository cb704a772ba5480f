from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from manypose.pose import metrics as m
from manypose.pose.joints import JOINTS, PARENT

nan, inf = np.nan, np.inf


def body(seed: int = 0, people: int | None = None) -> np.ndarray:
    shape = (17, 3) if people is None else (people, 17, 3)
    return np.random.default_rng(seed).normal(0, 0.4, shape)


def test_the_parents_of_mupots_are_ours_but_for_the_head_top_and_roots() -> None:
    for joint, parent in enumerate(m.MUPOTS_PARENTS):
        if JOINTS[joint] not in ("head_top", "pelvis"):
            assert parent == PARENT[joint]
    assert JOINTS[m.MUPOTS_ROOT] == "pelvis"
    assert sorted(m.MUPOTS_ORDER) == list(range(17))


def test_missing_is_infinitely_wrong_and_unknown_is_not_counted() -> None:
    truth = np.array([[0, 0, 0], [1, 0, 0], [nan, 0, 0.0]])
    found = np.array([[0, 0, 0.1], [nan, 0, 0], [1, 1, 1]])
    errors = m.joint_errors(found, truth)
    assert errors[0] == pytest.approx(0.1)
    assert errors[1] == inf
    assert np.isnan(errors[2])
    assert m.mean_error(errors) == pytest.approx(0.1)
    assert m.pck(errors) == 0.5


def test_root_relative_errors_ignore_where_a_person_stands() -> None:
    truth = body()
    assert m.mean_error(m.joint_errors(truth + np.array([1, 2, 3]), truth, root=14)) < 1e-12
    assert m.mean_error(m.joint_errors(truth + np.array([0, 0, 3]), truth)) == pytest.approx(3)


def test_scaling_is_taken_out() -> None:
    truth = body()
    assert m.mean_error(m.scaled_errors(1.3 * truth + 1, truth, root=14)) < 1e-12
    turned = truth @ Rotation.from_euler("y", 20, degrees=True).as_matrix().T
    assert m.mean_error(m.scaled_errors(turned, truth, root=14)) > 0.01


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
def test_procrustes_undoes_every_similarity(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    truth = body(seed, 3)
    turn = Rotation.random(rng=rng).as_matrix()
    found = scale * truth @ turn.T + rng.normal(0, 5, 3)
    found[0, 4] = nan
    errors = m.aligned_errors(found, truth)
    assert errors[0, 4] == inf
    assert m.mean_error(errors) < 1e-9


def test_procrustes_does_not_mirror() -> None:
    truth = body()
    assert m.mean_error(m.aligned_errors(truth * (-1, 1, 1), truth)) > 0.05


def test_procrustes_of_nothing_is_no_crash() -> None:
    assert np.isnan(m.mean_error(m.aligned_errors(np.full((17, 3), nan), body())))
    one = np.full((17, 3), nan)
    one[3] = 1
    assert m.mean_error(m.aligned_errors(one, body())) == pytest.approx(0)


def test_pck_is_strict_and_auc_is_the_mean_of_41_shares() -> None:
    errors = np.array([0.0, 0.1, 0.15, 0.3, inf, nan])
    assert m.pck(errors) == pytest.approx(2 / 5)
    assert len(m.AUC_THRESHOLDS_M) == 41
    # 0 counts from 0.005 on (40 of 41), 0.1 from 0.105 on (20), 0.15 from 0.155 on (10)
    assert m.auc(np.array([0.0])) == pytest.approx(40 / 41)
    assert m.auc(np.array([0.1001])) == pytest.approx(20 / 41)
    assert m.auc(np.array([0.2, inf])) == 0
    assert np.isnan(m.pck(np.array([nan])))


def points(*corners: tuple[float, float]) -> np.ndarray:
    return np.array([np.add(c, np.stack([np.arange(17), np.arange(17)], 1)) for c in corners])


def test_matching_is_greedy_in_the_order_of_the_annotations() -> None:
    truth = points((100, 100), (130, 100))
    found = points((130, 100), (115, 100), (900, 900))
    # the first takes the first of two full agreements, although the second would suit it better
    assert m.match_boxes(truth, found).tolist() == [0, 1]
    assert m.match_boxes(truth[::-1], found).tolist() == [0, 1]
    assert m.match_boxes(truth, found[2:]).tolist() == [-1, -1]
    assert m.match_boxes(truth, found[:0]).tolist() == [-1, -1]


def test_the_box_test_is_strict_square_and_grows_with_the_width() -> None:
    truth = points((100, 100))
    assert m.match_boxes(truth, points((139.9, 139.9))).tolist() == [0]
    assert m.match_boxes(truth, points((140, 100))).tolist() == [-1]
    assert m.match_boxes(truth, points((125, 100)), width_px=960).tolist() == [-1]
    assert m.match_boxes(truth, points((119, 100)), width_px=960).tolist() == [0]


def test_only_joints_1_to_13_match_and_zero_is_not_there() -> None:
    truth = points((0, 0))
    only_pelvis = np.full((1, 17, 2), nan)
    only_pelvis[0, [0, 14, 15, 16]] = truth[0, [0, 14, 15, 16]]
    assert m.match_boxes(truth, only_pelvis).tolist() == [-1]
    assert m.match_boxes(truth, np.zeros((1, 17, 2))).tolist() == [-1]


def test_bones_get_their_true_length_and_keep_their_direction() -> None:
    truth, found = body(1), body(2)
    mapped = m.with_true_bones(found, truth)
    np.testing.assert_allclose(mapped[14], found[14])
    for joint, parent in enumerate(m.MUPOTS_PARENTS):
        if joint == 14:
            continue
        new, old = mapped[joint] - mapped[parent], found[joint] - found[parent]
        assert np.linalg.norm(new) == pytest.approx(np.linalg.norm(truth[joint] - truth[parent]))
        assert np.dot(new, old) == pytest.approx(np.linalg.norm(new) * np.linalg.norm(old))
    np.testing.assert_allclose(
        m.with_true_bones(1.7 * truth, truth) - 1.7 * truth[14], truth - truth[14]
    )


def test_a_bone_without_length_does_not_divide_by_zero() -> None:
    found = np.zeros((17, 3))
    assert np.isfinite(m.with_true_bones(found, body())).all()


def test_depth_order_counts_pairs_that_stand_apart() -> None:
    assert m.depth_order(np.array([1.0, 5, 3]), np.array([2.0, 2.2, 4])) == (1, 2)
    assert (
        m.root_share(np.array([[0, 0, 1.0], [nan, 0, 0]]), np.array([[0, 0, 1.2], [0, 0, 0]]))
        == 0.5
    )


def test_acceleration_follows_true_time_steps() -> None:
    times = np.array([0, 0.1, 0.15, 0.4, 0.5])
    fall = np.zeros((5, 1, 3))
    fall[:, 0, 1] = 0.5 * 9.81 * times**2
    np.testing.assert_allclose(m.acceleration(fall, times)[:, 0, 1], 9.81)
    assert m.acceleration_error(fall, fall * 0, times) == pytest.approx(9.81)
    even = np.zeros((3, 1, 3))
    even[1] = 1
    assert m.acceleration_error(even, even * 0, np.arange(3) / 30) == pytest.approx(
        2 * np.sqrt(3) * 900
    )
    assert np.isnan(m.acceleration_error(even[:2], even[:2], np.arange(2)))


def test_jitter_and_bone_spread_of_known_motion() -> None:
    still = np.zeros((10, 2, 3))
    still[:, 1, 1] = 1 + 0.01 * (-1.0) ** np.arange(10)
    assert m.jitter(still) == pytest.approx(0.02)  # joint 0: 0, joint 1: 0.04
    assert m.bone_length_spread(still, [-1, 0]) == pytest.approx(0.01)
    moving = still * 0 + np.arange(10)[:, None, None]
    moving[:, 1] += (0, 1, 0)
    assert m.jitter(moving) == pytest.approx(0)
    assert m.bone_length_spread(moving, [-1, 0]) == pytest.approx(0)
    assert np.isnan(m.jitter(still[:2]))


def test_foot_slide_is_horizontal_speed_in_contact() -> None:
    feet = np.zeros((4, 1, 3))
    feet[:, 0, 0] = [0, 0.1, 0.2, 5]
    feet[:, 0, 1] = [0, 1, 0, 1]  # up and down does not count
    contact = np.array([[True], [True], [True], [False]])
    assert m.foot_slide(feet, contact, np.arange(4) * 0.5) == pytest.approx(0.2)
    assert np.isnan(m.foot_slide(feet, ~contact, np.arange(4) * 0.5))
