"""The table of what the training data is worth: its rows, its measure, and going on with it."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from manypose.models.train import packs
from manypose.models.train.figures import figures
from manypose.pose.records import NetworkOutput
from manypose.pose.targets import cells_to_px, draw
from tests import ablation

IDENTITY = np.array([[8, 0, 3.5], [0, 8, 3.5]])


def _args(**more):
    given = {
        "photos": ["a,share=0.6", "b,share=0.2"], "renders": ["r,share=0.2"], "labelled": ["l"],
        "teacher": Path("t.xml"), "out": Path("o"), "steps": 7, "part": "64x48x2", "width": 0.125,
        "backbone": "selecsls42", "photo_side": 96, "threads": 1, "seed": 0,
    }  # fmt: skip
    return argparse.Namespace(**(given | more))


def test_every_row_spends_the_same_steps():
    for row in ablation.ROWS:
        trained = [c for c in ablation.commands(row, _args()) if c[1] == "stage1"]
        assert sum(int(c[c.index("--steps") + 1]) for c in trained) == 7
        assert len({c[c.index("--parts") + 1] for c in trained}) == 1


def test_self_training_learns_what_the_first_half_labelled():
    row = next(r for r in ablation.ROWS if r.again)
    first, *made, last = ablation.commands(row, _args())
    assert [c[:3] for c in made] == [["train", "relabel", "a,share=0.6"],
                                     ["train", "relabel", "b,share=0.2"]]  # fmt: skip
    start = last[last.index("--init") + 1]
    assert Path(start).parent == Path(first[first.index("--out") + 1])
    assert f"pack:{made[0][made[0].index('--out') + 1]},share=0.6" in last
    assert "a,share=0.6" not in last


def test_perfect_maps_point_at_every_joint_and_flat_ones_do_not():
    for item in figures(4, 96, 64):
        joints = item.joints_px.astype(float)
        inside = (joints[..., :2] >= 0).all(-1) & (joints[..., 0] < 96) & (joints[..., 1] < 64)
        heat, pafs, _ = draw(joints, 64, 96)
        hits = ablation.pointed(item, NetworkOutput(heat, pafs, None, IDENTITY))
        flat = ablation.pointed(item, NetworkOutput(0 * heat, pafs, None, IDENTITY))
        assert inside.any()
        assert np.mean(hits) > 0.7 > 0.5 > np.mean(flat)
    assert cells_to_px(np.zeros(2)) == pytest.approx(IDENTITY[:, 2])


def test_the_error_of_a_share_counts_photos_not_joints():
    photos = [[True] * 4, [False] * 4, [True] * 4, [False] * 4]
    assert ablation.share_and_error(photos) == pytest.approx((0.5, 0.25))
    assert ablation.share_and_error(photos * 4) == pytest.approx((0.5, 0.125))


@pytest.mark.slow
def test_a_table_goes_on_where_it_stopped(tmp_path, capsys):
    packs.write_pack(figures(3, 96, 64), tmp_path / "a")
    words = ["--photos", f"pack:{tmp_path / 'a'}", "--renders", f"pack:{tmp_path / 'a'}",
             "--val", f"pack:{tmp_path / 'a'}", "--out", str(tmp_path / "o"), "--steps", "2",
             "--part", "64x48x2", "--score-size", "96x64", "--width", "0.125",
             "--photo-side", "96"]  # fmt: skip
    words += ["--only", "both-self-trained"]
    assert ablation.tables(words) == 0
    table = capsys.readouterr().out
    assert "| both self trained | 4 |" in table
    held = tmp_path / "o" / "both-self-trained" / "scores.json"
    before = held.stat().st_mtime_ns
    assert ablation.tables(words) == 0
    assert held.stat().st_mtime_ns == before
    assert capsys.readouterr().out == table
