from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manypose.pose.joints import OKS_SIGMAS
from manypose.pose.scores_2d import coco_ap, oks


def people(count: int, per_image: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = [{"id": i, "width": 640, "height": 480} for i in range(count)]
    annotations = []
    for i in range(count):
        for n in range(per_image):
            points = np.c_[rng.uniform(100, 200, (17, 2)) + np.array([200 * n, 0]), np.full(17, 2)]
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0,
                "area": 10000.0, "bbox": [100.0 + 200 * n, 100.0, 100.0, 100.0],
                "num_keypoints": 17, "keypoints": points.ravel().tolist(),
            })  # fmt: skip
    return {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]
    }  # fmt: skip


def results(truth: dict[str, Any], shift: float = 0) -> list[dict[str, Any]]:
    out = []
    for a in truth["annotations"]:
        points = np.reshape(a["keypoints"], (17, 3)) + np.array([shift, 0, 0])
        out.append({
            "image_id": a["image_id"], "category_id": 1, "score": 0.9,
            "keypoints": points.ravel().tolist(),
        })  # fmt: skip
    return out


def test_oks_of_known_distances() -> None:
    truth = np.zeros((1, 20, 3))
    truth[0, :, 2] = 1
    area = np.array([10000.0])
    assert oks(truth[..., :2], truth, area).tolist() == [[1]]
    # a distance of 2 sigma * scale has exp(-1/2)
    away = np.zeros((1, 20, 2))
    away[0, :, 0] = 2 * OKS_SIGMAS * 100
    assert oks(away, truth, area)[0, 0] == pytest.approx(np.exp(-0.5))
    away[0, :10] = np.nan
    assert oks(away, truth, area)[0, 0] == pytest.approx(np.exp(-0.5) / 2)
    truth[..., 2] = 0
    assert np.isnan(oks(away, truth, area)).all()


def test_perfect_results_have_ap_one_and_far_ones_zero() -> None:
    truth = people(6, 2)
    perfect = coco_ap(results(truth), truth, bootstrap=20)
    assert perfect["AP"] == pytest.approx(1)
    assert perfect["AP_se"] == pytest.approx(0)
    assert perfect["people"] == 12
    assert coco_ap(results(truth, 500), truth)["AP"] == 0
    assert coco_ap([], truth, bootstrap=5)["AP"] == 0


def test_a_found_half_has_half_the_recall_and_a_spread() -> None:
    truth = people(20)
    half = [r for r in results(truth) if r["image_id"] % 2]
    scores = coco_ap(half, truth, bootstrap=200)
    assert scores["AR"] == pytest.approx(0.5)
    assert scores["AP"] == pytest.approx(51 / 101)
    # a share of 20 pictures with p = 1/2 has a standard error of 0.11
    assert 0.08 < scores["AP_se"] < 0.15


def test_the_bootstrap_counts_as_coco_does() -> None:
    from manypose.pose import scores_2d

    rng = np.random.default_rng(1)
    truth = people(30, 2)
    noisy = results(truth)
    for r in noisy:
        points = np.reshape(r["keypoints"], (17, 3))
        points[:, :2] += rng.normal(0, rng.uniform(1, 12), (17, 2))
        r["keypoints"], r["score"] = points.ravel().tolist(), float(rng.uniform())
    noisy += [
        dict(r, score=float(rng.uniform()), image_id=(r["image_id"] + 1) % 30) for r in noisy[:9]
    ]
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores_2d, "_bootstrap", lambda images, *_: (seen.extend(images), (0, 0))[1])
        scores = coco_ap(noisy, truth, bootstrap=1)
    own = scores_2d._average_precision([scores_2d._matches(p) for p in seen])
    assert 0.2 < scores["AP"] < 0.95
    assert own == pytest.approx((scores["AP"], scores["AP50"]), abs=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    truth = people(2)
    wrong = results(truth)
    wrong[1]["keypoints"][4] = bad
    with pytest.raises(ValueError, match="result 1: not finite"):
        coco_ap(wrong, truth)
    wrong = results(truth)
    wrong[0]["score"] = bad
    with pytest.raises(ValueError, match="result 0: not finite"):
        coco_ap(wrong, truth)


def test_malformed_results_are_named() -> None:
    truth = people(2)
    short = results(truth)
    short[0]["keypoints"] = [1.0] * 50
    with pytest.raises(ValueError, match="51 numbers"):
        coco_ap(short, truth)
    stray = results(truth)
    stray[0]["image_id"] = 99
    with pytest.raises(ValueError, match="image_id 99"):
        coco_ap(stray, truth)
    text = results(truth)
    text[0]["score"] = "high"
    with pytest.raises(ValueError, match="result 0"):
        coco_ap(text, truth)


def test_results_are_not_changed() -> None:
    truth = people(2)
    given = results(truth)
    keys = [set(r) for r in given]
    coco_ap(given, truth)
    assert [set(r) for r in given] == keys
