from __future__ import annotations

import argparse
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manypose.errors import SourceError, UsageError
from manypose.models.train.synth import command
from manypose.models.train.synth.archive import Avatars, Clips, in_split, read_avatars, read_clips
from manypose.models.train.synth.backgrounds import Chance, backgrounds, read_photos
from manypose.models.train.synth.pack import read_part
from manypose.models.train.synth.raster import rasterise
from manypose.models.train.synth.render import build_meshes, render, sample_setting
from manypose.models.train.synth.rig import rotations_of
from manypose.models.train.synth.scene import PEOPLE_MAX, Stage, place, sample_scenes
from manypose.models.train.synth.sequences import (
    continue_motion,
    cut,
    multiply,
    render_sequence,
    sample_sequence,
)
from manypose.pose.joints import INDEX, INDEX_2D

Cast = tuple[Avatars, Clips]


def slow_raster(corners: np.ndarray, image: np.ndarray, n: int, h: int, w: int) -> np.ndarray:
    """Which triangle each pixel shows: one triangle and one pixel after another."""
    best, depth = np.full((n, h, w), -1), np.full((n, h, w), np.inf)
    for t, (corner, b) in enumerate(zip(corners, image)):
        m = np.column_stack([corner[:, :2], np.ones(3)])
        if abs(np.linalg.det(m)) < 1e-9 or corner[:, 2].min() <= 0.15:
            continue
        for y in range(h):
            for x in range(w):
                s = np.linalg.solve(m.T, [x, y, 1.0])
                if (s >= 0).all():
                    z = 1 / (s / corner[:, 2]).sum()
                    if z < depth[b, y, x]:
                        best[b, y, x], depth[b, y, x] = t, z
    return best


def test_the_rasteriser_agrees_with_a_slow_plain_one() -> None:
    rng = np.random.default_rng(2)
    n, h, w = 2, 10, 14
    corners = rng.uniform([-4, -4, 0.5], [w + 4, h + 4, 5], (30, 3, 3))
    corners[3, 0, 2] = 0.1  # too near
    image = rng.integers(0, n, 30)
    seen = rasterise(torch.tensor(corners, dtype=torch.float32), torch.tensor(image), n, h, w)
    got = np.full(n * h * w, -1)
    got[seen.pixel.numpy()] = seen.triangle.numpy()
    assert (got.reshape(n, h, w) == slow_raster(corners, image, n, h, w)).mean() > 0.995
    # What is interpolated with the weights lands on the pixel itself, in perspective.
    c, b = corners[seen.triangle.numpy()], seen.corner_weights.numpy()
    ray = np.concatenate([c[..., :2] * c[..., 2:], c[..., 2:]], -1)
    at = (ray * b[..., None]).sum(1)
    pixel = seen.pixel.numpy()
    assert np.allclose(at[:, 0] / at[:, 2], pixel % w, atol=1e-3)
    assert np.allclose(at[:, 1] / at[:, 2], pixel // w % h, atol=1e-3)
    assert np.allclose(at[:, 2], seen.depth_m.numpy(), atol=1e-4)


def test_nothing_in_view_gives_no_pixel() -> None:
    away = torch.tensor([[[-9.0, 2, 1], [-8, 2, 1], [-8, 3, 1]]])
    assert len(rasterise(away, torch.tensor([0]), 1, 8, 8).pixel) == 0
    assert len(rasterise(away[:0], torch.zeros(0, dtype=torch.long), 1, 8, 8).pixel) == 0


def test_nobody_stands_inside_another() -> None:
    rng = np.random.default_rng(0)
    x, z, kept = place(rng, np.full(200, PEOPLE_MAX), np.full(200, 400.0), 512, 320)
    assert kept[:, 0].all()
    assert kept.mean() > 0.6
    gap2 = (x[:, :, None] - x[:, None]) ** 2 + (z[:, :, None] - z[:, None]) ** 2
    both = kept[:, :, None] & kept[:, None] & ~np.eye(PEOPLE_MAX, dtype=bool)
    assert gap2[both].min() > 0.5**2
    assert z[kept].min() >= 1.1


def test_feet_stand_on_the_floor(cast: Cast) -> None:
    stage = Stage(*cast)
    _, crowd = sample_scenes(np.random.default_rng(5), stage, 16, 256, 160, 1)
    meshes = build_meshes(stage.avatars, crowd)
    low = torch.full((16,), torch.inf)
    low = low.scatter_reduce(0, meshes.owner, meshes.vertices[:, 1], "amin")
    assert low.median().abs() < 0.04
    assert ((low > -0.25) & (low < 0.8)).all()  # 0.8: jumps


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pictures_and_pictures_differ(boxes: Cast) -> None:
    def once(seed: int) -> torch.Tensor:
        stage, chance = Stage(*boxes), Chance(seed, "cpu")
        view, crowd = sample_scenes(np.random.default_rng(seed), stage, 3, 128, 80)
        setting = sample_setting(chance, view, crowd, 80, 128, None)
        return render(stage.avatars, view, crowd, setting, chance)[0]

    first = once(4)
    assert first.dtype == torch.uint8
    assert first.shape == (3, 80, 128, 3)
    assert torch.equal(first, once(4))
    assert not torch.equal(first, once(5))


def test_a_continued_motion_neither_jumps_nor_stretches(cast: Cast) -> None:
    clips = cast[1]
    fit = [i for i, n in enumerate(clips.length) if 55 <= n <= 130][:6]
    for clip in fit:
        q, root = continue_motion(clips, clip, 300)
        assert q.shape == (300, 22, 4)
        assert np.allclose(np.linalg.norm(q, axis=-1), 1)
        alike = np.abs((q[1:] * q[:-1]).sum(-1)).clip(0, 1)
        turn = 2 * np.arccos(alike)[:, 0]  # of the pelvis
        own = 2 * np.arccos(np.abs((q[1:40] * q[:39]).sum(-1)).clip(0, 1))[:, 0]
        assert turn.max() < own.max() + 0.15
        step = np.linalg.norm(np.diff(root, axis=0), axis=1)
        assert step.max() < step[:40].max() * 1.6 + 0.03


def test_quaternions_multiply_like_matrices() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 4))
    first, then, both = (rotations_of(torch.tensor(q)) for q in (b, a, multiply(a, b)))
    assert torch.allclose(then @ first, both)


