import numpy as np
import pytest

from manypose.pose import placement
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS, JOINTS_2D, MIRROR, ROOT, SHOWN_BY

# Somebody with bent limbs, metres relative to the pelvis, x right, y down, z forward.
_HALF = {
    "r_shoulder": (-0.18, -0.48, 0.0), "r_elbow": (-0.30, -0.25, -0.08),
    "r_wrist": (-0.22, -0.10, -0.28), "r_hand": (-0.20, -0.06, -0.36),
    "r_hip": (-0.09, 0.0, 0.0), "r_knee": (-0.14, 0.40, -0.10), "r_ankle": (-0.10, 0.80, 0.05),
    "r_foot": (-0.12, 0.86, -0.12),
}  # fmt: skip
_MIDDLE = {
    "head_top": (0.0, -0.82, -0.05), "head": (0.0, -0.68, -0.04), "neck": (0.0, -0.54, 0.0),
    "spine": (0.0, -0.27, 0.02), "pelvis": (0.0, 0.0, 0.0),
}  # fmt: skip


def somebody() -> np.ndarray:
    out = np.zeros((len(JOINTS), 3))
    for name, at in {**_HALF, **_MIDDLE}.items():
        out[INDEX[name]] = at
        out[MIRROR[INDEX[name]]] = np.array(at) * [-1, 1, 1]
    out[INDEX["l_elbow"]] += [0.02, -0.1, 0.15]
    return out


