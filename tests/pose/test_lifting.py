from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.pose import lifting, placement
from manypose.pose.joints import (
    BONE_UNIT_M,
    CARRIED,
    INDEX_2D,
    JOINTS,
    JOINTS_2D,
    PARENT,
    ROOT,
    SHOWN_BY,
)
from manypose.pose.records import Person2D

Float = NDArray[np.floating[Any]]
K, J = len(JOINTS_2D), len(JOINTS)
CAMERA = Camera(
    np.array([[900.0, 0, 640], [0, 910, 350], [0, 0, 1]]), 1280, 720,
    np.array([-0.2, 0.05, 0.001, -0.002, 0.0]),
)  # fmt: skip
PLAIN = lifting.LiftingConfig(pull=False)


def bodies(rng: np.random.Generator, count: int = 3) -> Float:
    """Random joints with a body's size, relative to the root."""
    out = np.zeros((count, J, 3))
    for j in sorted(range(J), key=lambda j: _depth(j)):
        if PARENT[j] >= 0:
            bone = rng.normal(size=(count, 3))
            out[:, j] = out[:, PARENT[j]] + 0.25 * bone / np.linalg.norm(bone, axis=1)[:, None]
    return out


def _depth(j: int) -> int:
    return 0 if PARENT[j] < 0 else 1 + _depth(PARENT[j])


def seen(joints_m: Float, camera: Camera = CAMERA, encoded: bool = False) -> list[Person2D]:
    """People of whom everything but the face is seen."""
    roots = joints_m[:, ROOT : ROOT + 1]
    px, score = np.full((len(joints_m), K, 2), np.nan), np.zeros((len(joints_m), K))
    image = camera.camera_to_image(placement.marked(joints_m - roots) + roots)
    for j, k in enumerate(SHOWN_BY):
        if k >= 0:
            px[:, k], score[:, k] = image[:, j], 0.9
    bones = joints_m - joints_m[:, [max(p, 0) for p in PARENT]]
    code = np.full((len(joints_m), K, 3 * J), np.nan)
    code[score > 0] = np.repeat(bones.reshape(len(bones), 1, -1), K, 1)[score > 0] / BONE_UNIT_M
    return [
        Person2D(p, s, 1.0, c if encoded else None) for p, s, c in zip(px, score, code, strict=True)
    ]


ROOTS = np.array([[0.2, 0.1, 4.0], [2.0, -0.8, 5.0], [-1.5, 0.5, 3.0]])


def oracle(rel: Float, people: list[Person2D], camera: Camera = CAMERA) -> lifting.Lifter:
    """A network that knows the truth and answers in the axes it should."""
    px = np.stack([p.joints_px for p in people])
    rays = camera.image_to_rays(px)[..., :2]
    _, turn = lifting.encode(rays, np.stack([p.confidence for p in people]), None)
    answer = rel @ turn.transpose(0, 2, 1)
    return lambda f: (answer, np.full((len(f), J), 0.02))


@pytest.mark.parametrize("pull", [False, True])
def test_a_perfect_network_gives_the_truth_in_camera_axes(pull: bool) -> None:
    rel = bodies(np.random.default_rng(1))
    people = seen(rel + ROOTS[:, None])
    config = lifting.LiftingConfig(pull=pull)
    for person, truth, root in zip(
        lifting.lift(people, CAMERA, oracle(rel, people), config), rel, ROOTS, strict=True
    ):
        # Shoulders and hips are marked up to 3 cm beside their centres.
        np.testing.assert_allclose(person.joints_rel_m, truth, atol=0.03 if pull else 1e-4)
        np.testing.assert_allclose(person.root_m, root, atol=5e-3)
        assert person.root_sigma_m > 0.1


