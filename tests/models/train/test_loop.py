import csv
import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from manypose.errors import ManyposeError, WeightsError
from manypose.models.heads import Maps
from manypose.models.train import batches, checkpoints, distil, loop, store
from manypose.models.train.batches import Augmentation
from manypose.models.train.figures import figures
from manypose.models.train.losses import losses
from manypose.models.train.recipe import Part, Recipe, step_size
from manypose.models.train.stop import Stop

TINY = Recipe(
    parts=(Part(0.5, 64, 48, 2), Part(0.5, 96, 64, 2)), minutes=1, width=0.125, lr=1e-3,
    backbone="selecsls42", steps=4, score_every_s=1e9, save_every_s=1e9,
)  # fmt: skip


@pytest.fixture(scope="module")
def held():
    return store.load(figures(4, 96, 64), 96)


def _values(path):
    return checkpoints.read(path / "last.pt")


@pytest.mark.slow
def test_a_run_leaves_what_is_needed_to_look_and_to_go_on(held, tmp_path):
    scores = loop.train(TINY, held, figures(2, 96, 64), [], tmp_path)
    assert {"AP", "ceiling_AP", "recall"} <= set(scores)
    assert scores["ceiling_AP"] > 0.5
    names = {p.name for p in tmp_path.iterdir()}
    wanted = {"last.pt", "ema.pt", "ema.pt.00", "ema.pt.parts.json", "metrics.csv", "losses.png"}
    assert wanted | {"labels.jpg", "people_0000004.jpg"} <= names
    assert not [n for n in names if n.endswith(".part")]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert float(rows[0]["heatmaps"]) > 0
    net, about = checkpoints.network(tmp_path / "ema.pt")
    assert about["images"] == 8
    assert net(torch.zeros(1, 3, 64, 96)).heatmaps.shape == (1, 20, 8, 12)


