import numpy as np
import pytest

from manypose.pose import skeleton as sk
from manypose.pose.body import Bodies
from manypose.pose.fitting import Evidence, Fitter
from manypose.pose.joints import INDEX, JOINTS_2D, PARENT
from tests.pose import simulated as sim

ROWS = np.arange(2)


def evidence(points, cam, rng=None, sigma=0.02, hidden=()):
    """Evidence from true points (N, 26, 3), with errors of this size when rng is given."""
    joints = points[:, :21] - points[:, 14:15]
    if rng is not None:
        joints = joints + rng.normal(0, sigma, joints.shape)
    px = cam.camera_to_image(sk.marks(points))
    rays = cam.image_to_rays(px)[..., :2]
    rays[:, list(hidden)] = np.nan
    n = len(points)
    return Evidence(
        joints, np.full((n, 21), sigma * 1.7), points[:, 14], np.full(n, 0.2), rays,
        np.where(np.isnan(rays[..., 0]), 0, 0.9), 1 / 512,
    )  # fmt: skip


def people(frames, yaw=0.7, speed=1.2):
    t = np.arange(frames) / 30
    a = sim.to_camera(sim.turned(sim.walker(t, speed), yaw) + np.array([0.8, 0, -4]))
    b = sim.to_camera(sim.turned(sim.walker(t, speed, 2.0), 2.5) + np.array([-0.8, 0, -5]))
    return np.stack([a, b], 1)


def fitted(points, **kw):
    cam, fitter, out = sim.camera(), Fitter(2, Bodies(2)), []
    for f in range(len(points)):
        root, q = fitter.fit(ROWS, evidence(points[f], cam, **kw), f / 30)
        offsets = sk.offsets_m(fitter.bodies.lengths_m[ROWS])
        out.append(sk.forward(root, q, offsets)[0][:, :21])
    return np.array(out), fitter


def mpjpe(found, points):
    rel = found - found[:, :, 14:15] - (points[:, :, :21] - points[:, :, 14:15])
    return np.linalg.norm(rel, axis=-1)


def test_exact_evidence_is_met():
    points = people(15)
    found, _ = fitted(points)
    assert mpjpe(found, points)[5:].mean() < 0.006
    assert np.linalg.norm(found[5:, :, 14] - points[5:, :, 14], axis=-1).mean() < 0.03


def test_an_arm_turned_the_wrong_way_is_back_in_the_next_frame():
    points = people(6)
    _, fitter = fitted(points[:5])
    fitter._rotations[0, INDEX["r_shoulder"]] = (0, 0, 0, 1)  # out to the side, not hanging
    root, q = fitter.fit(ROWS, evidence(points[5], sim.camera()), 5 / 30)
    found = sk.forward(root, q, sk.offsets_m(fitter.bodies.lengths_m[ROWS]))[0][:, :21]
    assert mpjpe(found[None], points[5:])[0, 0, [INDEX["r_elbow"], INDEX["r_wrist"]]].max() < 0.05


def test_a_2d_joint_of_low_confidence_moves_the_pose_less():
    points, cam, ankle = people(1), sim.camera(), JOINTS_2D.index("r_ankle")
    off = {}
    for confidence in (0.9, 0.5):
        seen = evidence(points[0], cam)
        seen.rays[0, ankle] += 0.08 / 4  # the person stands 4 m away
        seen.confidence[0, ankle] = confidence
        fitter = Fitter(2, Bodies(2))
        root, q = fitter.fit(ROWS, seen, 0.0)
        found = sk.forward(root, q, sk.offsets_m(fitter.bodies.lengths_m[ROWS]))[0][:, :21]
        off[confidence] = mpjpe(found[None], points)[0, 0, INDEX["r_ankle"]]
    assert off[0.5] < 0.6 * off[0.9]


