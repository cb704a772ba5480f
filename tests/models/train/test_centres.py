from dataclasses import replace

import numpy as np
import torch

from manypose.models.train import centres, checkpoints, loop, store
from manypose.models.train.figures import figures
from manypose.models.train.recipe import Part, Recipe
from manypose.models.train.targets import People
from manypose.pose.joints import INDEX_2D, JOINTS, JOINTS_2D

K, J = len(JOINTS_2D), len(JOINTS)
H, W = 16, 24  # cells
TORSO = [INDEX_2D[n] for n in ("l_shoulder", "r_shoulder", "l_hip", "r_hip")]


def _people(seed, count, pictures):
    rng = np.random.default_rng(seed)
    middle = rng.uniform(0, [8 * W, 8 * H], (count, 1, 2))
    joints = middle + rng.normal(0, 0.4, (count, K, 2)) * rng.uniform(10, 120, (count, 1, 1))
    inside = ((joints >= -0.5) & (joints < [8 * W - 0.5, 8 * H - 0.5])).all(-1)
    visibility = rng.choice([0.0, 1.0, 2.0], (count, K), p=[0.3, 0.2, 0.5])
    visibility[0] = 0
    picture = torch.from_numpy(rng.integers(0, pictures, count))
    return People(
        picture, torch.zeros_like(picture), torch.from_numpy(joints.astype(np.float32)),
        torch.from_numpy(visibility), torch.from_numpy(inside),
        torch.full((count, J, 3), float("nan")), torch.zeros(count, J),
    )  # fmt: skip


def _plain(people, pictures):
    """The definition, one person after the other from small to big."""
    heat = np.zeros((pictures, 1, H, W))
    offsets = np.zeros((pictures, 2 * K, H, W))
    told = np.zeros((pictures, K, H, W))
    joints = (people.joints_px.numpy() - 3.5) / 8
    known = people.visibility.numpy() > 0
    yy, xx = np.mgrid[:H, :W]
    size = [np.ptp(j[v], 0).max() if v.any() else 0 for j, v in zip(joints, known)]
    for i in np.argsort(size, kind="stable"):
        use = known[i] & people.inside[i].numpy()
        torso = [k for k in TORSO if use[k]]
        if not use.any():
            continue
        x, y = (joints[i][torso] if torso else joints[i][use]).mean(0)
        far2 = (xx - x) ** 2 + (yy - y) ** 2
        n = int(people.picture[i])
        heat[n, 0] = np.maximum(heat[n, 0], np.exp(-far2 / 4.5))
        near = far2 <= 1.6**2
        offsets[n][:, near] = 0
        told[n][:, near] = 0
        for k in np.flatnonzero(known[i]):
            offsets[n, 2 * k][near] = (joints[i, k, 0] - xx[near]) / 8
            offsets[n, 2 * k + 1][near] = (joints[i, k, 1] - yy[near]) / 8
            told[n, k][near] = 1
    return heat, offsets, told


def test_the_batch_equals_the_plain_definition():
    people = _people(4, 14, 3)
    found = centres.draw(people, (3, H, W))
    heat, offsets, told = _plain(people, 3)
    # the window of a Gaussian ends after three cells
    assert np.abs(found.heatmap.numpy() - heat).max() < np.exp(-(2.5**2) / 4.5)
    np.testing.assert_array_equal(found.told, told)
    np.testing.assert_allclose(found.offsets, offsets, atol=1e-4)
    assert told.sum() > 500


def test_the_true_answer_costs_nothing_and_unknown_cells_are_free():
    people = _people(5, 8, 2)
    wanted = centres.draw(people, (2, H, W))
    known = torch.ones(2, K, H, W)
    answer = torch.cat([wanted.heatmap, wanted.offsets], 1)
    assert centres.loss(answer, wanted, known) < 1e-6
    ghost = answer.clone()
    empty = (wanted.heatmap[0, 0] == 0).nonzero()[0]
    ghost[0, 0, empty[0], empty[1]] = 1
    assert centres.loss(ghost, wanted, known) > 0
    known[0, 5, empty[0], empty[1]] = 0
    assert centres.loss(ghost, wanted, known) < 1e-6


def test_centres_are_learnt_beside_and_kept(tmp_path):
    held = store.load(figures(2, 96, 64), 96)
    recipe = Recipe(
        parts=(Part(1, 64, 48, 2),), minutes=1, width=0.125, backbone="selecsls42", steps=1,
        score_every_s=1e9, save_every_s=1e9, weight_centres=0.15,
    )  # fmt: skip
    loop.train(recipe, held, [], [], tmp_path)
    content = checkpoints.read(tmp_path / "ema.pt")
    assert content["centre"]["weight"].shape[0] == 1 + 2 * K
    checkpoints.network(tmp_path / "ema.pt")  # which has no such layer
    before = checkpoints.read(tmp_path / "last.pt")["centre"]["weight"]
    loop.train(replace(recipe, steps=2), held, [], [], tmp_path, resume=True)
    after = checkpoints.read(tmp_path / "last.pt")["centre"]["weight"]
    assert 0 < (after - before).abs().max() < 0.1
    net, about = checkpoints.network(tmp_path / "ema.pt")
    checkpoints.save_arrays(tmp_path / "start.npz", net.state_dict(), about)
    again = loop._Run(recipe, held, tmp_path / "b", tmp_path / "start.npz", False, None, None)
    kept = checkpoints.read(tmp_path / "ema.pt")["centre"]["weight"]
    assert torch.equal(again.student.centre.weight, kept.float())
