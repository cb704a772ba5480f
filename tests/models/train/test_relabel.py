from dataclasses import replace

import numpy as np
import pytest
import torch

from manypose.models.heads import Maps, StageOne
from manypose.models.preprocess import letterbox
from manypose.models.train import packs, relabel, scores
from manypose.models.train.distil import Hints
from manypose.models.train.figures import figures
from manypose.models.train.relabel import RelabelConfig
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import MIRROR_2D
from manypose.pose.records import Person2D

PHOTOS = figures(4, 240, 160)


def _found(item, size=(384, 256), shift=0.0):
    (output,) = scores.of_labels(*size)([item])
    people = group(output, GroupingConfig())
    return [Person2D(p.joints_px + shift, p.confidence, p.score) for p in people]


def _bare(item):
    """The photo without any label."""
    return packs.photo(item.picture, item.key, "folder", known=np.zeros(20, bool))


class _Seer(StageOne):
    """Answers perfect maps of a known photo for its letter-boxed picture and the mirror image."""

    def __init__(self, item):
        super().__init__("selecsls42", 0.125)
        self.item = item

    def forward(self, x):
        h, w = x.shape[-2:]
        outs = []
        for n in range(len(x)):
            item = self.item
            boxed, _ = letterbox(item.picture, h, w)
            if np.abs(x[n].permute(1, 2, 0).numpy() * 255 - boxed).max() > 1:
                joints = item.joints_px[:, list(MIRROR_2D)].copy()
                joints[..., 0] = item.picture.shape[1] - 1 - joints[..., 0]
                item = replace(item, joints_px=joints)
            outs.append(scores.of_labels(w, h)([item])[0])
        heat, pafs = (
            torch.from_numpy(np.stack([getattr(o, k) for o in outs])).float()
            for k in ("heatmaps", "pafs")
        )
        return Maps(heat, pafs, torch.zeros(len(x), 63, h // 8, w // 8))


def test_averaging_over_sizes_and_mirror_images_keeps_people_in_place():
    item = PHOTOS[0]
    output = relabel.averaged(_Seer(item), item.picture, ((384, 256), (240, 160), (512, 320)))
    people = group(output, GroupingConfig())
    pairs = scores.match(people, item, 0.5)
    assert len(pairs) == len(item.joints_px)
    assert all(oks > 0.9 for _, _, oks in pairs)
    for i, k, _ in pairs:
        seen = (people[i].confidence > 0) & (item.joints_px[k, :, 2] > 0)
        off = people[i].joints_px[seen] - item.joints_px[k, seen, :2]
        assert np.abs(off.mean(0)).max() < 0.5  # no shift to one side


def test_people_on_whom_two_opinions_agree_become_labels():
    item = PHOTOS[1]
    opinions = [_found(item), _found(item, shift=1.0)]
    fresh, done = relabel.merge(_bare(item), opinions, RelabelConfig(alone_min=1.1))
    assert done["people agreed on"] == len(item.joints_px) == len(fresh.joints_px)
    assert set(np.unique(fresh.joints_px[..., 2])) <= {0, 1}
    assert fresh.known.all()
    assert fresh.reach_px[2] < 1e5  # only their surroundings are known


def test_people_of_one_opinion_need_a_high_score_and_are_masked_otherwise():
    item = PHOTOS[1]
    people = _found(item)
    alone, done = relabel.merge(_bare(item), [people, []], RelabelConfig(alone_min=0.5))
    assert done["people added alone"] == len(alone.joints_px) == len(people)
    masked, done = relabel.merge(_bare(item), [people, []], RelabelConfig(alone_min=1.1))
    assert len(masked.joints_px) == 0
    assert len(masked.ignore_px) == done["people in doubt"] == len(people)


def test_hand_labels_stay_and_gaps_are_filled():
    item = PHOTOS[0]
    joints = item.joints_px.copy()
    joints[0, 9] = 0
    fresh, done = relabel.merge(replace(item, joints_px=joints), [_found(item)], RelabelConfig())
    np.testing.assert_array_equal(fresh.joints_px[0, 5], item.joints_px[0, 5])
    assert fresh.joints_px[0, 9, 2] == 1
    assert np.abs(fresh.joints_px[0, 9, :2] - item.joints_px[0, 9, :2]).max() < 3
    assert len(fresh.joints_px) == len(item.joints_px)
    assert done["joints filled in"] >= 1


def test_a_teacher_speaks_through_the_same_decoder():
    item = PHOTOS[2]
    (output,) = scores.of_labels(384, 256)([item])

    def teacher(_images):
        return Hints(
            torch.from_numpy(output.heatmaps[:17])[None], tuple(range(17)),
            torch.from_numpy(output.pafs).float()[None], tuple(range(23)),
        )  # fmt: skip

    people = group(relabel.of_teacher(teacher, item.picture, (384, 256)), GroupingConfig())
    assert len(scores.match(people, item, 0.5)) == len(item.joints_px)


@pytest.mark.slow
def test_relabelling_writes_a_pack(tmp_path):
    source = (_bare(p) for p in PHOTOS[:1])
    config = RelabelConfig(sizes=((240, 160),), alone_min=0.3)
    fresh = relabel.relabelled(source, _Seer(PHOTOS[0]), [], config)
    packs.write_pack(fresh, tmp_path)
    (item,) = packs.read_pack(tmp_path)
    assert len(item.joints_px) == len(PHOTOS[0].joints_px)
