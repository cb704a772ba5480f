"""Proofs of the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from manypose.models.train.synth.archive import POINT, Avatars, Clips
from manypose.models.train.synth.backgrounds import Chance
from manypose.models.train.synth.labels import (
    HIDDEN,
    OUTSIDE,
    SEEN,
    joints_2d,
    mirrored,
    project,
)
from manypose.models.train.synth.render import build_meshes, plain_setting, render
from manypose.models.train.synth.scene import Crowd, Stage, View, sample_scenes
from manypose.models.train.synth.sequences import cut
from manypose.pose.joints import INDEX, INDEX_2D, MIRROR_2D, PARENT

W, H, COUNT = 192, 120, 5
Cast = tuple[Avatars, Clips]


def scenes(cast: Cast, seed: int = 3, people: int | None = None) -> tuple[Stage, View, Crowd]:
    stage = Stage(*cast)
    rng = np.random.default_rng(seed)
    return stage, *sample_scenes(rng, stage, COUNT, W, H, people)


def grey(count: int = COUNT) -> torch.Tensor:
    return torch.full((count, 3, H, W), 120.0)


def test_a_t_pose_has_its_left_at_plus_x_and_looks_along_plus_z(cast: Cast) -> None:
    avatars = cast[0]
    count = len(avatars.names)
    who = torch.arange(count)
    identity = torch.eye(3).expand(count, 22, 3, 3).contiguous()
    crowd = Crowd(who * 0, who, who, who * 0, identity, torch.zeros(count, 3),
                  torch.ones(count), torch.ones(count, 3))  # fmt: skip
    at = build_meshes(avatars, crowd).points_m
    for name in ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "foot", "eye"):
        assert (at[:, POINT[f"l_{name}"], 0] > at[:, POINT[f"r_{name}"], 0] + 0.02).all(), name
    assert (at[:, POINT["nose"], 2] > at[:, POINT["head"], 2] + 0.02).all()
    assert (at[:, POINT["l_foot"], 2] > at[:, POINT["l_ankle"], 2]).all()
    level = at[:, POINT["l_wrist"], 1] - at[:, POINT["l_shoulder"], 1]
    assert level.abs().max() < 0.02  # the arms are stretched out to the sides


def test_projection_agrees_with_a_matrix_of_three_rows_and_four_columns(cast: Cast) -> None:
    stage, view, crowd = scenes(cast)
    _, truth = render(stage.avatars, view, crowd, plain_setting(grey()), Chance(0, "cpu"))
    world = build_meshes(stage.avatars, crowd).points_m.double().numpy()
    for p, b in enumerate(crowd.picture.tolist()):
        K, R, t = (v[b].double().numpy() for v in (view.K, view.R, view.t))
        matrix = K @ np.column_stack([R, t])
        seen = np.column_stack([world[p], np.ones(26)]) @ matrix.T
        front = seen[:, 2] > 0.3
        error = seen[front, :2] / seen[front, 2:] - truth.points_px[p].numpy()[front]
        inside = np.abs(truth.points_px[p].numpy()[front]).max(1) < 2 * W
        assert np.abs(error[inside]).max(initial=0) < 1e-3


@pytest.mark.slow
def test_points_lie_on_the_persons_own_silhouette_and_seen_ones_on_the_mask(cast: Cast) -> None:
    stage, view, crowd = scenes(cast)
    chance = Chance(0, "cpu")
    _, truth = render(stage.avatars, view, crowd, plain_setting(grey()), chance)
    inside = on_own = 0
    for p, b in enumerate(crowd.picture.tolist()):
        part, some = cut(view, crowd, b, b + 1)
        keep = (some.slot == crowd.slot[p]).nonzero()[:, 0]
        alone = Crowd(*(getattr(some, f)[keep] for f in Crowd.__dataclass_fields__))
        _, own = render(stage.avatars, part, alone, plain_setting(grey(1)), chance)
        for q in range(26):
            if truth.seen[p, q] == OUTSIDE:
                continue
            x, y = (round(float(v)) for v in truth.points_px[p, q])
            window = slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2)
            inside += 1
            on_own += bool((own.person_id[0][window] >= 0).any())
            if truth.seen[p, q] == SEEN:
                assert (truth.person_id[b][window] == truth.slot[p]).any()
    assert inside > 100
    assert on_own / inside > 0.99


def turned(cast: Cast, yaw: float) -> tuple[torch.Tensor, torch.Tensor]:
    """2D joints and `seen` of one standing person, turned; 0 faces away from the camera."""
    stage = Stage(*cast)
    rng = np.random.default_rng(0)
    view, crowd = sample_scenes(rng, stage, 1, W, H, 1)
    angle = torch.tensor(yaw)
    c, s = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([c, c * 0, s, c * 0, c * 0 + 1, c * 0, -s, c * 0, c]).view(3, 3)
    standing = turn.expand(1, 22, 3, 3).contiguous()
    crowd = replace(crowd, rotations=standing, hip_m=torch.tensor([[0.0, 0.95, -4.0]]))
    level = torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None]
    view = replace(view, R=level, t=torch.tensor([[0.0, 1.0, 0.0]]))
    _, truth = render(stage.avatars, view, crowd, plain_setting(grey(1)), Chance(0, "cpu"))
    return joints_2d(truth)


def test_from_behind_the_left_hand_is_on_the_left_of_the_picture(cast: Cast) -> None:
    front, seen_front = turned(cast, 0.0)
    back, seen_back = turned(cast, np.pi)
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        left, right = INDEX_2D[f"l_{name}"], INDEX_2D[f"r_{name}"]
        assert front[0, left, 0] > front[0, right, 0]
        assert back[0, left, 0] < back[0, right, 0]
    assert seen_front[0, INDEX_2D["nose"]] == SEEN
    assert seen_back[0, INDEX_2D["nose"]] == HIDDEN


def test_a_mirrored_picture_has_the_truth_of_mirrored_people(cast: Cast) -> None:
    stage, view, crowd = scenes(cast)
    image, truth = render(stage.avatars, view, crowd, plain_setting(grey()), Chance(0, "cpu"))
    every = torch.ones(COUNT, dtype=torch.bool)
    flipped, other = mirrored(image, truth, every)
    assert torch.equal(flipped, image.flip(2))
    assert torch.equal(other.person_id, truth.person_id.flip(2))
    # The mirrored points are where the mirrored camera sees them.
    near = truth.points_m[..., 2] > 0.3
    again = project(other.points_m, other.K[other.picture])
    assert (again - other.points_px)[near].abs().max() < 0.05
    px, seen = joints_2d(truth)
    there, seen_there = joints_2d(other)
    back = torch.stack([W - 1 - there[..., 0], there[..., 1]], -1)[:, list(MIRROR_2D)]
    ok = truth.points_m[..., 2].amin(1) > 0.5
    assert (back - px)[ok].abs().max() < 0.05
    assert torch.equal(seen_there[:, list(MIRROR_2D)], seen)
    image_back, truth_back = mirrored(flipped, other, every)
    assert torch.equal(image_back, image)
    assert torch.allclose(truth_back.points_m, truth.points_m)


def test_bones_keep_their_lengths_in_every_pose(cast: Cast) -> None:
    stage = Stage(*cast)
    rng = np.random.default_rng(1)
    _, crowd = sample_scenes(rng, stage, 24, W, H, 1)
    same = torch.zeros_like(crowd.avatar)
    crowd = replace(crowd, avatar=same, size=torch.ones_like(crowd.size))
    at = build_meshes(stage.avatars, crowd).points_m
    for child in ("r_elbow", "r_wrist", "r_hand", "l_knee", "l_ankle", "head_top"):
        j = INDEX[child]
        length = (at[:, j] - at[:, PARENT[j]]).norm(dim=1)
        assert float(length.max() - length.min()) < 1e-5, child


def test_2d_shoulders_lie_inwards_and_the_middles_are_constructed(cast: Cast) -> None:
    stage, view, crowd = scenes(cast)
    _, truth = render(stage.avatars, view, crowd, plain_setting(grey()), Chance(0, "cpu"))
    px, _ = joints_2d(truth)
    rig = truth.points_px
    wide = (rig[:, INDEX["l_shoulder"]] - rig[:, INDEX["r_shoulder"]]).norm(dim=1)
    drawn = (px[:, INDEX_2D["l_shoulder"]] - px[:, INDEX_2D["r_shoulder"]]).norm(dim=1)
    far = truth.points_m[:, INDEX["neck"], 2] > 3
    ratio = (drawn / wide)[far & (wide > 5)]
    assert ((ratio > 0.7) & (ratio < 0.95)).all()
    middle = px[:, [INDEX_2D["l_hip"], INDEX_2D["r_hip"]]].mean(1)
    assert (middle - px[:, INDEX_2D["pelvis"]])[far].abs().max() < 2


def test_who_is_hidden_by_another_is_marked_hidden(boxes: Cast) -> None:
    stage = Stage(*boxes)
    view, crowd = sample_scenes(np.random.default_rng(0), stage, 1, W, H, 2)
    standing = torch.eye(3).expand(2, 22, 3, 3).contiguous()
    behind = torch.tensor([[0.0, 0.95, -3.0], [0.0, 0.95, -9.0]])
    same = torch.zeros(2, dtype=torch.long)
    crowd = Crowd(same, torch.arange(2), same, same, standing, behind, torch.ones(2),
                  torch.ones(2, 3))  # fmt: skip
    view = replace(
        view, R=torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None], t=torch.tensor([[0, 1.1, 0.0]])
    )
    _, truth = render(stage.avatars, view, crowd, plain_setting(grey(1)), Chance(0, "cpu"))
    trunk = [INDEX[n] for n in ("pelvis", "spine", "neck", "l_hip", "r_hip")]
    assert (truth.seen[0, trunk] == SEEN).all()
    assert (truth.seen[1, trunk] == HIDDEN).all()
    assert truth.area_px[0] == (truth.person_id == 0).sum()
    assert truth.area_px[1] == (truth.person_id == 1).sum()


@pytest.mark.gpu
def test_cuda_renders_what_the_cpu_renders(boxes: Cast) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = []
    for device in ("cpu", "cuda"):
        stage = Stage(*boxes, device=device)
        view, crowd = sample_scenes(np.random.default_rng(3), stage, COUNT, W, H)
        setting = plain_setting(grey().to(device))
        found.append(render(stage.avatars, view, crowd, setting, Chance(0, device)))
    same = found[0][1].person_id == found[1][1].person_id.cpu()
    assert same.float().mean() > 0.999
