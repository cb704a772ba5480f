"""Scores of Stage I on labelled photos, through the decoder that the product uses.

Every average precision has the decoder's ceiling beside it: the same photos, the same input size,
but perfect maps drawn from the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.models.heads import StageOne
from manypose.models.preprocess import letterbox
from manypose.models.train.packs import Photo, decoded
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import (
    BONE_UNIT_M,
    CARRIED,
    COCO_NAMES,
    INDEX_2D,
    MIRROR_2D,
    OKS_SIGMAS,
    PARENT,
)  # fmt: skip
from manypose.pose.records import Frame, FrontEnd, NetworkOutput, Person2D
from manypose.pose.scores_2d import coco_ap
from manypose.pose.targets import cells_to_px, draw, px_to_cells

Array = NDArray[Any]
_C = len(COCO_NAMES)
SURE = 0.3  # people of a lower score are not counted as missed, invented, merged or ghosts
_PEAK = 0.1
_SAMPLES = 100  # of the bootstrap
NEAR = 0.1  # of the longer side of a person's box
_OF_TWO = 3  # joints of another person that make two people of one
_SHOULDERS_HIPS = [INDEX_2D[n] for n in ("l_shoulder", "r_shoulder", "l_hip", "r_hip")]
_SIDES = [(k, m) for k, m in enumerate(MIRROR_2D) if k < m]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One photo with its pixels, the maps that were answered and the people found in them."""

    photo: Photo
    output: NetworkOutput
    people: list[Person2D]


Predict = Callable[[Sequence[Photo]], "list[NetworkOutput]"]
Find = Callable[[Photo], "list[Person2D]"]


def of_network(
    net: StageOne, width: int, height: int, device: str | torch.device = "cpu"
) -> Predict:
    """Return a function from decoded photos to the network's maps at this input size."""

    def predict(photos: Sequence[Photo]) -> list[NetworkOutput]:
        boxed = [letterbox(np.asarray(p.picture), height, width) for p in photos]
        x = torch.from_numpy(np.stack([image for image, _ in boxed])).to(device)
        with torch.inference_mode():
            maps = net.eval()(x.permute(0, 3, 1, 2).float() / 255)
        heat, pafs, encodings = (m.float().cpu().numpy() for m in maps)
        return [
            NetworkOutput(h.clip(0, 1), p, e, to_image)
            for h, p, e, (_, to_image) in zip(heat, pafs, encodings, boxed)
        ]

    return predict


def of_program(network: Callable[[Sequence[Frame]], list[NetworkOutput]]) -> Predict:
    """Return a function from decoded photos to the maps of a network as users run it."""
    return lambda photos: [network([_frame(p)])[0] for p in photos]


def found_by(front_end: FrontEnd) -> Find:
    """Return a function from a decoded photo to the people that a front end finds in it."""
    return lambda photo: list(front_end([_frame(photo)])[0].people)


def _frame(photo: Photo) -> Frame:
    """Return a decoded photo as the program sees it."""
    x = np.asarray(photo.picture)
    return Frame(x, 0.0, 0, Camera.from_fov(x.shape[1], x.shape[0]))


def of_labels(width: int, height: int) -> Predict:
    """Return a function from decoded photos to perfect maps: the ceiling of the decoder."""

    def perfect(item: Photo) -> NetworkOutput:
        h, w = np.asarray(item.picture).shape[:2]
        _, to_image = letterbox(np.empty((h, w, 3), np.uint8), height, width)
        joints = item.joints_px.astype(np.float64)
        joints[..., :2] = cells_to_px(_to_cells(joints[..., :2], to_image))
        heat, pafs, _ = draw(joints, height, width)
        return NetworkOutput(heat, pafs, None, to_image)

    return lambda photos: [perfect(p) for p in photos]


def _to_cells(points_px: Array, to_image: Array) -> Array:
    cells: Array = (points_px - to_image[:, 2]) @ np.linalg.inv(to_image[:, :2]).T
    return cells


def decode(
    photos: Sequence[Photo], predict: Predict, config: GroupingConfig, at_once: int = 8,
    find: Find | None = None,
) -> Iterator[Decoded]:  # fmt: skip
    """Yield every photo with its maps and the people that the product's grouping finds in them.

    find: finds the people instead, as the program does, which may look twice.
    """
    for first in range(0, len(photos), at_once):
        some = [decoded(p) for p in photos[first : first + at_once]]
        for item, output in zip(some, predict(some)):
            people = group(output, config) if find is None else find(item)
            yield Decoded(item, output, people)


