import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from manypose.pose import skeleton as sk
from manypose.pose.angles import aimed, joint_angles, rotations_from_joints
from manypose.pose.joints import INDEX, PARENT, ROOT


def poses(n, rng, share=0.5):
    """Random poses within a share of the joint ranges: root, rotations, offsets, lengths."""
    lengths = sk.AVERAGE_LENGTHS_M * rng.uniform(0.9, 1.1, (n, 1))
    change = np.zeros((n, sk.DOF_COUNT))
    change[:, :6] = rng.normal(0, 1, (n, 6))
    change[:, 6:] = rng.uniform(share * sk.DOF_LOW, share * sk.DOF_HIGH, (n, len(sk.DOFS)))
    none = np.zeros((n, 21, 4))
    none[..., 3] = 1
    root, rotations = sk.step(np.zeros((n, 3)), none, change)
    return root, rotations, sk.offsets_m(lengths), lengths


def test_the_jacobian_is_the_derivative():
    root, q, offsets, _ = poses(4, np.random.default_rng(0))
    points, frames = sk.forward(root, q, offsets)
    at = np.concatenate([np.ones((4, 26, 1)), points - root[:, None]], -1)
    forms = np.tensordot(at, sk.FORMS, 1).reshape(4, -1, 6)
    J = np.empty((4, 26, 3, sk.DOF_COUNT))
    sk.jacobian(forms, np.repeat(sk.MOVED, 3, 0), points, frames, J.reshape(4, 78, -1))
    e = 1e-6
    for d in range(sk.DOF_COUNT):
        change = np.zeros((4, sk.DOF_COUNT))
        change[:, d] = e
        up = sk.forward(*sk.step(root, q, change), offsets)[0]
        down = sk.forward(*sk.step(root, q, -change), offsets)[0]
        np.testing.assert_allclose(J[..., d], (up - down) / (2 * e), atol=1e-8)


def test_bone_lengths_are_those_given_whatever_the_pose():
    root, q, offsets, lengths = poses(50, np.random.default_rng(1))
    points, _ = sk.forward(root, q, offsets)
    for j, p in enumerate(PARENT):
        if p >= 0:
            bone = np.linalg.norm(points[:, j] - points[:, p], axis=-1)
            np.testing.assert_allclose(bone, lengths[:, j], atol=1e-9)


def test_the_average_body_is_as_tall_as_it_says():
    assert sk.stature_m(sk.AVERAGE_LENGTHS_M) == pytest.approx(1.70, abs=1e-6)
    assert sk.stature_m(sk.AVERAGE_LENGTHS_M * 1.1) == pytest.approx(1.87, abs=1e-6)


def test_a_person_who_faces_the_camera_has_the_right_hand_on_the_left_of_the_picture():
    q = np.zeros((1, 21, 4))
    q[..., 3] = 1
    q[0, ROOT] = (1, 0, 0, 0)  # half a turn about x: diag(1, -1, -1)
    points, _ = sk.forward(np.array([[0, 0, 3.0]]), q, sk.offsets_m(sk.AVERAGE_LENGTHS_M[None]))
    assert points[0, INDEX["r_wrist"], 0] < -0.5
    assert points[0, INDEX["head_top"], 1] < -0.5 < 0.5 < points[0, INDEX["l_ankle"], 1]
    nose = sk.POINT_NAMES.index("nose")
    assert points[0, nose, 2] < points[0, INDEX["head"], 2]


