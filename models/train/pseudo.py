"""Labels that teacher networks made, laid over hand-labelled photos.

The file is one .npz with a row for every person (image_id, hand_index, box, box_score, kp in
quarter px, kp_score of 255, oks, swap_suspect, q3) and, for rows lift_row, 3D points lift_mm with
their expected error lift_sigma_mm in units of 2 mm.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import SourceError
from manypose.models.train.lifted import trust
from manypose.models.train.packs import Photo, with_middles
from manypose.pose.joints import COCO_NAMES, JOINTS, JOINTS_2D, MIRROR_2D

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
_C, _K, _J = len(COCO_NAMES), len(JOINTS_2D), len(JOINTS)
_FACE = slice(0, 5)
_QUALITY_3D = 2
_JOINT_SCORE = 0.5
_JOINT_SCORE_BY_HAND = 100 / 255  # where the teacher agrees with a hand label
_AGREES = 0.6  # OKS
_PERSON_SCORE = 0.5
_JOINTS_MIN = 6


def add(photos: Iterator[Photo], path: Path) -> Iterator[Photo]:
    """Yield the photos with the teacher's labels; rows of photos that are not there are skipped.

    Sides exchanged by hand are turned round, unlabelled points of the face and 3D are filled in,
    further people join as positives while their surroundings stay unknown.

    Raises:
        SourceError: the file is missing or no such file.
    """
    try:
        with np.load(path) as z:
            table = {k: z[k] for k in z.files}
        rows = defaultdict(list)
        for n, key in enumerate(table["image_id"].tolist()):
            rows[str(key)].append(n)
        lifted = {n: i for i, n in enumerate(table["lift_row"].tolist())}
        table["kp"].shape, table["swap_suspect"].shape, table["q3"].shape
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"{path} has no teacher labels ({error}): check teachers=") from None
    done: Counter[str] = Counter()
    for item in photos:
        yield _laid_over(item, rows.get(item.key, []), table, lifted, done)
    _LOG.info("teacher labels from %s: %s", path.name, dict(done))


def _laid_over(
    item: Photo, rows: list[int], z: dict[str, Array], lifted: dict[int, int], done: Counter[str]
) -> Photo:
    joints, joints_m = item.joints_px.copy(), item.joints_m.copy()
    weight = item.weight_3d.copy()
    extra, boxes = [], []
    faceless = not item.known[_FACE].any()
    for n in rows:
        hand = int(z["hand_index"][n])
        agrees = float(z["oks"][n]) > _AGREES
        limit = _JOINT_SCORE_BY_HAND if hand >= 0 and agrees else _JOINT_SCORE
        good = z["kp_score"][n] > 255 * limit
        points = np.zeros((_K, 3), np.float32)
        points[:_C, :2] = z["kp"][n].astype(np.float32) / 4
        points[:_C, 2] = good  # 1: half the weight of a point seen by a person
        points[points[:, 2] == 0] = 0
        if 0 <= hand < len(joints):
            suspect = bool(z["swap_suspect"][n])
            if suspect and faceless:
                joints[hand] = joints[hand][list(MIRROR_2D)]
                done["sides exchanged"] += 1
            if faceless:
                joints[hand, _FACE] = points[_FACE]
                done["face points"] += int(good[_FACE].sum())
            if n in lifted and z["q3"][n] >= _QUALITY_3D and not suspect:
                row = lifted[n]
                joints_m[hand] = z["lift_mm"][row, :_J].astype(np.float32) / 1000
                weight[hand] = trust(z["lift_sigma_mm"][row, :_J] * 0.002)
                done["people with 3D"] += 1
            continue
        sure = z["box_score"][n] > _PERSON_SCORE and good.sum() >= _JOINTS_MIN
        if hand < 0 and len(joints) and sure:
            extra.append(points)
            boxes.append(z["box"][n].astype(np.float32))
            done["people added"] += 1
    if not extra:
        return replace(item, joints_px=joints, joints_m=joints_m, weight_3d=weight)
    more = np.stack(boxes)
    return replace(
        item,
        joints_px=np.concatenate([joints, with_middles(np.stack(extra))]),
        box_px=np.concatenate([item.box_px, more]),
        area_px=np.concatenate([item.area_px, 0.526 * more[:, 2] * more[:, 3]]),
        joints_m=np.concatenate([joints_m, np.full((len(more), _J, 3), np.nan, np.float32)]),
        weight_3d=np.concatenate([weight, np.zeros((len(more), _J), np.float32)]),
        ignore_px=np.concatenate([item.ignore_px, more]),
    )