@pytest.mark.slow
def test_a_run_cut_in_two_goes_on_to_the_same_curve(held, tmp_path):
    loop.train(TINY, held, [], [], tmp_path / "whole")

    class _Kill(loop._Run):
        def share(self):
            if self.step == 2:
                signal.raise_signal(signal.SIGTERM)
            return super().share()

    # the signal arrives in the middle of the run; the default handler would end the process
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        run = _Kill(TINY, held, tmp_path / "cut", None, False, None, None)
        stop = Stop()
        with stop.armed():
            run.go(stop, loop.Report(TINY, tmp_path / "cut", [], []))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert _values(tmp_path / "cut")["step"] == 2
    loop.train(TINY, held, [], [], tmp_path / "cut", resume=True)
    a, b = (_values(tmp_path / n) for n in ("whole", "cut"))
    assert a["step"] == b["step"] == 4
    for key in ("net", "mean"):
        for name, value in a[key].items():
            torch.testing.assert_close(b[key][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_signal_saves_and_is_passed_on(held, tmp_path):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        endless = replace(TINY, steps=10_000)

        class _Report(loop.Report):
            pass

        run = loop._Run(endless, held, tmp_path, None, False, None, None)
        stop = Stop()
        with stop.armed():
            os.kill(os.getpid(), signal.SIGTERM)
            run.go(stop, _Report(endless, tmp_path, [], []))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]
    assert _values(tmp_path)["step"] < 10


@pytest.mark.slow
def test_the_clock_ends_a_run_annealed(held, tmp_path):
    recipe = replace(TINY, steps=None, minutes=0.02)
    loop.train(recipe, held, [], [], tmp_path)
    content = _values(tmp_path)
    assert content["used_s"] < 10
    assert content["optimizer"]["param_groups"][0]["lr"] < 0.6 * recipe.lr


def test_steps_warm_up_and_fall_to_zero():
    assert step_size(0.0, 1.0) == pytest.approx(0.01)
    assert step_size(0.03, 1.0) == pytest.approx(1.0)
    assert step_size(1.0, 1.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_losses_that_are_no_numbers_stop_the_run(held, tmp_path):
    with pytest.raises(ManyposeError, match="--lr"):
        loop.train(replace(TINY, lr=1e30, clip=1e30, steps=8), held, [], [], tmp_path)


@pytest.mark.slow
def test_training_starts_from_other_weights(held, tmp_path):
    loop.train(TINY, held, [], [], tmp_path / "a")
    one = replace(TINY, steps=1, lr=1e-12)
    loop.train(one, held, [], [], tmp_path / "b", init=tmp_path / "a" / "ema.pt")
    a = checkpoints.read(tmp_path / "a" / "ema.pt")["ema"]
    b = checkpoints.read(tmp_path / "b" / "ema.pt")["ema"]
    name = "head2d.1.weight"
    torch.testing.assert_close(a[name], b[name])
    narrow = replace(one, width=0.0625)
    with pytest.raises(WeightsError, match="--width"):
        loop.train(narrow, held, [], [], tmp_path / "c", init=tmp_path / "a" / "ema.pt")


@pytest.mark.slow
def test_parts_join_to_the_same_file(held, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PART_BYTES", 50_000)
    loop.train(replace(TINY, steps=1), held, [], [], tmp_path)
    whole = (tmp_path / "ema.pt").read_bytes()
    listing = json.loads((tmp_path / "ema.pt.parts.json").read_text())
    assert len(listing["parts"]) > 1
    (tmp_path / "ema.pt").unlink()
    path, digest = checkpoints.join(tmp_path)
    assert path.read_bytes() == whole
    assert digest == listing["sha256"]
    (tmp_path / listing["parts"][1]).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="damaged"):
        checkpoints.join(tmp_path)


def test_weights_that_are_none_are_a_clear_error(tmp_path):
    (tmp_path / "ema.pt").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoints.network(tmp_path / "ema.pt")
    torch.save({"other": 1}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="averaged"):
        checkpoints.network(tmp_path / "other.pt")


def test_the_losses_of_perfect_maps_are_zero_and_masks_hold(held):
    rng = torch.Generator().manual_seed(0)
    wanted = batches.make(held, 2, 96, 64, Augmentation(), rng).targets
    perfect = Maps(wanted.heatmaps, wanted.pafs, wanted.encodings)
    assert sum(losses(perfect, wanted)).item() == pytest.approx(0, abs=1e-9)
    unknown = wanted.heatmap_weight == 0
    noise = torch.where(unknown, 5.0, wanted.heatmaps)
    same = losses(Maps(noise, wanted.pafs, wanted.encodings), wanted)
    assert same.heatmaps.item() == pytest.approx(0, abs=1e-9)


def test_a_teacher_is_followed_where_there_is_no_label(held):
    rng = torch.Generator().manual_seed(0)
    batch = batches.make(held, 2, 96, 64, Augmentation(), rng)
    joints, limbs = distil._mapping()
    assert len(joints) == 18
    assert len(limbs) == 17  # all but those of hips, shoulders to hips, head top and pelvis
    heat = torch.zeros(2, 18, 8, 12)
    heat[0, 0, 2, 2] = 1
    pafs = torch.zeros(2, 2 * len(limbs), 8, 12)
    hints = distil.Hints(heat, tuple(k for _, k in joints), pafs, tuple(k for _, k, _ in limbs))
    maps = Maps(torch.zeros(2, 20, 8, 12, requires_grad=True), torch.zeros(2, 46, 8, 12),
                torch.zeros(2, 63, 8, 12))  # fmt: skip
    value = distil.loss(maps, hints, batch.targets)
    value.backward()
    free = batch.targets.heatmaps[0, 0, 2, 2] <= 0.1
    assert (maps.heatmaps.grad[0, 0, 2, 2] != 0) == bool(free)
    assert maps.heatmaps.grad[:, 18].abs().sum() == 0  # it has no head top to teach


def test_the_3d_head_can_learn_alone(held, tmp_path):
    loop.train(TINY, held, [], [], tmp_path / "a")
    recipe = replace(TINY, only_3d=True, optimizer="adamw")
    loop.train(recipe, held, [], [], tmp_path / "b", init=tmp_path / "a" / "ema.pt")
    before = checkpoints.read(tmp_path / "a" / "ema.pt")["ema"]
    after = _values(tmp_path / "b")["net"]
    changed = {k for k, v in before.items() if not torch.equal(v.float(), after[k].half().float())}
    assert changed
    assert all(k.startswith("head3d.") for k in changed)
