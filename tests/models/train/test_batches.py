from dataclasses import replace

import numpy as np
import pytest
import torch

from manypose.errors import SourceError
from manypose.models.train import batches, store
from manypose.models.train.batches import PLAIN, Augmentation
from manypose.models.train.packs import photo
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS, JOINTS_2D, MIRROR_2D

K, J = len(JOINTS_2D), len(JOINTS)
L_WRIST, R_WRIST = INDEX_2D["l_wrist"], INDEX_2D["r_wrist"]
NO_COLOUR = Augmentation(colour=False, person_px_min=0)


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _blob(rng, width=300, height=220, sigma=5.0):
    """A picture with a bright blob exactly at the left wrist."""
    at = rng.uniform(60, [width - 60, height - 60])
    y, x = np.mgrid[0:height, 0:width]
    bright = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * sigma**2))
    image = np.repeat(bright[..., None].round().astype(np.uint8), 3, 2)
    joints = np.zeros((1, K, 3), np.float32)
    joints[0, L_WRIST] = (*at, 2)
    box = np.array([[at[0] - 40, at[1] - 50, 80, 100]], np.float32)
    return photo(image, "blob", "test", joints, box_px=box)


@pytest.mark.slow
def test_a_painted_blob_lies_at_the_label_after_the_warp_plain_and_mirrored():
    rng, g = np.random.default_rng(0), _rng()
    held = store.load([_blob(rng) for _ in range(16)], 512)
    errors = {False: [], True: []}
    for _ in range(8):
        batch = batches.make(held, 8, 320, 192, NO_COLOUR, g)
        lay, people = batch.layout, batch.people
        for n in range(len(people.picture)):
            b, r = int(people.picture[n]), int(people.region[n])
            mirrored = bool(lay.mirrored[b, r])
            joint = R_WRIST if mirrored else L_WRIST
            assert people.visibility[n, joint] == 2
            assert people.visibility[n, MIRROR_2D[joint]] == 0
            x, y = people.joints_px[n, joint].tolist()
            left, top, right, bottom = lay.edge[b, r].tolist()
            reach = 3.2 * 5 * float(lay.scale[b, r])
            if reach < 4 or not (left + reach < x < right - reach - 1):
                continue
            if not (top + reach < y < bottom - reach - 1):
                continue
            x0, y0 = int(x - reach), int(y - reach)
            cut = batch.images[b, 0, y0 : int(y + reach) + 2, x0 : int(x + reach) + 2].double()
            cut = torch.where(cut < 0.02, 0.0, cut)
            if float(cut.max()) < 0.5:
                continue
            gy, gx = torch.meshgrid(*(torch.arange(s) for s in cut.shape), indexing="ij")
            found = [float((cut * v).sum() / cut.sum()) + o for v, o in ((gx, x0), (gy, y0))]
            errors[mirrored].append(np.hypot(found[0] - x, found[1] - y))
    for found in errors.values():
        assert len(found) > 20
        assert max(found) < 0.05


