"""Scores of the network of portraits on people whose boxes are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from manypose.models.portrait import Portrait
from manypose.models.preprocess import BORDER
from manypose.models.train import scores
from manypose.models.train.packs import Photo, decoded
from manypose.models.train.portraits.clues import Faults, simulated
from manypose.models.train.portraits.patches import moved, nearest
from manypose.pose.joints import BONE_UNIT_M, JOINTS, PARENT, TOPOLOGICAL
from manypose.pose.portraits import CLUES, HEIGHT, LARGER, STRIDE, WIDTH, highest, part_of, sheets
from manypose.pose.records import Person2D

Array = NDArray[Any]
_AT_ONCE = 64
_BLUR = 5  # cells
_TRUSTED = 0.99  # 3D that is exact, not what a teacher guessed


# Sheets (N, SHEET_HEIGHT, W, 3) uint8 to heat-maps (N, K, h, w) and bones (N, J, 3) in metres.
Answer = Callable[[Array], tuple[Array, Array]]


class HoldOut:
    """Portraits of the labelled people of photos, kept for scoring again and again."""

    def __init__(self, photos: Sequence[Photo], seed: int = 0) -> None:
        self._photos: list[Photo] = []
        self._affines, self._owner = list[Array](), list[int]()
        portraits, joints, others = [], [], []
        for n, item in enumerate(photos):
            photo = decoded(item)
            for who, (image, affine) in enumerate(portraits_of(photo)):
                portraits.append(image)
                self._affines.append(affine)
                self._owner.append(n)
                joints.append(moved(photo.joints_px[who], affine))
                others.append(moved(nearest(photo, who), affine))
            small = np.zeros((*np.asarray(photo.picture).shape[:2], 0), np.uint8)
            self._photos.append(replace(photo, picture=small))
        self.portraits = (
            np.stack(portraits) if portraits else np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
        )
        self._clues = _told(np.array(joints), np.array(others), seed) if portraits else None

    def score(self, answer: Answer) -> dict[str, float]:
        """Return AP, AP50, AR, ap_error and pck with true boxes, pose_mm and pose_constant_mm.

        AP_told and pck_told: where a reading with drawn faults is known, more innocent than a real
        one. pose_mm: mean distance of joints from the pelvis's frame where 3D is exact; what the
        mean pose of these people would have is beside it. What cannot be had is left out.
        """
        if self._clues is None:
            return {}
        maps, bones = answer(plain_sheets(self.portraits))
        out = self._joints(maps)
        told = self._joints(answer(self.sheets())[0])
        out |= {f"{k}_told": told[k] for k in ("AP", "pck") if k in told}
        return out | self._pose(bones)

    def sheets(self) -> Array:
        """Return the sheets of the people, of whom readings with faults are known."""
        if self._clues is None:
            return plain_sheets(self.portraits)
        return sheets(self.portraits, self._clues)

    def _joints(self, maps: Array) -> dict[str, float]:
        found: list[list[Person2D]] = [[] for _ in self._photos]
        for n, affine, heat in zip(self._owner, self._affines, maps):
            found[n].append(person(heat, affine))
        results = list(zip(self._photos, found))
        out: dict[str, float] = {}
        single = [r for r in results if r[0].source.startswith("lsp")]
        crowd = [r for r in results if not r[0].source.startswith(("lsp", "render"))]
        if any(len(p.joints_px) for p, _ in crowd):
            out.update(scores.coco_scores(crowd))
        if single:
            out["pck"] = scores.pck(single)
        return out

    def _pose(self, bones: Array) -> dict[str, float]:
        truth = np.concatenate([p.joints_m for p in self._photos])
        exact = np.concatenate([p.weight_3d for p in self._photos]) > _TRUSTED
        exact &= np.isfinite(truth).all(-1)
        if not exact.any():
            return {}
        answer = joined(bones)
        mean = np.nanmean(np.where(exact[..., None], truth, np.nan), 0)
        return {
            "pose_mm": 1e3 * float(np.linalg.norm(answer - truth, axis=-1)[exact].mean()),
            "pose_constant_mm": 1e3 * float(np.linalg.norm(mean - truth, axis=-1)[exact].mean()),
        }


def _told(joints: Array, others: Array, seed: int) -> Array:
    """Return clues (N, 2 K, h, w) uint8: people (N, K, 3) in portraits, read with faults."""
    rng = torch.Generator().manual_seed(seed)
    one, two = (torch.from_numpy(v.astype(np.float32)) for v in (joints, others))
    maps = simulated(one[..., :2], one[..., 2] > 0, two[..., :2], two[..., 2] > 0, Faults(), rng)
    return np.asarray((255 * maps + 0.5).byte().numpy())


def plain_sheets(portraits: Array) -> Array:
    """Return the sheets of portraits of whom nothing is known."""
    shape = (len(portraits), CLUES, HEIGHT // STRIDE, WIDTH // STRIDE)
    return sheets(portraits, np.zeros(shape, np.uint8))


def portraits_of(photo: Photo) -> Iterator[tuple[Array, Array]]:
    """Yield the portrait (H, W, 3) of each labelled person of a decoded photo, and its affine."""
    for box in photo.box_px:
        affine = part_of(np.concatenate([box[:2], box[:2] + box[2:]]), WIDTH, HEIGHT, LARGER)
        image = cv2.warpAffine(
            np.asarray(photo.picture), affine, (WIDTH, HEIGHT), borderValue=(BORDER,) * 3
        )
        yield np.asarray(image), affine


def of_network(net: Portrait, device: torch.device) -> Answer:
    """Return the answers of a network on a device."""

    def answer(shown: Array) -> tuple[Array, Array]:
        maps, bones = [], []
        net.eval()
        for first in range(0, len(shown), _AT_ONCE):
            x = torch.from_numpy(shown[first : first + _AT_ONCE]).to(device)
            with torch.inference_mode():
                told = net.of_sheets(x)
            maps.append(told.heatmaps().cpu().numpy())
            bones.append(told.bones.float().cpu().numpy())
        return np.concatenate(maps), in_metres(np.concatenate(bones))

    return answer


def in_metres(bones: Array) -> Array:
    """Return what a network answers for bones (N, 3 J) as (N, J, 3) in metres."""
    return np.asarray(BONE_UNIT_M * bones.reshape(-1, len(JOINTS), 3))


def joined(bones_m: Array) -> Array:
    """Return joints (N, J, 3) from the pelvis, of bones (N, J, 3) that lead to them."""
    joints = np.zeros_like(bones_m)
    for j in TOPOLOGICAL:
        if PARENT[j] >= 0:
            joints[:, j] = joints[:, PARENT[j]] + bones_m[:, j]
    return joints


def person(maps: Array, affine: Array) -> Person2D:
    """Return the person in maps (K, h, w) of a portrait, image px."""
    cells, score = highest(maps.clip(0, 1), _BLUR)
    px = cells * STRIDE + (STRIDE - 1) / 2
    xy = (px - affine[:, 2]) / affine[0, 0]
    confidence = score.clip(0, 1)
    return Person2D(xy, confidence, float(confidence[:17].mean()))
