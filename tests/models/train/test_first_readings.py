import numpy as np
import pytest
import torch

from manypose.app.main import main
from manypose.models.train import packs
from manypose.models.train.figures import figures
from manypose.models.train.packs import photo
from manypose.models.train.portraits import batch, first, patches
from manypose.models.train.portraits.batch import Variation
from manypose.models.train.portraits.clues import Faults
from manypose.pose.joints import JOINTS_2D
from manypose.pose.records import Person2D
from tests.pose.test_portraits import standing

K = len(JOINTS_2D)


def at(x, y):
    """Return joints (K, 3) of somebody 100 px tall, whose head is at a point."""
    person = standing(x, y, 100.0)
    flags = 2.0 * (person.confidence > 0)
    return np.column_stack([np.nan_to_num(person.joints_px), flags]).astype(np.float32)


def read(joints, off=2.0, sure=0.7):
    there = joints[:, 2] > 0
    return Person2D(np.where(there[:, None], joints[:, :2] + off, np.nan), sure * there, 0.6)


def two(source="test"):
    joints = np.stack([at(80, 60), at(250, 70)])
    some = joints[:, joints[0, :, 2] > 0, :2]
    low, high = some.min(1), some.max(1)
    boxes = np.concatenate([low, high - low], 1)
    image = np.random.default_rng(0).integers(0, 255, (240, 400, 3), np.uint8)
    return photo(image, "two", source, joints, box_px=boxes)


def test_each_labelled_person_has_the_reading_that_is_theirs():
    item = two()
    nobody = read(at(350, 110))
    people = [nobody, read(item.joints_px[1]), read(item.joints_px[0])]
    assert first.of_people(item, people) == [2, 1]
    assert first.of_people(item, [nobody]) == [None, None]
    assert first.of_people(item, []) == [None, None]


def test_only_where_all_people_are_labelled_is_somebody_invented():
    people = [read(two().joints_px[1]), read(at(350, 110))]
    assert first.of_nobody(two("coco"), people) == []
    assert first.of_nobody(two("render"), people) == [1]
    empty = photo(np.zeros((100, 100, 3), np.uint8), "none", "test")
    assert first.of_nobody(empty, people) == [0, 1]


def test_patches_keep_readings_and_batches_tell_them(tmp_path):
    item = two("render")
    ghost = read(at(350, 110), sure=0.5)
    people = [read(item.joints_px[0]), ghost, read(item.joints_px[1], sure=0.9)]
    folder = tmp_path / "patches"
    assert patches.write(folder, [(None, [item])], find=lambda photo: people) == 3
    held = patches.read(folder)
    np.testing.assert_allclose(held.read_px[:, 0, :, 2].max(1), [0.7, 0.9, 0.5], atol=1e-3)
    np.testing.assert_allclose(held.read_px[0, 1, :, 2].max(), 0.9, atol=1e-3)  # the nearest other
    assert (held.joints_px[2] == 0).all()
    there = held.joints_px[0, :, 2] > 0
    off = (held.read_px[:2, 0] - held.joints_px[:2])[:, there, :2]
    assert np.ptp(off, axis=1).max() < 0.01
    how = Faults(real=1, again_px=0, forgotten=0)
    drawn = batch.Drawer(held, torch.device("cpu"), torch.Generator().manual_seed(0)).take(
        60, Variation(half=0, colour=False, moved=0, larger=(0, 0), turned_share=0, faults=how)
    )
    heights = drawn.clues[:, :K].amax((1, 2, 3))
    nobody = drawn.heatmaps.amax((1, 2, 3)) == 0
    assert nobody.any()
    assert ((heights[nobody] - 0.5).abs() < 0.05).all()
    told, wanted = (v[~nobody, :K][:, there] for v in (drawn.clues, drawn.heatmaps))
    alike = torch.cosine_similarity(told.flatten(2), wanted.flatten(2), 2)
    assert alike.median() > 0.85  # what was read lies two px beside the truth


@pytest.mark.slow
def test_the_command_learns_beside_the_readings_of_a_network(tmp_path):
    packs.write_pack(iter(figures(6, 300, 200)), tmp_path / "pack")
    words = ["train", "portraits", "--data", f"pack:{tmp_path / 'pack'}", "--out",
             str(tmp_path / "run"), "--width", "0.25", "--batch", "4", "--steps", "2"]  # fmt: skip
    assert main([*words, "--reader", "light", "--threads", "1"]) == 0
    held = patches.read(tmp_path / "run" / "patches")
    assert held.read_px.shape == (len(held), 1 + first.OTHERS, K, 3)
    assert main([*words[:-1], "3", "--resume", "--reader", "nobody"]) == 0  # they are cut out
    assert main(["train", "portraits", "--data", words[3], "--out", str(tmp_path / "other"),
                 "--reader", "nobody"]) == 5  # fmt: skip