def test_noise_becomes_less_and_bones_keep_their_length():
    points = people(80)
    rng = np.random.default_rng(0)
    found, fitter = fitted(points, rng=rng, sigma=0.04)
    raw = 0.04 * np.sqrt(8 / np.pi)
    assert mpjpe(found, points)[20:].mean() < 0.6 * raw
    assert fitter.bodies.locked.all()
    up = [p if p >= 0 else j for j, p in enumerate(PARENT)]
    bones = np.linalg.norm(found - found[:, :, up], axis=-1)[60:]
    spread = bones.std(0)[:, np.array(PARENT) >= 0] / bones.mean(0)[:, np.array(PARENT) >= 0]
    assert spread.max() < 1e-6


def test_proportions_are_learnt_and_symmetric():
    long_legs = sk.AVERAGE_LENGTHS_M.copy()
    for name in ("l_knee", "r_knee", "l_ankle", "r_ankle"):
        long_legs[INDEX[name]] *= 1.06
    long_legs *= 1.70 / sk.stature_m(long_legs)
    t = np.arange(70) / 30
    p = sim.to_camera(sim.walker(t, 1.2, lengths=long_legs) + np.array([0, 0, -4]))[:, None]
    bodies = Bodies(1)
    rng = np.random.default_rng(0)
    for f in range(70):
        rel = p[f, :, :21] - p[f, :, 14:15] + rng.normal(0, 0.02, (1, 21, 3))
        bodies.observe(np.array([0]), rel, np.full((1, 21), 0.034))
    got = bodies.lengths_m[0]
    knee = INDEX["l_knee"]
    before = abs(sk.AVERAGE_LENGTHS_M[knee] / long_legs[knee] - 1)
    assert abs(got[knee] / long_legs[knee] - 1) < 0.5 * before
    assert got[knee] == got[INDEX["r_knee"]]
    assert sk.stature_m(got) == pytest.approx(1.70)


def test_limits_hold_a_knee_that_the_evidence_bends_forward():
    points = people(10, speed=0.0)
    cam = sim.camera()
    knee = INDEX["l_knee"]
    forward = points[:, :, INDEX["l_foot"]] - points[:, :, INDEX["l_ankle"]]
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    bent = points.copy()
    bent[:, :, knee] -= 0.15 * forward  # backward: shin and thigh meet the wrong way
    fitter = Fitter(2, Bodies(2))
    for f in range(10):
        _, q = fitter.fit(ROWS, evidence(bent[f], cam), f / 30)
    flexion = sk.log_map(q)[:, knee, 0]
    assert flexion.min() > np.radians(-20)


def test_joints_nobody_sees_stay_human():
    points = people(30)
    cam = sim.camera()
    fitter = Fitter(2, Bodies(2))
    legs = [k for k, p in enumerate(sk.POINT_OF_2D) if "ankle" in sk.POINT_NAMES[p]]
    for f in range(30):
        e = evidence(points[f], cam, hidden=legs)
        e.sigma_m[:, [INDEX["l_ankle"], INDEX["l_foot"]]] = 5.0  # Stage II has no idea either
        _, q = fitter.fit(ROWS, e, f / 30)
    c = sk.coordinates(q)
    assert (c > sk.DOF_LOW - 0.1).all()
    assert (c < sk.DOF_HIGH + 0.1).all()


def test_a_pose_that_changes_at_once_is_found_again():
    points = people(20)
    points[10:] = sim.to_camera(
        sim.turned(sim.walker(np.arange(10) / 30), -2.4) + np.array([0.5, 0, -4.5])
    )[:, None]
    found, _ = fitted(points)
    assert mpjpe(found, points)[16:].mean() < 0.02


def test_order_and_company_do_not_matter():
    points = people(12)
    cam = sim.camera()
    both, alone = Fitter(2, Bodies(2)), Fitter(2, Bodies(2))
    for f in range(12):
        root, q = both.fit(ROWS[::-1], evidence(points[f][::-1], cam), f / 30)
        single, q1 = alone.fit(ROWS[:1], evidence(points[f][:1], cam), f / 30)
    np.testing.assert_allclose(root[1], single[0], atol=1e-6)
    np.testing.assert_allclose(q[1], q1[0], atol=1e-6)
