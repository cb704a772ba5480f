import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from manypose.errors import OutputError, SourceError
from manypose.models.train import batches, distil, loop, mirror, pool, store
from manypose.models.train.batches import Augmentation
from manypose.models.train.figures import figures
from manypose.models.train.recipe import Part, Recipe
from manypose.pose.joints import INDEX_2D, LIMBS, MIRROR_2D, MIRROR_LIMBS

PLAIN = batches.PLAIN
W, H = 96, 64


@pytest.fixture(scope="module")
def held():
    return store.load(figures(4, W, H), W)


def _rng():
    return torch.Generator().manual_seed(3)


def _teacher(images):
    """Answer maps that tell the picture apart, as a real teacher's would."""
    mean = images.mean((1, 2, 3)).reshape(-1, 1, 1, 1)
    ones = torch.ones(len(images), 1, H // 8, W // 8)
    return distil.Hints(
        (mean * ones).repeat(1, 3, 1, 1), (0, 5, 6), (-mean * ones).repeat(1, 2, 1, 1), (0,),
        torch.cat([3 * mean * ones, mean * ones], 1),
    )  # fmt: skip


def test_a_pool_gives_back_the_composed_pictures(held, tmp_path):
    pool.write(tmp_path / "p", held, 6, W, H, Augmentation(), _rng(), _teacher)
    assert not (tmp_path / "p.part").exists()
    made = batches.compose(held, 6, W, H, Augmentation(), _rng())
    given = pool.Pool([tmp_path / "p"], torch.device("cpu"))
    lesson = given.take(6, PLAIN, _rng())
    wanted = batches.drawn(made)
    means = lesson.batch.images.mean((1, 2, 3))
    order = [int((means - m).abs().argmin()) for m in made.images.mean((1, 2, 3))]
    assert sorted(order) == list(range(6))
    assert (lesson.batch.images[order] - made.images).abs().max() <= 0.5 / 255 + 1e-6
    for name in ("heatmaps", "heatmap_weight", "pafs", "paf_weight", "encodings"):
        torch.testing.assert_close(getattr(lesson.batch.targets, name)[order],
                                   getattr(wanted, name))  # fmt: skip
    hints = lesson.hints
    assert hints is not None
    assert lesson.layer is not None
    assert hints.joints == (0, 5, 6)
    assert hints.limbs == (0,)
    mean = made.images.mean((1, 2, 3))
    assert (hints.heatmaps[order, 0, 0, 0] - mean).abs().max() < 0.011
    assert (hints.pafs[order, 0, 0, 0] + mean).abs().max() < 0.011


def test_every_picture_is_shown_once_before_any_is_shown_again(held, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        rng = torch.Generator().manual_seed(seed)
        pool.write(tmp_path / name, held, 3, W, H, Augmentation(), rng)
    given = pool.Pool([tmp_path / "a", tmp_path / "b"], torch.device("cpu"))
    assert len(given) == 6
    seen = [float(given.take(1, PLAIN, _rng()).batch.images.mean()) for _ in range(12)]
    assert sorted(seen[:6]) == pytest.approx(sorted(seen[6:]))
    assert len({round(s, 5) for s in seen}) == 6
    assert given.take(1, PLAIN, _rng()).hints is None
    whole = given.take(3, replace(PLAIN, masks=False), _rng()).batch.targets
    assert whole.heatmap_weight.min() == whole.paf_weight.min() == 1


def test_ctrl_c_keeps_the_pictures_made_so_far(held, tmp_path):
    def teacher(images):
        signal.raise_signal(signal.SIGINT)
        return _teacher(images)

    with pytest.raises(KeyboardInterrupt):
        pool.write(tmp_path / "p", held, 40, W, H, PLAIN, _rng(), teacher)
    kept = pool.Pool([tmp_path / "p"], torch.device("cpu"))
    assert len(kept) == 8
    assert kept.take(8, PLAIN, _rng()).batch.images.mean((1, 2, 3)).min() > 0
    assert not list(tmp_path.glob("*.part"))


def test_training_on_a_pool_learns_the_teachers_layer_and_goes_on(held, tmp_path):
    pool.write(tmp_path / "p", held, 4, W, H, PLAIN, _rng(), _teacher)
    given = pool.Pool([tmp_path / "p"], torch.device("cpu"))
    recipe = Recipe(
        parts=(Part(1.0, W, H, 2),), minutes=1, width=0.125, backbone="selecsls42", steps=3,
        how=PLAIN, score_every_s=1e9, save_every_s=1e9,
    )  # fmt: skip
    loop.train(recipe, None, [], [], tmp_path / "run", pools=[given])
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    row = dict(zip(table[0].split(","), table[-1].split(",")))
    assert float(row["layer"]) > 0
    assert float(row["teacher"]) > 0
    loop.train(recipe, None, [], [], tmp_path / "run", resume=True, pools=[given])


def test_what_is_no_pool_says_so(held, tmp_path):
    with pytest.raises(SourceError, match="manypose train prepare"):
        pool.Pool([tmp_path], torch.device("cpu"))
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OutputError, match="not empty"):
        pool.write(tmp_path, held, 1, W, H, PLAIN, _rng())
    assert not np.any([p.suffix == ".part" for p in tmp_path.iterdir()])


def test_mirrored_pictures_have_mirrored_labels(held):
    made = batches.compose(held, 4, W, H, PLAIN, _rng())
    some = torch.tensor([True, False, True, False])
    turned = mirror.scenes(made, some)
    plain, other = batches.drawn(made), batches.drawn(turned)
    assert torch.equal(turned.images[0], made.images[0].flip(-1))
    for row in (0, 2):
        torch.testing.assert_close(
            other.heatmaps[row], plain.heatmaps[row][list(MIRROR_2D)].flip(-1), atol=1e-5, rtol=0
        )
        fields = plain.pafs[row].reshape(-1, 2, H // 8, W // 8)[list(MIRROR_LIMBS)].flip(-1)
        fields = fields * torch.tensor([-1.0, 1.0]).reshape(2, 1, 1)
        far = (other.pafs[row].reshape(fields.shape) - fields).abs().amax((1, 2, 3))
        # a limb along a border of cells may take the cells of the other side
        assert (far < 1e-4).float().mean() > 0.8
    for row in (1, 3):
        assert torch.equal(other.heatmaps[row], plain.heatmaps[row])
    back = mirror.scenes(turned, some)
    assert torch.equal(back.images, made.images)
    torch.testing.assert_close(back.people.joints_px, made.people.joints_px)
    bones = torch.randn(*made.people.bones_m.shape, generator=_rng())
    one = replace(made, people=replace(made.people, bones_m=bones))
    twice = mirror.scenes(mirror.scenes(one, some), some)
    torch.testing.assert_close(twice.people.bones_m, bones)


def test_mirrored_hints_go_with_their_joints_and_limbs():
    rng = _rng()
    knees = (INDEX_2D["l_knee"], INDEX_2D["r_knee"], INDEX_2D["nose"])
    thighs = tuple(LIMBS.index((INDEX_2D[f"{s}_hip"], INDEX_2D[f"{s}_knee"])) for s in ("l", "r"))
    given = distil.Hints(
        torch.rand(2, 3, 2, 4, generator=rng), knees, torch.rand(2, 4, 2, 4, generator=rng), thighs
    )
    turned = mirror.hints(given, torch.tensor([True, False]))
    assert torch.equal(turned.heatmaps[0, 0], given.heatmaps[0, 1].flip(-1))
    assert torch.equal(turned.heatmaps[0, 2], given.heatmaps[0, 2].flip(-1))
    assert torch.equal(turned.pafs[0, 0], -given.pafs[0, 2].flip(-1))
    assert torch.equal(turned.pafs[0, 1], given.pafs[0, 3].flip(-1))
    assert torch.equal(turned.pafs[1], given.pafs[1])


def test_a_teacher_shown_larger_pictures_keeps_the_strongest_answers():
    fine = torch.zeros(1, 1, 4, 4)
    fine[0, 0, 1, 2] = 0.9
    field = torch.zeros(1, 2, 4, 4)
    field[0, :, 2, 1] = torch.tensor([-0.6, 0.8])
    field[0, 0, 3, 0] = 0.5

    def teacher(images):
        assert images.shape == (1, 3, 32, 32)
        return distil.Hints(fine, (0,), field, (0,), torch.arange(16.0).reshape(1, 1, 4, 4))

    hints = distil.enlarged(teacher, 2)(torch.zeros(1, 3, 16, 16))
    assert hints.heatmaps.tolist() == [[[[0, pytest.approx(0.9)], [0, 0]]]]
    torch.testing.assert_close(hints.pafs[0, :, 1, 0], torch.tensor([-0.6, 0.8]))
    assert hints.layer is not None
    assert hints.layer.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert distil.enlarged(teacher, 1) is teacher