def evaluate(
    photos: Sequence[Photo], predict: Predict, config: GroupingConfig | None = None,
    sure: float = SURE, find: Find | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return the scores of a network on photos; those that cannot be had are left out.

    AP, AP50, AR (COCO, OKS of the 17 key points) with ap_error, their standard error over a
    bootstrap of photos; pck (share of joints within 0.2 torso, single athletes); recall (labelled
    joints with a peak near); ghosts (people per people-free photo); swaps (share of left-right
    pairs exchanged), missed, invented and merged people per photo; bone_mm beside
    bone_constant_mm, what the mean bone would score, and bone_seen_mm beside bone_seen_constant_mm
    of joints in sight that the heat-maps show: elsewhere there is nothing to read it from. found
    and right are the shares of labelled people found at OKS 0.3, and of people found that are some
    labelled one. All counts of people are of those with a score above `sure`. find: see `decode`.
    """
    config = config or GroupingConfig()
    # the pixels are not needed any more; what is kept of a photo is small
    results = [
        (replace(d.photo, picture=np.zeros((*np.asarray(d.photo.picture).shape[:2], 0), np.uint8)),
         d.people, _peaks_near(d), _bones(d, config))
        for d in decode(photos, predict, config, find=find)
    ]  # fmt: skip
    crowd = [(p, f) for p, f, _, _ in results if not p.source.startswith("lsp")]
    single = [(p, f) for p, f, _, _ in results if p.source.startswith("lsp")]
    empty = [f for p, f in crowd if not len(p.joints_px) and not len(p.ignore_px)]
    out: dict[str, float] = {}
    if any(len(p.joints_px) for p, _ in crowd):
        out.update(coco_scores(crowd))
        out.update(_matching([(p, f) for p, f in crowd if len(p.joints_px)], sure))
    if single:
        out["pck"] = pck(single)
    hits = np.concatenate([h for _, _, h, _ in results])
    if len(hits):
        out["recall"] = float(hits.mean())
    if empty:
        out["ghosts"] = float(np.mean([sum(x.score > sure for x in f) for f in empty]))
    out.update(_bone_error([b for *_, b in results]))
    return out


def coco_scores(results: list[tuple[Photo, list[Person2D]]]) -> dict[str, float]:
    """Return AP, AP50, AR and ap_error of decoded people over photos (see `scores_2d.coco_ap`)."""
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}],
    }  # fmt: skip
    found = []
    for number, (item, people) in enumerate(results):
        height, width = np.asarray(item.picture).shape[:2]
        truth["images"].append({"id": number, "width": width, "height": height})
        truth["annotations"] += _annotations(item, number, len(truth["annotations"]) + 1)
        found += [_detection(p, number) for p in people if (p.confidence[:_C] > 0).any()]
    scores = coco_ap(found, truth, bootstrap=_SAMPLES)
    return {k: scores[k] for k in ("AP", "AP50", "AR")} | {"ap_error": scores["AP_se"]}


def _annotations(item: Photo, number: int, first: int) -> list[dict[str, Any]]:
    out = []
    for joints, box, area in zip(item.joints_px[:, :_C], item.box_px, item.area_px):
        points = np.where(joints[:, 2:] > 0, joints, 0).astype(float)
        out.append({"iscrowd": 0, "area": float(area), "bbox": box.astype(float).tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                    "keypoints": points.ravel().tolist()})  # fmt: skip
    for box in item.ignore_px.astype(float):
        out.append({"iscrowd": 1, "area": float(box[2] * box[3]), "bbox": box.tolist(),
                    "num_keypoints": 0, "keypoints": [0.0] * 3 * _C})  # fmt: skip
    common = {"image_id": number, "category_id": 1}
    return [{"id": first + i, **common, **a} for i, a in enumerate(out)]


def _detection(person: Person2D, number: int) -> dict[str, Any]:
    """Return a COCO result; a joint that was not found sits in the middle of the others."""
    seen = person.confidence[:_C] > 0
    points = np.ones((_C, 3))
    points[:, :2] = np.where(
        seen[:, None], person.joints_px[:_C], np.nanmean(person.joints_px[:_C][seen], 0)
    )
    return {"image_id": number, "category_id": 1, "score": float(person.score),
            "keypoints": points.ravel().tolist()}  # fmt: skip


def oks(found: Person2D, joints: Array, area: float) -> float:
    """Return the object key point similarity of a found person with labelled joints (K, 3)."""
    labelled = joints[:_C, 2] > 0
    square = ((found.joints_px[:_C] - joints[:_C, :2]) ** 2).sum(1)
    scale = 2 * (2 * OKS_SIGMAS[:_C]) ** 2 * max(area, 1.0)
    similarity = np.where(np.isnan(square), 0, np.exp(-np.nan_to_num(square) / scale))
    return float(similarity[labelled].mean()) if labelled.any() else 0.0


def match(people: list[Person2D], item: Photo, oks_min: float) -> list[tuple[int, int, float]]:
    """Return pairs (found, labelled, OKS), each person once, the most alike first."""
    table = np.array(
        [[oks(f, j, a) for j, a in zip(item.joints_px, item.area_px)] for f in people]
    ).reshape(len(people), len(item.joints_px))
    pairs = []
    while table.size and table.max() >= oks_min:
        i, k = divmod(int(table.argmax()), table.shape[1])
        pairs.append((i, k, float(table[i, k])))
        table[i], table[:, k] = -1, -1
    return pairs


def _matching(results: list[tuple[Photo, list[Person2D]]], least: float) -> dict[str, float]:
    missed = invented = merged = exchanged = pairs = hits = 0
    for item, people in results:
        sure = [p for p in people if p.score > least]
        found = match(sure, item, 0.3)
        missed += len(item.joints_px) - len(found)
        hits += len(found)
        merged += sum(_is_two(p, item) for p in sure)
        taken = {i for i, _, _ in found}
        invented += sum(not _ignored(p, item) for i, p in enumerate(sure) if i not in taken)
        for i, k, _ in found:
            at, label = sure[i].joints_px, item.joints_px[k]
            for a, b in _SIDES:
                if np.isfinite(at[[a, b]]).all() and label[a, 2] > 0 and label[b, 2] > 0:
                    here = np.linalg.norm(at[[a, b]] - label[[a, b], :2], axis=1).sum()
                    there = np.linalg.norm(at[[b, a]] - label[[a, b], :2], axis=1).sum()
                    pairs += 1
                    exchanged += bool(there < 0.5 * here)
    return {
        "found": hits / max(hits + missed, 1),
        "right": hits / max(hits + invented, 1),
        "missed": missed / len(results),
        "invented": invented / len(results),
        "merged": merged / len(results),
        "swaps": exchanged / max(pairs, 1),
    }


def _is_two(person: Person2D, item: Photo) -> bool:
    """Return whether three joints or more lie on each of two labelled people."""
    if len(item.joints_px) < 2:
        return False
    labels = item.joints_px[:, :_C]
    far = np.linalg.norm(labels[..., :2] - person.joints_px[:_C], axis=-1)
    far[(labels[..., 2] <= 0) | ~np.isfinite(far)] = np.inf
    owner = far.argmin(0)
    near = far.min(0) < NEAR * item.box_px[owner, 2:].max(1)
    return bool((np.bincount(owner[near], minlength=2) >= _OF_TWO).sum() > 1)


def _ignored(person: Person2D, item: Photo) -> bool:
    """Return whether most of a person's joints lie where nothing is known."""
    at = person.joints_px[np.isfinite(person.joints_px).all(1)]
    if not len(item.ignore_px) or not len(at):
        return False
    low, high = item.ignore_px[:, :2], item.ignore_px[:, :2] + item.ignore_px[:, 2:]
    inside = np.logical_and(at[:, None] >= low, at[:, None] < high).min(2).max(1)
    return float(inside.mean()) > 0.5


def pck(results: list[tuple[Photo, list[Person2D]]], share: float = 0.2) -> float:
    hit = total = 0
    for item, people in results:
        joints = item.joints_px[0] if len(item.joints_px) else np.zeros((len(MIRROR_2D), 3))
        if not (joints[_SHOULDERS_HIPS, 2] > 0).all():
            continue
        ls, rs, lh, rh = joints[_SHOULDERS_HIPS, :2]
        torso = max(np.linalg.norm(rs - lh), np.linalg.norm(ls - rh))
        body = (joints[:, 2] > 0) & (np.arange(len(joints)) >= INDEX_2D["l_shoulder"])
        total += int(body.sum())
        near = [np.linalg.norm(p.joints_px - joints[:, :2], axis=1) < share * torso for p in people]
        hit += max((int((n & body).sum()) for n in near), default=0)
    return hit / max(total, 1)


def _peaks_near(d: Decoded, share: float = 0.1) -> Array:
    """Return for every labelled joint whether a peak of its kind is within a tenth of the body."""
    heat = d.output.heatmaps
    hits = []
    for joints, box in zip(d.photo.joints_px, d.photo.box_px):
        for k in np.flatnonzero((joints[:, 2] > 0) & d.photo.known):
            top = cv2.dilate(heat[k], np.ones((3, 3), np.uint8))
            y, x = np.nonzero((heat[k] >= top) & (heat[k] > _PEAK))
            at = np.stack([x, y], 1) @ d.output.to_image[:, :2].T + d.output.to_image[:, 2]
            far = np.linalg.norm(at - joints[k, :2], axis=1)
            hits.append(bool(len(far)) and far.min() < share * box[2:].max())
    return np.array(hits, float)


def _bones(d: Decoded, config: GroupingConfig) -> Array:
    """Return (n, 8) of joints with known 3D: bone, wanted and answered vector m, seen and found."""
    encodings = d.output.encodings
    if encodings is None or not np.isfinite(d.photo.joints_m).any():
        return np.zeros((0, 8))
    _, h, w = encodings.shape
    cells = _to_cells(d.photo.joints_px[..., :2], d.output.to_image)
    x, y = np.floor(cells + 0.5).astype(int).transpose(2, 0, 1)
    inside = (d.photo.joints_px[..., 2] > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    joint, bone = np.array(CARRIED).T
    parent = np.array(PARENT)[bone]
    wanted = d.photo.joints_m[:, bone] - d.photo.joints_m[:, parent]
    n, c = np.nonzero(inside[:, joint] & np.isfinite(wanted).all(-1))
    y, x = y[n, joint[c]], x[n, joint[c]]
    answer = encodings.reshape(-1, 3, h, w)[bone[c], :, y, x] * BONE_UNIT_M
    found = d.output.heatmaps[joint[c], y, x] > config.peak_score_min
    found &= d.photo.joints_px[n, joint[c], 2] > 1
    return np.concatenate([bone[c, None], wanted[n, c], answer, found[:, None]], 1)


def _bone_error(parts: list[Array]) -> dict[str, float]:
    rows = np.concatenate(parts)
    out: dict[str, float] = {}
    for name, some in (("bone", rows), ("bone_seen", rows[rows[:, 7] > 0])):
        if not len(some):
            continue
        bone, wanted, answer = some[:, 0].astype(int), some[:, 1:4], some[:, 4:7]
        count = np.bincount(bone)
        sums = np.stack([np.bincount(bone, wanted[:, i]) for i in range(3)], 1)
        mean = sums / np.maximum(count, 1)[:, None]
        out |= {
            f"{name}_mm": float(1000 * np.linalg.norm(answer - wanted, axis=1).mean()),
            f"{name}_constant_mm": float(1000 * np.linalg.norm(mean[bone] - wanted, axis=1).mean()),
        }
    return out


def ceiling(photos: Sequence[Photo], width: int, height: int) -> dict[str, float]:
    """Return AP, AP50, AR of perfect maps at this input size, photos of crowds only."""
    some = [p for p in photos if not p.source.startswith("lsp")]
    if not any(len(p.joints_px) for p in some):
        return {}
    found = [(d.photo, d.people) for d in decode(some, of_labels(width, height), GroupingConfig())]
    return coco_scores(found)


def line(scores: dict[str, float], top: dict[str, float]) -> str:
    """Return the scores as one line, AP beside its ceiling."""
    words = []
    if "AP" in scores:
        limit = f" of {top['AP']:.3f}" if top else ""
        words.append(f"AP {scores['AP']:.3f} ± {scores['ap_error']:.3f}{limit}")
    if "bone_mm" in scores:
        constant = scores["bone_constant_mm"]
        words.append(f"bones {scores['bone_mm']:.0f} mm (constant {constant:.0f})")
    if "bone_seen_mm" in scores:
        constant = scores["bone_seen_constant_mm"]
        words.append(f"of joints seen {scores['bone_seen_mm']:.0f} mm ({constant:.0f})")
    rest = ("AP50", "AR", "pck", "recall", "ghosts", "found", "right", "missed", "invented",
            "merged", "swaps")  # fmt: skip
    words += [f"{k} {scores[k]:.3f}" for k in rest if k in scores]
    return ", ".join(words)


__all__ = [
    "Decoded", "Predict", "ceiling", "coco_scores", "decode", "evaluate", "line", "match",
    "of_labels", "of_network", "oks", "px_to_cells",
]  # fmt: skip