@pytest.mark.parametrize("moving", [False, True])
def test_sequences_are_consecutive_and_people_keep_their_numbers(boxes: Cast, moving: bool) -> None:
    stage = Stage(*boxes)
    view, crowd = sample_sequence(np.random.default_rng(1), stage, 20, 128, 80, 3, moving)
    assert (crowd.slot.view(20, 3) == torch.arange(3)).all()
    assert (crowd.avatar.view(20, 3) == crowd.avatar[:3]).all()
    step = crowd.hip_m.view(20, 3, 3).diff(dim=0).norm(dim=-1)
    assert step.max() < 0.2  # 6 m/s
    still = bool((view.t == view.t[:1]).all())
    assert still != moving
    made = list(render_sequence(stage, view, crowd, Chance(0, "cpu"), (128, 80), None, 8))
    assert [first for first, _, _ in made] == [0, 8, 16]
    assert sum(len(images) for _, images, _ in made) == 20
    inside = torch.cat([t.points_m for _, _, t in made]).view(20, 3, 26, 3)
    assert inside.diff(dim=0).norm(dim=-1).max() < 0.5
    part, some = cut(view, crowd, 8, 10)
    assert len(part.K) == 2
    assert some.picture.tolist() == [0, 0, 0, 1, 1, 1]