def test_what_the_network_sees_does_not_depend_on_the_direction() -> None:
    rng = np.random.default_rng(2)
    at = bodies(rng, 1) + np.array([0.1, 0.0, 4.0])
    direction = np.array([[0.4, 0.2, 0.9]]) / np.linalg.norm([0.4, 0.2, 0.9])
    turned = at @ lifting.rotation_to_axis(direction)[0]  # by the inverse: away from the axis
    features = []
    for joints in (at, turned):
        rays = (
            joints[:, [max(j, 0) for j in _shown()], :2]
            / joints[:, [max(j, 0) for j in _shown()], 2:]
        )
        score = np.where(np.array(_shown()) >= 0, 0.8, 0.0)[None]
        features.append(lifting.encode(rays, score, None)[0])
    a, b = (f[:, lifting.JOINT_COLUMNS].reshape(K, 3)[:, :2] for f in features)
    # Up to a turn about the axis, which the smallest rotation leaves open.
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1), atol=1e-4)
    np.testing.assert_allclose(
        features[0][:, lifting.SIZE], features[1][:, lifting.SIZE], atol=1e-5
    )


def _shown() -> list[int]:
    return [SHOWN_BY.index(k) if k in SHOWN_BY else -1 for k in range(K)]


def test_encodings_reach_the_network_in_its_axes_and_their_absence_is_told() -> None:
    rel = bodies(np.random.default_rng(4))
    caught: list[Float] = []

    def spy(features: Float) -> tuple[Float, Float]:
        caught.append(features)
        return np.zeros((len(features), J, 3)), np.ones((len(features), J))

    with_code, without = seen(rel + ROOTS[:, None], encoded=True), seen(rel + ROOTS[:, None])
    lifting.lift([*with_code, *without], CAMERA, spy, PLAIN)
    lifting.lift(with_code, CAMERA, spy, lifting.LiftingConfig(encodings=False))
    features, ignoring = caught
    assert not ignoring[:, lifting.HAS_BONES].any()
    np.testing.assert_array_equal(features[:, lifting.HAS_BONES], [1, 1, 1, 0, 0, 0])
    assert not features[3:, lifting.BONE_COLUMNS].any()
    bones = features[:3, lifting.BONE_COLUMNS].reshape(3, -1, 3) * BONE_UNIT_M
    read = np.linalg.norm(bones, axis=-1)
    there = np.array([k in SHOWN_BY for k, _ in CARRIED])
    np.testing.assert_allclose(read[:, there], 0.25, atol=1e-5)
    assert not read[:, ~there].any()


def test_neck_and_pelvis_are_put_between_their_pairs() -> None:
    rays, score = np.full((1, K, 2), np.nan), np.zeros((1, K))
    for name, x in (("l_shoulder", 0.3), ("r_shoulder", 0.1), ("l_hip", 0.2)):
        rays[0, INDEX_2D[name]], score[0, INDEX_2D[name]] = (x, 0.0), x
    rays, score = lifting.complete(rays, score)
    np.testing.assert_allclose(rays[0, INDEX_2D["neck"]], (0.2, 0.0))
    assert score[0, INDEX_2D["neck"]] == 0.1
    assert score[0, INDEX_2D["pelvis"]] == 0


def test_nobody_gives_nobody() -> None:
    assert lifting.lift([], CAMERA, lambda f: (f, f)) == []


def test_a_person_of_whom_nothing_is_seen_has_no_joints_and_disturbs_nobody() -> None:
    rel = bodies(np.random.default_rng(5), 1)
    people = seen(rel + ROOTS[:1, None])
    nobody = Person2D(np.full((K, 2), np.nan), np.zeros(K), 0.0)
    one, none = lifting.lift(
        [*people, nobody], CAMERA, oracle(np.repeat(rel, 2, 0), [*people, people[0]]), PLAIN
    )
    np.testing.assert_allclose(one.joints_rel_m, rel[0], atol=1e-4)
    assert np.isnan(none.joints_rel_m).all()
    assert np.isnan(none.root_m).all()
    assert np.isinf(none.sigma_m).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_a_network_that_answers_nonsense_gives_no_crash(value: float) -> None:
    people = seen(bodies(np.random.default_rng(6)) + ROOTS[:, None])

    def broken(features: Float) -> tuple[Float, Float]:
        return np.full((len(features), J, 3), value), np.full((len(features), J), value)

    for person in lifting.lift(people, CAMERA, broken):
        assert np.isnan(person.joints_rel_m).all() or np.isfinite(person.joints_rel_m).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_few_joints_make_finite_features(count: int) -> None:
    rng = np.random.default_rng(count)
    rays, score = np.full((20, K, 2), np.nan), np.zeros((20, K))
    for row in range(20):
        some = rng.choice(K, count, replace=False)
        rays[row, some], score[row, some] = rng.normal(size=(count, 2)), rng.uniform(0.1, 1, count)
    features, turn = lifting.encode(rays, score, None)
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 10
    np.testing.assert_allclose(
        turn @ turn.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-9
    )


