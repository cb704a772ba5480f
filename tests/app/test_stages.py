import json

import numpy as np
import pytest

from manypose.app import made_people, smoothing, stage_figures, stages
from manypose.app.formats.reading import Run
from manypose.app.main import main
from manypose.pose import skeleton as sk
from manypose.pose.angles import rotations_from_joints
from manypose.pose.joints import INDEX, PARENT, ROOT


def test_walkers_stand_on_feet_that_do_not_slip_and_keep_their_bones():
    m = made_people.walkers(2, 6.0)
    assert m.joints_m.shape == (180, 2, 21, 3)
    assert stages.statures_m(m) == pytest.approx(made_people.STATURE_M, abs=1e-6)
    up = [p if p >= 0 else j for j, p in enumerate(PARENT)]
    bones = np.linalg.norm(m.joints_m - m.joints_m[:, :, up], axis=-1)
    assert np.ptp(bones, axis=0).max() < 1e-9
    perfect = stage_figures.figures(stage_figures.Found(m.joints_m), m)
    assert perfect["mpjpe_mm"] == perfect["root_mm"] == perfect["lag_ms"] == 0
    assert perfect["foot_slide_mm_s"] < 60
    assert np.abs(m.joints_m).max() < 12


def test_the_2d_neck_is_the_middle_of_the_shoulders():
    points = np.random.default_rng(0).normal(size=(2, 26, 3))
    shown = sk.marks(points)
    neck = shown[:, sk.JOINTS_2D.index("neck")]
    middle = (points[:, INDEX["l_shoulder"]] + points[:, INDEX["r_shoulder"]]) / 2
    np.testing.assert_allclose(neck, middle)


def test_a_late_result_shows_its_lag():
    m = made_people.walkers(1, 8.0)
    late = np.concatenate([m.joints_m[:1], m.joints_m[:-1]])
    got = stage_figures.figures(stage_figures.Found(late), m)
    assert got["lag_ms"] == pytest.approx(1000 / 30, rel=0.15)


@pytest.mark.slow
def test_the_command_prints_every_stage(capsys):
    assert main(["eval", "stages", "--people", "1", "--seconds", "0.7", "--warm-up", "0.3",
                 "--json"]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    rows = report["known"]["camera and height"]
    assert list(rows)[:3] == ["read-out", "+ II", "+ III"]
    assert rows["read-out"]["mpjpe_mm"] < 1
    assert rows["+ III"]["mpjpe_mm"] < 60
    assert rows["+ III"]["idf1"] == 1


def test_options_that_make_no_sense_are_told(capsys):
    assert main(["eval", "stages", "--people", "0"]) != 0
    assert "--people 0" in capsys.readouterr().err
    assert main(["eval", "stages", "--mocap", "x.npz"]) != 0


@pytest.mark.parametrize("how", smoothing.METHODS[1:])
def test_smoothing_calms_without_delay_or_stretching_and_respects_gaps(how):
    m = made_people.walkers(1, 4.0)
    true = m.joints_m[:, 0]
    rng = np.random.default_rng(0)
    shaken = true + rng.normal(0, 0.01, (len(true), 1, 3))
    shaken[50:70] = np.nan
    calm = smoothing.smooth_joints(shaken, m.times_s, how)
    assert np.isnan(calm[50:70]).all()
    assert np.isfinite(calm[:50]).all()
    kept = np.r_[3:45, 75:115]
    error = [np.linalg.norm(x - true, axis=-1)[kept].mean() for x in (shaken, calm)]
    assert error[1] < 0.85 * error[0]
    up = [p if p >= 0 else j for j, p in enumerate(PARENT)]
    lengths = [np.linalg.norm(x - x[:, up], axis=-1)[kept] for x in (shaken, calm)]
    np.testing.assert_allclose(lengths[1], lengths[0], atol=1e-9)
    late = stages.smoothed(stage_figures.Found(true[:, None]), m.times_s, how)
    assert abs(stage_figures.figures(late, m)["lag_ms"]) < 3


@pytest.mark.parametrize("how", smoothing.METHODS[1:])
def test_rotations_are_smoothed_across_the_change_of_sign(how):
    t = np.arange(60) / 30
    q = sk.exp_map(np.stack([2.0 * t, 0 * t, 0 * t], -1))[:, None]
    q = np.where(q[..., 3:] < 0, -q, q)
    out = smoothing.smooth_rotations(q, t, how)
    np.testing.assert_allclose(np.abs((out * q).sum(-1)), 1, atol=1e-3)


def test_long_recordings_are_smoothed_window_by_window(monkeypatch, tmp_path):
    m = made_people.walkers(2, 30.0)
    rng = np.random.default_rng(0)
    joints = m.joints_m.reshape(-1, 21, 3) + rng.normal(0, 0.01, (2 * len(m.times_s), 21, 3))
    count, frames = len(joints), len(m.times_s)
    done = []
    for window in (10**6, 350):
        monkeypatch.setattr(smoothing, "_WINDOW", window)
        run = Run(
            tmp_path, {}, m.times_s, np.arange(frames), np.full(frames, 2, np.int32),
            np.repeat(np.arange(frames, dtype=np.int32), 2), np.arange(count) % 2, np.ones(count),
            np.zeros((count, 4)), np.zeros((count, 20, 3)), joints.astype(np.float32),
            np.ones((count, 21), np.uint8), joints[:, ROOT].astype(np.float32),
            rotations_from_joints(joints).astype(np.float32),
        )  # fmt: skip
        done.append(smoothing.smooth_run(run, "adaptive"))
    one, many = done
    assert one.meta["smooth"] == "adaptive"
    assert np.abs(one.kp3d - joints).mean() > 0.003
    np.testing.assert_allclose(many.kp3d, one.kp3d, atol=4e-3)
    np.testing.assert_allclose(many.root, one.root, atol=2e-3)
    np.testing.assert_allclose(np.abs((many.quat * one.quat).sum(-1)), 1, atol=1e-4)


def test_who_stands_still_is_shown_standing_still(capsys):
    argv = ["eval", "stages", "--people", "2", "--seconds", "4", "--noise", "little", "--standing"]
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["known"]["camera and height"]
    assert rows["+ II"]["jitter_at_rest_mm"] > 50
    assert rows["+ feet held"]["jitter_at_rest_mm"] < 3
    assert rows["III + kalman"]["jitter_at_rest_mm"] < 4
