import numpy as np
import torch

from manypose.models.train import targets
from manypose.pose.joints import JOINTS, JOINTS_2D
from manypose.pose.targets import draw

K, J = len(JOINTS_2D), len(JOINTS)
H, W = 128, 192


def _people(rng, count):
    """People of any place and size, some joints unlabelled, some outside the picture."""
    middle = rng.uniform(0, [W, H], (count, 1, 2))
    size = rng.uniform(10, 120, (count, 1, 1))
    joints = np.empty((count, K, 3), np.float32)
    joints[..., :2] = middle + rng.normal(0, 0.4, (count, K, 2)) * size
    joints[..., 2] = rng.choice([0, 1, 2], (count, K), p=[0.2, 0.2, 0.6])
    bones = rng.normal(0, 0.2, (count, J, 3)).astype(np.float32)
    bones[rng.random((count, J)) < 0.2] = np.nan
    return joints, bones


def _as_batch(pictures):
    joints = torch.from_numpy(np.concatenate([j for j, _ in pictures]))
    bones = torch.from_numpy(np.concatenate([b for _, b in pictures]))
    number = torch.tensor([n for n, (j, _) in enumerate(pictures) for _ in j], dtype=torch.long)
    px = joints[..., :2]
    inside = ((px >= -0.5) & (px < torch.tensor([W - 0.5, H - 0.5]))).all(-1)
    weight = torch.ones(len(joints), J)
    return targets.People(
        number, torch.zeros_like(number), px, joints[..., 2], inside, bones, weight
    )


def _draw(people, count, known=1.0):
    h, w = H // 8, W // 8
    region = torch.zeros(count, h, w, dtype=torch.long)
    limbs = 23
    return targets.draw(
        people, region, torch.full((count, K, h, w), known), torch.full((count, limbs, h, w), known)
    )


def test_the_batch_equals_the_plain_definition():
    rng = np.random.default_rng(3)
    pictures = [_people(rng, n) for n in (1, 3, 7, 0, 12)]
    found = _draw(_as_batch(pictures), len(pictures))
    for n, (joints, bones) in enumerate(pictures):
        heat, pafs, encodings = draw(joints, H, W, bones)
        np.testing.assert_allclose(found.heatmaps[n], heat, atol=1e-5)
        # a cell on the very edge of a limb may fall on either side in single precision
        assert (np.abs(found.pafs[n].numpy() - pafs) > 1e-4).mean() < 2e-4
        np.testing.assert_allclose(found.encodings[n], encodings, atol=1e-6)
        answered = np.abs(encodings).reshape(J, 3, H // 8, W // 8).sum(1) > 0
        np.testing.assert_array_equal(found.encoding_weight[n] > 0, answered)


def test_positives_count_where_nothing_else_is_known_and_hidden_joints_half():
    joints = np.zeros((1, K, 3), np.float32)
    joints[0, 5], joints[0, 7] = (60, 60, 2), (60, 100, 1)
    found = _draw(_as_batch([(joints, np.full((1, J, 3), np.nan, np.float32))]), 1, known=0.0)
    weight = found.heatmap_weight[0]
    assert weight[5, 7, 7] == 1
    assert weight[7, 12, 7] < 0.6
    assert weight[5, 0, 0] == 0
    assert weight[0].max() == 0
    limb = found.on_limb[0].any(-1).any(-1)
    assert limb.sum() == 1
    assert found.paf_weight[0].sum() == found.on_limb[0].sum()


def test_people_of_nothing_leave_nothing():
    empty = (np.zeros((0, K, 3), np.float32), np.zeros((0, J, 3), np.float32))
    found = _draw(_as_batch([empty]), 1)
    assert found.heatmaps.abs().sum() == 0
    assert found.pafs.abs().sum() == 0
    assert found.encoding_weight.sum() == 0


def test_bones_are_joint_minus_parent():
    joints = torch.randn(2, J, 3)
    bones = targets.bones(joints)
    elbow, shoulder = JOINTS.index("l_elbow"), JOINTS.index("l_shoulder")
    assert torch.equal(bones[:, elbow], joints[:, elbow] - joints[:, shoulder])
    assert bones[:, JOINTS.index("pelvis")].abs().max() == 0
