from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch")
from manypose.errors import ConfigError
from manypose.models.train import mocap
from manypose.models.train.sightings import ErrorModel, see, trembled
from manypose.models.train.stage2 import unsteadiness
from manypose.models.train.synth.archive import BONE, POINTS
from manypose.pose import lifting, placement
from manypose.pose.joints import CARRIED, INDEX, INDEX_2D, JOINTS_2D, OKS_SIGMAS, PARENT, SHOWN_BY

K = len(JOINTS_2D)


def points(count: int = 400) -> np.ndarray:
    """People of 26 points, y up: a column of joints, arms and legs to the sides."""
    at = np.zeros((len(POINTS), 3))
    height = {
        "head_top": 0.8,
        "neck": 0.54,
        "spine": 0.27,
        "pelvis": 0.0,
        "head": 0.68,
        "nose": 0.66,
    }
    side = {"shoulder": (0.18, 0.5), "elbow": (0.4, 0.4), "wrist": (0.6, 0.5), "hand": (0.7, 0.5),
            "hip": (0.09, 0), "knee": (0.12, -0.4), "ankle": (0.1, -0.8), "foot": (0.1, -0.88),
            "eye": (0.03, 0.7), "ear": (0.07, 0.68)}  # fmt: skip
    for i, name in enumerate(POINTS):
        if name in height:
            at[i, 1] = height[name]
        else:
            at[i, :2] = side[name[2:]]
            at[i, 0] *= 1 if name[0] == "l" else -1
    return at + np.random.default_rng(0).normal(size=(count, len(POINTS), 3)) * 0.03


def test_the_perfect_view_shows_the_truth() -> None:
    seen = see(points(), np.random.default_rng(1), None)
    assert (seen.score == 1).all()
    for j, k in enumerate(SHOWN_BY):
        if k >= 0 and JOINTS_2D[k][2:] in ("elbow", "wrist", "knee", "ankle"):
            true = seen.joints_m[:, j]
            off = (seen.rays[:, k] - true[:, :2] / true[:, 2:]) * true[:, 2:]
            assert np.linalg.norm(off, axis=1).mean() < 0.02
    bones = (
        seen.joints_m[:, [j for _, j in CARRIED]]
        - seen.joints_m[:, [PARENT[j] for _, j in CARRIED]]
    )
    np.testing.assert_allclose(seen.bones, bones, atol=1e-12)
    assert (seen.joints_m[..., 2] > 0.15).all()


def test_marks_on_pictures_agree_with_where_placement_expects_them() -> None:
    seen = see(points(2000), np.random.default_rng(2), None)
    rel = seen.joints_m - seen.joints_m[:, INDEX["pelvis"], None]
    marks = placement.marked(rel) + seen.joints_m[:, INDEX["pelvis"], None]
    for name in ("l_shoulder", "r_shoulder", "neck"):
        mark = marks[:, INDEX[name]]
        off = (seen.rays[:, INDEX_2D[name]] - mark[:, :2] / mark[:, 2:]) * mark[:, 2:]
        assert np.linalg.norm(off.mean(0)) < 0.015


def test_lower_scores_mean_larger_errors_and_joints_not_seen_have_none() -> None:
    seen = see(points(3000), np.random.default_rng(3), ErrorModel())
    true = see(points(3000), np.random.default_rng(3), None)
    there = seen.score > 0
    assert np.isfinite(seen.rays[there]).all()
    assert np.isnan(seen.rays[~there]).all()
    assert 0.5 < there.mean() < 0.9
    extent = np.ptp(true.rays, axis=1).max(1)[:, None]
    off = np.linalg.norm(seen.rays - true.rays, axis=-1) / (OKS_SIGMAS * extent)
    low, high = there & (seen.score < 0.5), there & (seen.score > 0.8)
    assert np.median(off[low]) > 3 * np.median(off[high])
    assert np.isnan(seen.bones).all((1, 2)).mean() == pytest.approx(0.5, abs=0.05)
    features, _ = lifting.encode(*lifting.complete(seen.rays, seen.score), seen.bones)
    assert np.isfinite(features).all()