def test_quaternions_agree_with_scipy():
    rng = np.random.default_rng(2)
    a, b = Rotation.random(30, random_state=1), Rotation.random(30, random_state=2)
    qa, qb = a.as_quat(), b.as_quat()
    np.testing.assert_allclose(sk.quaternion_to_matrix(qa), a.as_matrix(), atol=1e-12)
    product = Rotation.from_quat(sk.quaternion_multiply(qa, qb)).as_matrix()
    np.testing.assert_allclose(product, (a * b).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(sk.log_map(qa), a.as_rotvec(), atol=1e-9)
    v = rng.normal(0, 1, (30, 3))
    np.testing.assert_allclose(
        sk.quaternion_to_matrix(sk.exp_map(v)), Rotation.from_rotvec(v).as_matrix(), atol=1e-12
    )
    back = sk.quaternion_to_matrix(sk.matrix_to_quaternion(a.as_matrix()))
    np.testing.assert_allclose(back, a.as_matrix(), atol=1e-12)


def test_rotations_found_from_joints_rebuild_the_joints():
    root, q, offsets, _ = poses(100, np.random.default_rng(3), 0.35)
    points, _ = sk.forward(root, q, offsets)
    again, _ = sk.forward(root, rotations_from_joints(points[:, :21]), offsets)
    error = np.linalg.norm(again - points, axis=-1)[:, :21]
    assert error.mean() < 0.004
    assert error.max() < 0.06


@pytest.mark.parametrize(
    ("joint", "axis", "degrees", "name"),
    [
        ("l_knee", (1, 0, 0), 40, "l_knee_flexion"),
        ("r_knee", (1, 0, 0), 40, "r_knee_flexion"),
        ("l_elbow", (0, -1, 0), 70, "l_elbow_flexion"),
        ("r_elbow", (0, 1, 0), 70, "r_elbow_flexion"),
        ("l_hip", (-1, 0, 0), 60, "l_hip_flexion"),
        ("l_hip", (0, 0, 1), 30, "l_hip_abduction"),
        ("r_hip", (0, 0, -1), 30, "r_hip_abduction"),
        ("l_hip", (0, 1, 0), 20, "l_hip_rotation"),
        ("r_hip", (0, -1, 0), 20, "r_hip_rotation"),
        ("r_ankle", (-1, 0, 0), 15, "r_ankle_dorsiflexion"),
        ("spine", (1, 0, 0), 25, "spine_flexion"),
        ("neck", (0, 1, 0), 35, "neck_rotation"),
    ],
)
def test_named_angles_are_positive_in_the_named_direction(joint, axis, degrees, name):
    q = np.zeros((1, 21, 4))
    q[..., 3] = 1
    q[0, INDEX[joint]] = sk.exp_map(np.radians(degrees) * np.array(axis, float))
    angles = joint_angles(q)
    assert np.degrees(angles[name][0]) == pytest.approx(degrees, abs=1e-6)
    zero = {k for k in angles if "shoulder" not in k} - {name}
    assert max(abs(float(angles[k][0])) for k in zero) < 1e-6


def test_bodies_are_turned_towards_joints_of_another_pose():
    rng = np.random.default_rng(3)
    root, q, offsets, lengths = poses(40, rng)
    change = np.zeros((40, sk.DOF_COUNT))
    change[:, 3:] = rng.normal(0, 0.1, (40, sk.DOF_COUNT - 3))
    wish = sk.forward(*sk.step(root, q, change), offsets)[0][:, :21]
    start = np.linalg.norm(sk.forward(root, q, offsets)[0][:, :21] - wish, axis=-1).mean()
    turned, places = aimed(q, offsets, wish)
    hinges = [(INDEX[s + n], axis) for s in "lr" for n, axis in (("_elbow", 1), ("_knee", 0))]
    assert np.linalg.norm(places - wish, axis=-1).mean() < 0.15 * start
    again = sk.forward(root, turned, offsets)[0][:, :21]
    np.testing.assert_allclose(again, places, atol=1e-9)
    up = [p if p >= 0 else ROOT for p in PARENT]
    bones = np.linalg.norm(places - places[:, up], axis=-1)
    np.testing.assert_allclose(np.delete(bones, ROOT, 1), np.delete(lengths, ROOT, 1), atol=1e-9)
    for joint, axis in hinges:
        others = np.delete(turned[:, joint, :3], axis, 1)
        np.testing.assert_allclose(others, 0, atol=1e-6)
    knees = joint_angles(turned)
    assert min(knees["l_knee_flexion"].min(), knees["r_knee_flexion"].min()) > np.radians(-5.1)
    wish[:, INDEX["l_wrist"]] = np.nan  # no wish: the elbow keeps its own turn
    turned, places = aimed(q, offsets, wish)
    assert np.isfinite(turned).all()
    assert np.isfinite(places).all()
    np.testing.assert_allclose(turned[:, INDEX["l_elbow"]], q[:, INDEX["l_elbow"]], atol=1e-9)


def test_shoulder_angles_of_a_t_pose_and_of_hanging_arms():
    q = np.zeros((2, 21, 4))
    q[..., 3] = 1
    q[1, INDEX["l_shoulder"]] = sk.exp_map(np.array([0, 0, -np.pi / 2]))
    q[1, INDEX["r_shoulder"]] = sk.exp_map(np.array([0, 0, np.pi / 2]))
    a = {k: np.degrees(v) for k, v in joint_angles(q).items()}
    for side in "lr":
        np.testing.assert_allclose(a[f"{side}_shoulder_elevation"], [90, 0], atol=1e-5)
        np.testing.assert_allclose(a[f"{side}_shoulder_rotation"], 0, atol=1e-5)
        assert a[f"{side}_shoulder_abduction"][0] == pytest.approx(90)


def test_elbows_and_knees_bend_the_way_bodies_do():
    q = np.zeros((1, 21, 4))
    q[..., 3] = 1
    for side, s in (("l", -1.0), ("r", 1.0)):
        q[0, INDEX[f"{side}_elbow"]] = sk.exp_map(np.array([0, s * 1.2, 0]))
        q[0, INDEX[f"{side}_knee"]] = sk.exp_map(np.array([1.2, 0, 0]))
    p, _ = sk.forward(np.zeros((1, 3)), q, sk.offsets_m(sk.AVERAGE_LENGTHS_M[None]))
    for side in "lr":
        assert p[0, INDEX[f"{side}_wrist"], 2] > p[0, INDEX[f"{side}_elbow"], 2] + 0.2  # forward
        assert p[0, INDEX[f"{side}_ankle"], 2] < p[0, INDEX[f"{side}_knee"], 2] - 0.3  # backward
