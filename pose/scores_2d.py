"""How good 2D results are: OKS and COCO's average precision with its standard error.

COCO AP lives here and not in ``app`` so that the trainer can ask for it too. The counting is
pycocotools' own; this module guards its input and adds the bootstrap over pictures.
Source: COCO keypoint evaluation (cocodataset.org), Efron 1979 (bootstrap).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import COCO_NAMES, OKS_SIGMAS

Float = NDArray[np.floating[Any]]

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_PER_IMAGE = 20  # detections of one picture that COCO counts


def oks(found: Float, truth: Float, area: Float, sigmas: Float = OKS_SIGMAS) -> Float:
    """Return the object keypoint similarity (N, M) in [0, 1] of found and true people.

    Args:
        found: (N, K, 2) px; NaN = not found, which counts as infinitely far.
        truth: (M, K, 3) px and a flag, > 0 where labelled; people without labels get NaN.
        area: (M,) px^2 of the true people.
        sigmas: (K,) tolerance of each joint, `joints.OKS_SIGMAS` by default.
    """
    square = ((found[:, None] - truth[None, ..., :2]) ** 2).sum(-1)
    variance = (2 * np.asarray(sigmas, np.float64)) ** 2
    near = np.exp(-square / (2 * variance * np.maximum(area, 1e-9)[:, None]))
    labelled = truth[..., 2] > 0
    count = labelled.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Float = np.where(labelled, np.nan_to_num(near), 0).sum(-1) / count
    return result


def coco_ap(
    results: Sequence[Mapping[str, Any]],
    ground_truth: Mapping[str, Any],
    image_ids: Sequence[int] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Return COCO's keypoint scores: AP, AP50, AP75, AP_medium, AP_large, AR, images, people.

    Args:
        results: COCO results list: image_id, category_id, keypoints (51 numbers, a joint that was
            not found is 0, 0, 0), score.
        ground_truth: COCO keypoint annotations, the whole document.
        image_ids: only these pictures; all by default.
        bootstrap: pictures are drawn again this many times and AP_se, AP50_se (standard errors)
            are added.
        seed: of the bootstrap.

    Raises:
        ValueError: a result is malformed or not finite (pycocotools counts NaN as a hit).
        ImportError: pycocotools is not installed.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    check_results(results, ground_truth)
    ids = sorted(i["id"] for i in ground_truth["images"]) if image_ids is None else list(image_ids)
    people = sum(
        1 for a in ground_truth["annotations"] if a.get("num_keypoints") and not a.get("iscrowd")
    )
    counts = {"images": float(len(ids)), "people": float(people)}
    names = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR")
    if not results:  # pycocotools cannot load an empty list
        zero = dict.fromkeys(names, 0.0) | counts
        return zero | ({"AP_se": 0.0, "AP50_se": 0.0} if bootstrap else {})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(ground_truth)
        coco.createIndex()
        # loadRes writes into the records it is given
        run = COCOeval(coco, coco.loadRes([dict(r) for r in results]), "keypoints")
        run.params.imgIds = ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    scores = {name: float(value) for name, value in zip(names, run.stats)} | counts
    if bootstrap:
        errors = _bootstrap(run.evalImgs[: len(ids)], bootstrap, np.random.default_rng(seed))
        scores["AP_se"], scores["AP50_se"] = errors
    return scores


def check_results(results: Sequence[Mapping[str, Any]], ground_truth: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the entry, unless these results can be scored honestly."""
    known = {i["id"] for i in ground_truth["images"]}
    for n, result in enumerate(results):
        keypoints = result.get("keypoints")
        if not isinstance(keypoints, Sequence) or len(keypoints) != 3 * len(COCO_NAMES):
            raise ValueError(f"result {n}: keypoints must be {3 * len(COCO_NAMES)} numbers")
        try:
            numbers = np.array([*keypoints, result.get("score")], np.float64)
        except (TypeError, ValueError):
            numbers = np.array([np.nan])
        if not np.isfinite(numbers).all():
            raise ValueError(f"result {n}: not finite; a joint that was not found is 0, 0, 0")
        if result.get("image_id") not in known:
            raise ValueError(f"result {n}: image_id {result.get('image_id')!r} is not in the truth")


def _bootstrap(
    pictures: Sequence[Any], times: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the standard errors of AP and AP50 when pictures are drawn with replacement.

    pictures: COCOeval's matches for each picture (area range "all"), None where it is empty.
    """
    parts = [_matches(p) for p in pictures]
    drawn = np.array([
        _average_precision([parts[n] for n in rng.integers(0, len(parts), len(parts))])
        for _ in range(times)
    ])  # fmt: skip
    scored = drawn[np.isfinite(drawn).all(1)]  # draws without a person to find have no score
    spread = np.std(scored, axis=0, ddof=1) if len(scored) > 1 else np.zeros(2)
    return float(spread[0]), float(spread[1])


def _matches(picture: Mapping[str, Any] | None) -> tuple[int, Float, NDArray[Any], NDArray[Any]]:
    """Return true people counted, scores (D,), hits (T, D), ignored (T, D) of one picture."""
    if picture is None:
        shape = (len(_THRESHOLDS), 0)
        return 0, np.zeros(0), np.zeros(shape, bool), np.zeros(shape, bool)
    scores = np.asarray(picture["dtScores"][:_PER_IMAGE], np.float64)
    hits = np.asarray(picture["dtMatches"])[:, :_PER_IMAGE] > 0
    ignored = np.asarray(picture["dtIgnore"])[:, :_PER_IMAGE].astype(bool)
    return int((np.asarray(picture["gtIgnore"]) == 0).sum()), scores, hits, ignored


def _average_precision(
    parts: Sequence[tuple[int, Float, NDArray[Any], NDArray[Any]]],
) -> tuple[float, float]:
    """Return (AP, AP50) as COCO counts them: precision at 101 recalls, mean over thresholds."""
    people = sum(p[0] for p in parts)
    if people == 0:
        return np.nan, np.nan
    order = np.argsort(-np.concatenate([p[1] for p in parts]), kind="stable")
    hits = np.concatenate([p[2] for p in parts], 1)[:, order]
    ignored = np.concatenate([p[3] for p in parts], 1)[:, order]
    right = np.cumsum(hits & ~ignored, 1)
    wrong = np.cumsum(~hits & ~ignored, 1)
    precision = right / np.maximum(right + wrong, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    averages = []
    for row, reached in zip(precision, right / people):
        at = np.searchsorted(reached, _RECALLS, side="left")
        averages.append(np.append(row, 0.0)[np.minimum(at, len(row))].mean())
    return float(np.mean(averages)), float(averages[0])