def test_an_error_model_survives_its_file(tmp_path: Path) -> None:
    model = ErrorModel(spread=0.3, joint_factor=tuple(np.linspace(0.5, 1.5, K)))
    model.write(tmp_path / "errors.json")
    assert ErrorModel.read(tmp_path / "errors.json") == model


@pytest.mark.parametrize("text", ["[]", '{"spreed": 1}', '{"joint_factor": [1]}', "{"])
def test_a_wrong_error_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "errors.json").write_text(text)
    with pytest.raises(ConfigError):
        ErrorModel.read(tmp_path / "errors.json")


def test_mirrored_points_have_sides_exchanged() -> None:
    assert POINTS[mocap.MIRROR_POINTS[POINTS.index("l_ear")]] == "r_ear"
    assert (mocap.MIRROR_POINTS[mocap.MIRROR_POINTS] == np.arange(len(POINTS))).all()


@pytest.mark.slow
def test_training_learns_stops_and_goes_on(shared: Path, tmp_path: Path) -> None:
    from manypose.models.lifter_runtime import load_lifter
    from manypose.models.train.stage2 import Stage2Options, train_stage2

    data = shared / "data"
    sources = data / "mocap" / "mocap.npz", data / "avatars" / "avatars.zip"
    first = train_stage2(Stage2Options(*sources, tmp_path, steps=3, batch=64, width=64))
    then = train_stage2(Stage2Options(*sources, tmp_path, steps=60, batch=64, width=64))
    assert then.full_mm < first.full_mm
    for form in ("full", "parts"):
        joints, sigma = load_lifter(tmp_path / f"lifter_{form}.npz")(
            np.zeros((2, lifting.FEATURE_COUNT), np.float32)
        )
        assert joints.shape == (2, 21, 3)
        assert (sigma > 0).all()


def test_who_sits_is_told_from_who_stands_or_lies() -> None:
    turns = np.tile(np.eye(3), (4, len(BONE), 1, 1))
    level, back = (mocap.rotations_about(np.array([[a, 0.0, 0.0]]))[0] for a in (-1.57, 0.1))
    thighs, calves = ([BONE[f"{s}_{n}"] for s in "lr"] for n in ("thigh", "calf"))
    turns[1, thighs], turns[1, calves] = level, back  # sits
    turns[2, thighs[:1]] = level  # one leg raised
    turns[3] = level  # lies
    assert mocap.seated(turns).tolist() == [False, True, False, False]


def test_the_next_frame_of_a_sight_differs_a_little_and_loses_nobody() -> None:
    rng = np.random.default_rng(1)
    rays, bones = rng.normal(size=(50, len(JOINTS_2D), 2)), rng.normal(size=(50, len(CARRIED), 3))
    rays[:, 3], bones[:, 5] = np.nan, np.nan
    again, next_bones = trembled(rays, bones, rng)
    extent = (np.nanmax(rays, 1) - np.nanmin(rays, 1)).max(1)
    assert np.nanstd((again - rays) / extent[:, None, None]) == pytest.approx(0.008, rel=0.1)
    assert np.nanstd(next_bones - bones) == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(np.isnan(again), np.isnan(rays))
    np.testing.assert_array_equal(np.isnan(next_bones), np.isnan(bones))


def test_answers_that_only_the_cameras_turn_are_steady() -> None:
    rng = np.random.default_rng(2)
    answer = torch.from_numpy(rng.normal(size=(8, len(PARENT), 4)))
    turn = torch.from_numpy(mocap.rotations_about(rng.normal(size=(3, 3))))
    again = answer[:3].clone()
    again[..., :3] = answer[:3, :, :3] @ turn
    assert unsteadiness(answer, again, turn).item() == pytest.approx(0.01, abs=1e-6)  # its floor
    again[:, 4, 0] += 0.5
    assert unsteadiness(answer, again, turn).item() > 0.02