def test_the_root_is_the_origin() -> None:
    people = seen(bodies(np.random.default_rng(7)) + ROOTS[:, None])
    rng = np.random.default_rng(8)
    answer = rng.normal(size=(3, J, 3))
    for person in lifting.lift(people, CAMERA, lambda f: (answer, np.full((3, J), 0.1))):
        np.testing.assert_allclose(person.joints_rel_m[ROOT], 0, atol=1e-12)


def test_of_weak_encodings_only_the_shape_is_taken() -> None:
    rng = np.random.default_rng(8)
    rel = bodies(rng)
    by_2d, by_bones = bodies(rng, 6), bodies(rng, 3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))

    def lifter(features: Float) -> tuple[Float, Float]:
        joints = np.concatenate([by_2d, 1.4 * by_bones @ turn.T])
        assert not features[:6, lifting.HAS_BONES].any()
        assert features[6:, lifting.HAS_BONES].all()
        return joints, np.full((len(joints), J), 0.1)

    people = [*seen(rel + ROOTS[:, None], encoded=True), *seen(rel + ROOTS[:, None])]
    config = lifting.LiftingConfig(pull=False, shape_only=True)
    lifted = lifting.lift(people, CAMERA, lifter, config)
    plain = lifting.lift(people, CAMERA, lambda f: (by_2d, np.full((6, J), 0.1)),
                         lifting.LiftingConfig(False, False))  # fmt: skip
    for a, b in zip(lifted[3:], plain[3:]):  # of whom no bones are read
        np.testing.assert_allclose(a.joints_rel_m, b.joints_rel_m, atol=1e-9)
    up = [p if p >= 0 else j for j, p in enumerate(PARENT)]
    for n, (a, b) in enumerate(zip(lifted[:3], plain[:3])):
        both = [np.linalg.norm(p.joints_rel_m - p.joints_rel_m[up], axis=1).sum() for p in (a, b)]
        assert both[0] == pytest.approx(both[1])  # the size stays
        # no turn brings the poses nearer to each other: the direction stays
        cross = a.joints_rel_m.T @ b.joints_rel_m
        left, _, right = np.linalg.svd(cross)
        np.testing.assert_allclose(left @ right, np.eye(3), atol=1e-6)
        assert np.abs(a.joints_rel_m - b.joints_rel_m).max() > 0.05, n
    # who reads in the bones what the 2D joints say, stays as they were, however they are turned
    by_bones = by_2d[:3]
    again = lifting.lift(people, CAMERA, lifter, config)
    for a, b in zip(again, plain):
        np.testing.assert_allclose(a.joints_rel_m, b.joints_rel_m, atol=1e-9)


def test_bones_travel_and_come_back() -> None:
    people = seen(bodies(np.random.default_rng(2)) + ROOTS[:, None], encoded=True)
    packed = [lifting.packed_bones(p) for p in people]
    back = [
        Person2D(p.joints_px, p.confidence, p.score, lifting.unpacked_bones(b))
        for p, b in zip(people, packed)
    ]
    a, b = lifting.carried_bones(people), lifting.carried_bones(back)
    assert a is not None
    assert b is not None
    np.testing.assert_allclose(a, b, atol=1e-6)
    nobody = seen(bodies(np.random.default_rng(2)) + ROOTS[:, None])[0]
    assert lifting.unpacked_bones(lifting.packed_bones(nobody)) is None
