import numpy as np
import pytest

from manypose.pose import skeleton as sk
from manypose.pose.contact import Feet
from manypose.pose.joints import INDEX

ROWS = np.array([1, 0])
OFFSETS = sk.offsets_m(np.tile(sk.AVERAGE_LENGTHS_M, (2, 1)))
ANKLES = [INDEX["l_ankle"], INDEX["r_ankle"]]
FEET = [*ANKLES, INDEX["l_foot"], INDEX["r_foot"]]


def standing(frames, shake_rad=0.0, seed=0):
    """Roots (F, 2, 3) and rotations (F, 2, J, 4) of two people who stand, with trembling legs."""
    rng = np.random.default_rng(seed)
    vector = np.zeros((frames, 2, len(sk.REST_M), 3))
    vector[:, :, INDEX["pelvis"], 0] = np.pi
    for side in ("l_", "r_"):
        vector[:, :, INDEX[side + "knee"], 0] = 0.2 + shake_rad * rng.normal(size=(frames, 2))
        vector[:, :, INDEX[side + "hip"]] += shake_rad * rng.normal(size=(frames, 2, 3))
    root = np.tile([[-0.8, 0.1, 4.0], [0.8, 0.1, 5.0]], (frames, 1, 1))
    return root, sk.exp_map(vector)


def planted(root, rotations, times=None):
    """Joints (F, 2, J, 3) before and after."""
    feet, out = Feet(2), []
    for n in range(len(root)):
        t = n / 30 if times is None else times[n]
        q, points = feet.plant(ROWS, root[n], rotations[n], OFFSETS, t)
        before, after = (sk.forward(root[n], r, OFFSETS)[0] for r in (rotations[n], q))
        np.testing.assert_allclose(points, after)
        out.append([before[:, :21], after[:, :21]])
    return np.array(out).swapaxes(0, 1)


def test_feet_that_stand_stop_trembling_and_the_rest_stays():
    before, after = planted(*standing(90, 0.01))
    shake = [
        np.abs(np.diff(x[40:], axis=0)).mean() for x in (before[:, :, FEET], after[:, :, FEET])
    ]
    assert shake[1] < 0.35 * shake[0]
    above = [j for j in range(21) if j not in FEET and "knee" not in sk.POINT_NAMES[j]]
    np.testing.assert_allclose(after[:, :, above], before[:, :, above], atol=1e-9)


def test_a_foot_that_walks_away_is_let_go():
    root, q = standing(60)
    root[30:, :, 0] += np.minimum(np.arange(30) / 30 * 1.5, 0.8)[:, None]
    before, after = planted(root, q)
    late = np.linalg.norm(after - before, axis=-1)[-1]
    assert late.max() < 0.005
    # held for a moment, never longer than the distance at which it is let go
    assert np.linalg.norm(after - before, axis=-1).max() < 0.08


def test_a_raised_foot_is_not_held():
    root, q = standing(60, 0.01)
    bent = np.zeros((60, 2, 3))
    bent[..., 0] = 1.6
    q[:, :, INDEX["l_knee"]] = sk.exp_map(bent)
    before, after = planted(root, q)
    moved = np.linalg.norm(after - before, axis=-1)
    assert moved[40:, :, INDEX["l_ankle"]].max() < 1e-9
    assert moved[40:, :, INDEX["r_ankle"]].max() > 1e-4


@pytest.mark.parametrize("times", [np.zeros(40), -np.arange(40) / 30, np.arange(40) * 0.5])
def test_odd_times_hold_nothing_and_break_nothing(times):
    root, q = standing(40, 0.01)
    before, after = planted(root, q, times)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_rows_are_independent_and_forgotten():
    root, q = standing(40, 0.01)
    feet = Feet(2)
    for n in range(39):
        feet.plant(ROWS, root[n], q[n], OFFSETS, n / 30)
    feet.clear(np.array([1]))  # the first person's row
    out, _ = feet.plant(ROWS, root[39], q[39], OFFSETS, 39 / 30)
    np.testing.assert_allclose(out[0], q[39, 0])
    assert np.abs(out[1] - q[39, 1]).max() > 1e-5