def arguments(files: tuple[Path, Path], out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    fixed = ["--avatars", str(files[0]), "--mocap", str(files[1]), "--split", "all",
             "--device", "cpu", "--size", "128x80", "--out", str(out)]  # fmt: skip
    return parser.parse_args([*fixed, *more])


def test_the_command_writes_parts_that_read_back_and_goes_on_where_it_stopped(
    box_files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert command.run(arguments(box_files, tmp_path, "--count", "5", "--people", "2")) == 0
    [path] = tmp_path.iterdir()
    assert path.suffix == ".npz"
    rows = list(read_part(path))
    assert len(rows) == 5
    for row in rows:
        assert row.image.shape == (80, 128, 3)
        assert row.mask.shape == (80, 128)
        assert 1 <= len(row.slot) <= 2
        for p, slot in enumerate(row.slot):
            assert (row.mask == slot + 1).sum() == row.area_px[p]
        assert row.joints_m.shape[1:] == (21, 3)
        assert (row.box_px[:, :2] >= 0).all()
        assert (row.box_px[:, :2] + row.box_px[:, 2:] <= [127, 79]).all()
    before = path.stat().st_mtime_ns
    assert command.run(arguments(box_files, tmp_path, "--count", "5", "--people", "2")) == 0
    assert path.stat().st_mtime_ns == before


def test_the_command_stopped_by_the_user_leaves_no_broken_file(
    box_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.run(arguments(box_files, tmp_path, "--count", "2"))
    assert list(tmp_path.iterdir()) == []


def test_sequences_are_numbered_in_their_part(box_files: tuple[Path, Path], tmp_path: Path) -> None:
    command.run(arguments(box_files, tmp_path, "--count", "7", "--sequence", "4"))
    [path] = tmp_path.iterdir()
    rows = list(read_part(path))
    assert [(r.sequence, r.frame) for r in rows] == [(s, f) for s in (0, 1) for f in range(4)]


@pytest.mark.parametrize("wrong", [["--size", "12"], ["--count", "0"], ["--people", "11"]])
def test_wrong_use_is_told(box_files: tuple[Path, Path], tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(UsageError):
        command.run(arguments(box_files, tmp_path, *wrong))


def test_damaged_files_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "x.npz"
    broken.write_bytes(b"no archive")
    for read in (read_avatars, read_clips, lambda p: list(read_part(p))):
        with pytest.raises(SourceError):
            read(broken)
        with pytest.raises(SourceError):
            read(tmp_path / "missing.npz")
    with pytest.raises(SourceError, match="--photos"):
        read_photos(f"folder:{tmp_path},limit=0")


def test_people_and_performances_are_held_out() -> None:
    names = tuple(f"A{k}" for k in range(20))
    assert in_split(names, "val", "avatars").sum() == 8
    clips = ("cmu_02_01", "cmu_49_01", "walking_49a", "dance")
    assert in_split(clips, "val", "clips").tolist() == [True, True, False, False]
    assert (in_split(clips, "train", "clips") ^ in_split(clips, "val", "clips")).all()


def test_backgrounds_from_a_folder_of_photographs(boxes: Cast, tmp_path: Path) -> None:
    import cv2

    stage = Stage(*boxes)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((50, 60, 3), (10, 200, 30), np.uint8))
    photos = read_photos(str(tmp_path))
    view, _ = sample_scenes(np.random.default_rng(0), stage, 16, 96, 64, 1)
    made = backgrounds(Chance(0, "cpu"), view, torch.full((16, 2), 5.0), photos, 64, 96)
    assert made.shape == (16, 3, 64, 96)
    assert ((made >= 0) & (made <= 256)).all()
    plain = (made - torch.tensor([30.0, 200, 10]).view(3, 1, 1)).abs().amax((1, 2, 3)) < 2
    assert 6 <= int(plain.sum()) <= 15


@pytest.mark.slow
def test_the_sample_clip_has_its_truth_beside_it() -> None:
    root = Path(__file__).resolve().parents[4]
    clip, truth = root / "app/sample.mp4", root / "tests/golden/sample_truth.npz"
    if not clip.exists():
        pytest.skip("no sample clip in this checkout")
    av = importlib.import_module("av")
    with av.open(io.BytesIO(clip.read_bytes())) as film:
        frames = sum(1 for _ in film.decode(video=0))
        size = (film.streams.video[0].width, film.streams.video[0].height)
    with np.load(truth) as z:
        assert len(z["joints_m"]) == frames
        m, K = z["joints_m"], z["K"]
        px = m[..., :2] / m[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
        found = z["joints_px"]
    assert K[0, 2] == pytest.approx((size[0] - 1) / 2)
    knee3, knee2 = px[:, :, INDEX["r_knee"]], found[:, :, INDEX_2D["r_knee"]]
    assert np.abs(knee3 - knee2).max() < 0.2
