import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.errors import WeightsError
from manypose.models import weights
from manypose.models.lifter_runtime import load_lifter
from manypose.pose import lifting
from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS, JOINTS_2D, MIRROR, MIRROR_2D, PARENT, ROOT
from manypose.pose.lifting import Lifter
from manypose.pose.records import Detections, Frame, Person2D, Person3D

K, J = len(JOINTS_2D), len(JOINTS)


@pytest.fixture(scope="module")
def shipped() -> Lifter:
    if not (weights.SHIPPED / "lifter.npz").exists():
        pytest.skip("the lifting weights are not here")
    return load_lifter()


def standing(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays and scores of people who stand before the camera, each a little different."""
    middle = {"nose": (0, -0.62), "neck": (0, -0.48), "head_top": (0, -0.8), "pelvis": (0, 0)}
    left = {
        "eye": (0.03, -0.65), "ear": (0.07, -0.64), "shoulder": (0.17, -0.48),
        "elbow": (0.24, -0.2), "wrist": (0.26, 0.05), "hip": (0.1, 0), "knee": (0.12, 0.42),
        "ankle": (0.12, 0.84),
    }  # fmt: skip
    at = np.zeros((K, 2))
    for name, xy in middle.items():
        at[INDEX_2D[name]] = xy
    for name, (x, y) in left.items():
        at[INDEX_2D[f"l_{name}"]], at[INDEX_2D[f"r_{name}"]] = (x, y), (-x, y)
    rays = (at + rng.normal(size=(count, K, 2)) * 0.01) / 4 + rng.normal(size=(count, 1, 2)) * 0.2
    return rays, rng.uniform(0.5, 1, (count, K))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "parts"])
def test_numpy_answers_as_torch_does(form: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from manypose.models.lifter import FORMS
    from manypose.models.lifter_runtime import write_lifter

    torch.manual_seed(0)
    net = FORMS[form](width=96, blocks=2).half().float().eval()  # weights that half precision holds
    write_lifter(tmp_path / "lifter.npz", net)
    features = np.random.default_rng(1).normal(size=(7, lifting.FEATURE_COUNT)).astype(np.float32)
    joints, sigma = load_lifter(tmp_path / "lifter.npz")(features)
    with torch.no_grad():
        want = net(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(joints, want[..., :3], atol=1e-5)
    np.testing.assert_allclose(np.log(sigma), np.clip(want[..., 3], -5.3, 0.5), atol=1e-5)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        load_lifter(tmp_path / "lifter.npz")


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 torn"])
def test_a_damaged_file_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lifter.npz").write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load_lifter(tmp_path / "lifter.npz")


@pytest.mark.parametrize("form", ["full", "parts", "other"])
def test_weights_of_another_network_are_refused(tmp_path: Path, form: str) -> None:
    np.savez(tmp_path / "lifter.npz", form=np.array(form), weight=np.zeros((3, 3)))
    with pytest.raises(WeightsError, match="not the weights"):
        load_lifter(tmp_path / "lifter.npz")


def test_a_file_other_than_the_manifest_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lifter.npz").write_bytes(b"changed")
    row = weights.Weights("lifter", tmp_path / "lifter.npz", "stage2", sha256="0" * 64)
    weights.write_manifest(tmp_path, [row])
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_lifter()


def lifted(lifter: Lifter, rays: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, _ = lifting.encode(*lifting.complete(rays, score), None)
    return lifter(features)


def test_a_standing_person_stands(shipped: Lifter) -> None:
    joints, sigma = lifted(shipped, *standing(np.random.default_rng(0), 20))
    joints = joints - joints[:, 14:15]
    assert (joints[:, INDEX["head_top"], 1] < -0.5).all()
    assert (joints[:, [INDEX["l_ankle"], INDEX["r_ankle"]], 1] > 0.5).all()
    # Face points are seen: the person looks at the camera, own left at the right of the picture.
    assert (joints[:, INDEX["l_shoulder"], 0] > joints[:, INDEX["r_shoulder"], 0]).all()
    bone = np.linalg.norm(joints[:, INDEX["l_knee"]] - joints[:, INDEX["l_ankle"]], axis=1)
    assert (bone > 0.3).all()
    assert (bone < 0.5).all()
    assert (sigma < 0.3).all()


def test_who_is_told_where_up_is_stands_upright(shipped: Lifter) -> None:
    """A camera that looks down, and 2D joints too coarse to see that by them alone."""
    rng = np.random.default_rng(5)
    rays, score = standing(rng, 60)
    rays = rays + rng.normal(0, 0.02, rays.shape)
    for pitch in (0.0, 0.5):
        up = np.array([0, -np.cos(pitch), -np.sin(pitch)])
        features, turn = lifting.encode(*lifting.complete(rays, score), None, up)
        joints = (shipped(features)[0]) @ turn
        trunk = (joints[:, INDEX["neck"]] - joints[:, INDEX["pelvis"]]).mean(0)
        lean = np.arctan2(-trunk[2], -trunk[1])
        assert abs(lean - pitch) < 0.15
    camera = Camera.from_fov(640, 400)
    assert camera.up is None
    up = np.array([0, -np.cos(0.3), -np.sin(0.3)])
    R = np.stack([[1.0, 0, 0], up, np.cross([1.0, 0, 0], up)], 1)
    np.testing.assert_allclose(dataclasses.replace(camera, R=R, t=np.ones(3)).up, up)
    # a world with z up is no such world, and says nothing here
    assert dataclasses.replace(camera, R=R[:, [0, 2, 1]] * [1, 1, -1]).up is None


def test_any_subset_of_seen_joints_is_completed(shipped: Lifter) -> None:
    rng = np.random.default_rng(2)
    rays, score = standing(rng, 300)
    hidden = rng.random((300, K)) < rng.random((300, 1))
    hidden[hidden.all(1), 0] = False
    rays, score = np.where(hidden[..., None], np.nan, rays), np.where(hidden, 0.0, score)
    joints, sigma = lifted(shipped, rays, score)
    assert np.isfinite(joints).all()
    assert np.isfinite(sigma).all()
    bones = np.linalg.norm(joints - joints[:, [max(p, 0) for p in PARENT]], axis=-1)
    assert bones.max() < 1.1
    few, many = hidden.sum(1) > 14, hidden.sum(1) < 4
    assert sigma[few].mean() > 1.5 * sigma[many].mean()


def test_mirrored_people_get_nearly_mirrored_answers(shipped: Lifter) -> None:
    rays, score = standing(np.random.default_rng(3), 10)
    joints, _ = shipped(lifting.encode(rays, score, None)[0])
    mirrored = rays[:, MIRROR_2D] * [-1, 1], score[:, MIRROR_2D]
    other, _ = shipped(lifting.encode(*mirrored, None)[0])
    assert np.abs(other[:, MIRROR] * [-1, 1, 1] - joints).mean() < 0.06


def test_wild_features_give_finite_answers(shipped: Lifter) -> None:
    features = np.random.default_rng(4).normal(size=(200, lifting.FEATURE_COUNT)) * 5
    joints, sigma = shipped(features.astype(np.float32))
    assert np.isfinite(joints).all()
    assert np.isfinite(sigma).all()


@pytest.mark.slow
def test_bodies_are_linear_in_the_rotations_of_their_bones(shared: Path) -> None:
    torch = pytest.importorskip("torch")
    from manypose.models.train import mocap
    from manypose.models.train.synth import archive, rig

    people = archive.read_avatars(shared / "data" / "avatars" / "avatars.zip", 3)
    rotation = mocap.rotations_about(np.random.default_rng(5).normal(size=(22 * 8, 3)))
    rotation = rotation.reshape(8, 22, 3, 3).astype(np.float32)
    who = torch.arange(8) % 3
    want = rig.labelled_points(people, who, *rig.pose(people, who, torch.from_numpy(rotation)))
    got = np.einsum("nbij,npbj->npi", rotation, mocap.body_tables(people)[who.numpy()])
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


@pytest.mark.slow
def test_people_of_a_real_capture_are_lifted_from_their_true_joints(
    shipped: Lifter, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 pictures of a capture with five calibrated cameras; 73 people, 12 limb joints each."""
    folder = shared / "data" / "truth3d" / "panoptic_a"
    truth = json.loads((folder / "annotations.json").read_text("utf-8"))
    names = [n.replace("left_", "l_").replace("right_", "r_") for n in truth["joint_names"]]
    limbs = [
        f"{s}_{n}" for s in "lr" for n in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    ]
    of = [names.index(n) for n in limbs]
    errors, aligned, places, fitted, fitted_places, far = [], [], [], [], [], []
    for image in truth["images"]:
        fx, fy, cx, cy = image["K"]
        camera = Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), 1280, 720)
        people, true = [], []
        for person in image["people"]:
            px, score = np.full((K, 2), np.nan), np.zeros(K)
            seen = np.array(person["valid"], bool)[:17]
            px[:17][seen], score[:17][seen] = np.array(person["joints2d"])[:17][seen], 1
            people.append(Person2D(px, score, 1.0))
            true.append(np.array(person["joints3d"]) / 1000)
        for person3d, joints in zip(lifting.lift(people, camera, shipped), true, strict=True):
            root = joints[names.index("pelvis")]
            got = person3d.joints_rel_m[[INDEX[n] for n in limbs]]
            want = joints[of] - root
            errors.append(np.linalg.norm(got - want, axis=1).mean())
            aligned.append(np.linalg.norm(similar(got, want) - want, axis=1).mean())
            places.append(np.linalg.norm(person3d.root_m - root))
            place, got = stage_three(person3d, camera)
            fitted.append(np.linalg.norm(got[[INDEX[n] for n in limbs]] - want, axis=1).mean())
            fitted_places.append(np.linalg.norm(place - root))
            far.append(np.array([person3d.root_m[2], place[2]]) / root[2] - 1)
    means = [1000 * float(np.mean(v)) for v in (errors, aligned, places, fitted, fitted_places)]
    with capsys.disabled():
        line = "\nMPJPE {:.1f}, after Procrustes {:.1f}, root {:.0f} mm; III {:.1f}, root {:.0f}"
        line += "; too far: II {:+.1f} %, III {:+.1f} %"
        sys.stdout.write(line.format(*means, *100 * np.mean(far, 0)))
    assert len(errors) == 73
    assert means[0] < 75
    assert means[1] < 52
    assert means[2] < 300
    assert means[3] < means[0]
    assert means[4] < means[2]


def stage_three(person: Person3D, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """The root (3,) and joints (J, 3) relative to it of one picture, as the program shows them."""
    frame = Frame(np.zeros((camera.height, camera.width, 3), np.uint8), 0.0, 0, camera)
    follower = Follower(FollowerConfig(still=True))
    joints = follower(Detections(frame, (person,))).people[0].joints_m
    return joints[ROOT], joints - joints[ROOT]


def similar(points: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The points after the best similarity transform onto the goal."""
    a, b = points - points.mean(0), goal - goal.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    flip = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    turn = (u * flip) @ vt
    return (s * flip).sum() / (a**2).sum() * a @ turn + goal.mean(0)