def nothing_seen(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((count, K, 2), np.nan), np.full((count, K), np.inf)


def rays_of(rel_m: np.ndarray, roots_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The marks of all joints that a 2D joint shows; the face is not seen."""
    marks = placement.marked(rel_m) + roots_m[:, None]
    rays, error = nothing_seen(len(rel_m))
    for j, k in enumerate(SHOWN_BY):
        if k >= 0:
            rays[:, k], error[:, k] = marks[:, j, :2] / marks[:, j, 2:], 0.002
    return rays, error


ROOTS = np.array([[0, 0, 3], [1.5, -0.4, 2.5], [-4, 1, 9], [0.1, 0.6, 1.2], [3, 0, 25.0]])
SIGMA = np.full((len(ROOTS), len(JOINTS)), 0.03)
K = len(JOINTS_2D)


def test_perfect_people_stand_within_a_millimetre() -> None:
    body = np.repeat(somebody()[None], len(ROOTS), 0)
    root, _ = placement.place(body, SIGMA, *rays_of(body, ROOTS))
    # Far away the prior on depth weighs a little.
    assert np.linalg.norm(root - ROOTS, axis=1)[:4].max() < 1e-3
    assert np.linalg.norm(root - ROOTS, axis=1)[4] < 0.01


def test_people_cut_by_the_edge_stand_where_they_are() -> None:
    body = np.repeat(somebody()[None], len(ROOTS), 0)
    rays, wide = rays_of(body, ROOTS)
    legs = [INDEX_2D[f"{s}_{n}"] for s in "lr" for n in ("hip", "knee", "ankle")]
    rays[:, [*legs, INDEX_2D["pelvis"]]], wide[:, [*legs, INDEX_2D["pelvis"]]] = np.nan, np.inf
    root, error = placement.place(body, SIGMA, rays, wide)
    assert np.linalg.norm(root - ROOTS, axis=1)[:4].max() < 1e-3
    full = placement.place(body, SIGMA, *rays_of(body, ROOTS))[1]
    assert (error > full).all()


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_a_body_a_tenth_too_large_stands_a_tenth_too_far(scale: float) -> None:
    body = np.repeat(somebody()[None], len(ROOTS), 0)
    rays, wide = rays_of(body, ROOTS)
    root, error = placement.place(body * scale, SIGMA, rays, wide)
    np.testing.assert_allclose(root[:4], ROOTS[:4] * scale, rtol=2e-3, atol=2e-3)
    assert (error[:4] > placement.SIZE_SPREAD * np.linalg.norm(root[:4], axis=1)).all()


def test_a_single_joint_gives_a_finite_place_on_its_ray() -> None:
    body = somebody()[None]
    rays, wide = nothing_seen(1)
    wrist = INDEX_2D["r_wrist"]
    rays[0, wrist], wide[0, wrist] = (0.2, -0.1), 0.005
    root, error = placement.place(body, SIGMA[:1], rays, wide)
    at = (body + root[:, None])[0, INDEX["r_wrist"]]
    np.testing.assert_allclose(at[:2] / at[2], (0.2, -0.1), atol=0.01)
    assert 0.15 < at[2] < 20
    assert error[0] > 1


def test_a_head_alone_gives_a_place() -> None:
    body = somebody()[None]
    rays, wide = nothing_seen(1)
    for name, x in (("nose", 0.0), ("l_ear", 0.02), ("r_ear", -0.02)):
        rays[0, INDEX_2D[name]], wide[0, INDEX_2D[name]] = (x, 0.0), 0.002
    root, _ = placement.place(body, SIGMA[:1], rays, wide)
    at = (body + root[:, None])[0, INDEX["head"]]
    assert np.isfinite(root).all()
    assert abs(at[:2] / at[2]).max() < 0.02


def test_nobody_seen_is_no_crash() -> None:
    rays, wide = nothing_seen(2)
    root, error = placement.place(np.zeros((2, len(JOINTS), 3)), SIGMA[:2], rays, wide)
    assert np.isfinite(root).all()
    assert np.isfinite(error).all()


def test_one_wrong_joint_hardly_moves_a_person() -> None:
    body = np.repeat(somebody()[None], len(ROOTS), 0)
    rays, wide = rays_of(body, ROOTS)
    rays[:, INDEX_2D["l_ankle"]] += 0.5 / ROOTS[:, 2:]
    root, _ = placement.place(body, SIGMA, rays, wide)
    assert (np.linalg.norm(root - ROOTS, axis=1) / ROOTS[:, 2])[:4].max() < 0.03


def test_noise_of_the_size_expected_gives_errors_of_the_size_stated() -> None:
    rng = np.random.default_rng(3)
    body = np.repeat(somebody()[None], 400, 0)
    roots = np.array([0.3, 0.1, 4.0]) * np.ones((400, 1))
    rays, wide = rays_of(body, roots)
    off = body + rng.normal(size=body.shape) * 0.04 / np.sqrt(3)
    off[:, ROOT] = 0
    rays += rng.normal(size=rays.shape) * 0.003
    sigma, wide = np.full(body.shape[:2], 0.04), np.where(np.isfinite(wide), 0.003, wide)
    root, stated = placement.place(off, sigma, rays, wide)
    z = root[:, 2] - 4.0
    without_size = np.sqrt(stated**2 - (placement.SIZE_SPREAD * np.linalg.norm(root, axis=1)) ** 2)
    assert 0.6 < z.std() / without_size.mean() < 1.6


def test_pulled_joints_lie_on_their_rays_and_keep_their_depth() -> None:
    body = np.repeat(somebody()[None], len(ROOTS), 0)
    rays, wide = rays_of(body, ROOTS)
    wrong = body + np.random.default_rng(0).normal(size=body.shape) * 0.1
    wrong[:, ROOT] = 0
    pulled = placement.pull(wrong, SIGMA, ROOTS, rays, wide * 1e-3) + ROOTS[:, None]
    for j, k in enumerate(SHOWN_BY):
        if k >= 0 and j not in (ROOT, INDEX["neck"]):  # the 2D neck is another point
            np.testing.assert_allclose(pulled[:, j, :2] / pulled[:, j, 2:], rays[:, k], atol=1e-4)
    np.testing.assert_allclose(pulled[..., 2], (wrong + ROOTS[:, None])[..., 2])
    unsure = placement.pull(wrong, SIGMA, ROOTS, rays, wide * 1e4)
    np.testing.assert_allclose(unsure, wrong, atol=1e-3)
