from dataclasses import replace

import numpy as np
import pytest

from manypose.models.train import scores
from manypose.models.train.figures import figures
from manypose.models.train.packs import photo
from manypose.pose.grouping import GroupingConfig
from manypose.pose.joints import INDEX_2D, MIRROR_2D, PARENT
from manypose.pose.records import NetworkOutput, Person2D
from manypose.pose.targets import draw

SIZE = (192, 128)
PHOTOS = figures(6, 240, 160)


def _spoilt(change):
    """Return a predictor: perfect maps of labels that were changed."""
    perfect = scores.of_labels(*SIZE)

    def predict(photos):
        return perfect([replace(p, joints_px=change(p.joints_px.copy())) for p in photos])

    return predict


def test_perfect_maps_score_high_and_are_the_ceiling():
    top = scores.ceiling(PHOTOS, *SIZE)
    assert top["AP"] > 0.9
    found = scores.evaluate(PHOTOS, scores.of_labels(*SIZE))
    assert found["AP"] == top["AP"]
    assert found["recall"] > 0.97
    assert found["missed"] < 0.2
    assert found["swaps"] < 0.05
    text = scores.line(found, top)
    assert text.startswith(f"AP {found['AP']:.3f}")
    assert f" of {top['AP']:.3f}" in text


def test_the_same_numbers_as_pycocotools():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)

    def shake(joints):
        joints[..., :2] += rng.normal(0, 3, joints[..., :2].shape)
        return joints

    results = [(d.photo, d.people) for d in scores.decode(PHOTOS, _spoilt(shake), GroupingConfig())]
    found = scores.coco_scores(results)
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    dets = []
    for n, (item, people) in enumerate(results):
        truth["images"].append({"id": n})
        truth["annotations"] += scores._annotations(item, n, len(truth["annotations"]) + 1)
        dets += [scores._detection(p, n) for p in people]
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(dets), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    for name, n in (("AP", 0), ("AP50", 1), ("AR", 5)):
        assert found[name] == pytest.approx(float(judge.stats[n]), abs=1e-9)
    assert 0 < found["AP"] < 0.95
    assert found["ap_error"] > 0


def test_exchanged_sides_are_told():
    found = scores.evaluate(PHOTOS, _spoilt(lambda j: j[:, list(MIRROR_2D)]))
    assert found["swaps"] > 0.5
    assert found["AP"] < 0.5


def test_ghosts_and_invented_people_are_counted():
    people = PHOTOS[0].joints_px
    empty = photo(PHOTOS[0].picture, "e", "people_free")

    def ghosts(photos):
        return scores.of_labels(*SIZE)([PHOTOS[0] for _ in photos])

    assert scores.evaluate([empty], ghosts)["ghosts"] == len(people)
    ignored = replace(empty, ignore_px=np.array([[0, 0, 240, 160]], np.float32))
    both = [replace(PHOTOS[0], ignore_px=ignored.ignore_px), PHOTOS[1]]
    found = scores.evaluate(both, ghosts)
    assert found["invented"] <= len(people) / 2


def test_single_athletes_get_pck():
    athletes = [replace(p, source="lspet") for p in PHOTOS if len(p.joints_px) == 1]
    assert athletes
    found = scores.evaluate(athletes, scores.of_labels(*SIZE))
    assert found["pck"] > 0.95
    assert "AP" not in found


def _with_bones(item, output):
    """Return perfect maps with the encoding as well."""
    px = scores._to_cells(item.joints_px[..., :2], output.to_image) * 8 + 3.5
    joints = np.concatenate([px, item.joints_px[..., 2:]], -1)
    bones = item.joints_m - item.joints_m[:, list(PARENT)]
    encodings = draw(joints, SIZE[1], SIZE[0], bones)[2]
    return NetworkOutput(output.heatmaps, output.pafs, encodings, output.to_image)


def test_bones_are_compared_with_a_constant():
    rng = np.random.default_rng(0)
    items = [
        replace(p, joints_m=rng.normal(0, 0.3, (len(p.joints_px), 21, 3)).astype(np.float32))
        for p in PHOTOS
    ]

    def predict(photos):
        return [_with_bones(p, o) for p, o in zip(photos, scores.of_labels(*SIZE)(photos))]

    found = scores.evaluate(items, predict)
    # neighbours overwrite a cell now and then
    assert found["bone_mm"] < 0.3 * found["bone_constant_mm"]
    assert found["bone_constant_mm"] > 100
    assert found["bone_seen_mm"] < 0.3 * found["bone_seen_constant_mm"]


def test_oks_and_matching_by_hand():
    joints = np.zeros((20, 3))
    joints[:17, 2] = 2
    at = np.zeros((20, 2))
    person = Person2D(at, np.ones(20), 0.9)
    assert scores.oks(person, joints, 100.0) == pytest.approx(1)
    sigma = 0.026
    shifted = at.copy()
    shifted[INDEX_2D["nose"], 0] = 2 * sigma * 10
    found = scores.oks(Person2D(shifted, np.ones(20), 0.9), joints, 100.0)
    assert found == pytest.approx((16 + np.exp(-0.5)) / 17)
    item = photo(b"", "a", "t", joints[None], box_px=np.array([[0, 0, 10, 19.0]]))
    assert scores.match([person, person], item, 0.5) == [(0, 0, pytest.approx(1))]


def test_a_person_made_of_two_is_noticed():
    item = next(p for p in PHOTOS if len(p.joints_px) > 1)
    first, second = item.joints_px[:2, :, :2].astype(float)
    lower = np.arange(len(first)) >= INDEX_2D["l_hip"]
    one = np.where(item.joints_px[0, :, 2:] > 0, first, np.nan)
    mixed = np.where(lower[:, None], second, first)
    sure = np.ones(len(first))
    assert scores._is_two(Person2D(mixed, sure, 1.0), item)
    assert not scores._is_two(Person2D(one, sure, 1.0), item)
    alone = next(p for p in PHOTOS if len(p.joints_px) == 1)
    assert not scores._is_two(Person2D(mixed, sure, 1.0), alone)