def test_plain_pictures_are_the_letterbox_of_the_product():
    from manypose.models.preprocess import letterbox

    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(0, 255, (12, 20, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    held = store.load([photo(image, "a", "test")], 512)
    batch = batches.make(held, 1, 320, 192, PLAIN, _rng())
    wanted, to_image = letterbox(image, 192, 320)
    found = (batch.images[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(found - wanted)[2:-2, 2:-2].mean() < 1.0
    # cell centres lead to the same place of the photo
    cell = np.array([7, 5, 1.0])
    px = torch.tensor([7 * 8 + 3.5]), torch.tensor([5 * 8 + 3.5])
    at = batches._to_photo(batch.layout, *px, torch.tensor([0]))
    np.testing.assert_allclose([float(v) for v in at], to_image @ cell, atol=1e-3)


def _grey(joints=None, **known):
    return photo(np.full((160, 256, 3), 90, np.uint8), "g", "test", joints, **known)


def _standing(x=100.0):
    joints = np.zeros((1, K, 3), np.float32)
    joints[0, :, 0] = x
    joints[0, :, 1] = np.linspace(40, 120, K)
    joints[0, :, 2] = 2
    return joints, np.array([[x - 20, 30, 40, 100]], np.float32)


def _plain(item):
    held = store.load([item], 512)
    return batches.make(held, 1, 256, 160, PLAIN, _rng()).targets


def test_a_joint_without_label_is_unknown_in_the_persons_box_only():
    joints, box = _standing()
    joints[0, L_WRIST] = 0
    found = _plain(_grey(joints, box_px=box))
    weight = found.heatmap_weight[0]
    assert weight[L_WRIST, 8, 12] == 0  # in the box
    assert weight[L_WRIST, 8, 28] == 1  # far from it
    assert weight[R_WRIST, 8, 14] == 1  # another joint


def test_boxes_out_of_reach_and_unlabelled_joints_are_unknown():
    known = np.ones(K, bool)
    known[INDEX_2D["nose"]] = False
    item = _grey(
        ignore_px=np.array([[0, 0, 64, 64]], np.float32),
        reach_px=np.array([0, 0, 192, 160], np.float32),
        known=known,
    )
    weight = _plain(item).heatmap_weight[0]
    assert weight[L_WRIST, 2, 2] == 0  # ignored
    assert weight[L_WRIST, 2, 28] == 0  # beyond the reach
    assert weight[L_WRIST, 15, 15] == 1
    assert weight[INDEX_2D["nose"]].max() == 0
    paf_weight = _plain(item).paf_weight[0]
    assert paf_weight[0].max() == 0  # neck to nose
    assert paf_weight[8, 15, 15] == 1


def test_without_masks_every_cell_of_every_map_counts():
    joints, box = _standing()
    joints[0, L_WRIST] = 0
    item = _grey(joints, box_px=box, ignore_px=np.array([[0, 0, 64, 64]], np.float32))
    held = store.load([item], 512)
    how = replace(PLAIN, masks=False)
    open_, masked = (batches.make(held, 1, 256, 160, h, _rng()).targets for h in (how, PLAIN))
    assert masked.heatmap_weight.min() == masked.paf_weight.min() == 0
    assert open_.heatmap_weight.min() == open_.paf_weight.min() == 1
    assert torch.equal(open_.heatmaps, masked.heatmaps)


def test_without_canvas_there_is_one_photo_in_every_picture():
    held = store.load([_grey()], 512)
    used = {}
    for canvas in (True, False):
        lay = batches.make(held, 24, 256, 160, Augmentation(canvas=canvas), _rng()).layout
        used[canvas] = (lay.edge[..., 2:] > lay.edge[..., :2]).all(-1).sum(1)
    assert used[False].max() == 1
    assert used[True].max() > 1


def test_the_border_round_a_photo_is_known_to_be_empty():
    item = _grey(reach_px=np.array([100, 0, 20, 160], np.float32))
    held = store.load([replace(item, picture=item.picture[:, :128])], 512)
    weight = batches.make(held, 1, 256, 160, PLAIN, _rng()).targets.heatmap_weight[0]
    assert weight[:, 10, 0].min() == 1
    assert weight[:, 10, 10].max() == 0


def test_people_too_small_to_see_are_unknown():
    joints, box = _standing()
    box[0, 2:] = 10
    found = _plain(_grey(joints, box_px=box))
    assert found.heatmaps.max() == 0
    assert found.heatmap_weight[0, L_WRIST, 4, 10] == 0
    assert found.heatmap_weight[0, L_WRIST, 15, 28] == 1


def test_mirroring_exchanges_sides_and_turns_x_of_the_3d():
    joints, box = _standing()
    joints[0, R_WRIST, 2] = 0
    joints_m = np.zeros((1, J, 3), np.float32)
    joints_m[0, INDEX["l_wrist"]] = (0.1, 0.2, 0.3)
    weight = np.zeros((1, J), np.float32)
    weight[0, INDEX["l_wrist"]] = 1
    item = _grey(joints, box_px=box, joints_m=joints_m, weight_3d=weight)
    held = store.load([item], 512)
    how = replace(PLAIN, mirror=True)
    batch = batches.make(held, 24, 256, 160, how, _rng())
    seen = set()
    for n, b in enumerate(batch.people.picture.tolist()):
        mirrored = bool(batch.layout.mirrored[b, 0])
        name, x = ("r_wrist", -0.1) if mirrored else ("l_wrist", 0.1)
        assert batch.people.visibility[n, INDEX_2D[name]] == 2
        assert batch.people.weight_3d[n, INDEX[name]] == 1
        bone = batch.people.bones_m[n, INDEX[name]]
        torch.testing.assert_close(bone, torch.tensor([x, 0.2, 0.3]))
        at = batch.people.joints_px[n, INDEX_2D[name], 0]
        assert at == pytest.approx(255 - 100 if mirrored else 100, abs=1e-3)
        seen.add(mirrored)
    assert seen == {False, True}


def test_a_photo_with_more_people_than_kept_hides_the_smallest():
    joints, box = _standing()
    many = np.repeat(joints, 20, 0)
    boxes = np.repeat(box, 20, 0)
    boxes[:, 3] += np.arange(20)
    held = store.load([_grey(many, box_px=boxes)], 512)
    assert held.count[0] == store.PEOPLE
    assert (held.ignore_px[0, :, 2] > 0).sum() == 4


def test_the_same_seed_gives_the_same_batch():
    rng = np.random.default_rng(0)
    held = store.load([_blob(rng) for _ in range(4)], 512)
    a, b = (batches.make(held, 4, 128, 96, Augmentation(), _rng(5)) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.targets.heatmaps, b.targets.heatmaps)
    assert a.images.min() >= 0
    assert a.images.max() <= 1


def test_no_photos_is_a_clear_error():
    with pytest.raises(SourceError, match="--data"):
        store.load([], 512)
