"""Photos on the device: all pixels as one flat buffer of bytes, labels as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.errors import SourceError
from manypose.models.train.packs import Photo, decoded

Array = NDArray[Any]
PEOPLE = 16  # kept of one photo, the biggest; further ones become boxes in which nothing is known
_IGNORED = 16
LEVELS = 5  # smaller copies, each half the size of the one before


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """Photos and labels on a device: N photos, at most 16 people each.

    pixels (S, 3) BGR uint8, all photos and their smaller copies one behind another; level (N, 5, 3)
    int64: first pixel, width, height; joints_px (N, 16, K, 3); box_px (N, 16, 4), ignore_px
    (N, 16, 4), reach_px (N, 4) corners x y x y; joints_m (N, 16, J, 3); weight_3d (N, 16, J); known
    (N, K); count (N,) people; weight (N,) chance to be drawn.
    """

    pixels: Tensor
    level: Tensor
    joints_px: Tensor
    box_px: Tensor
    ignore_px: Tensor
    reach_px: Tensor
    joints_m: Tensor
    weight_3d: Tensor
    known: Tensor
    count: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.level)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.pixels.device


def load(photos: Iterable[Photo], side_max: int, device: str | torch.device = "cpu") -> Store:
    """Return the photos on the device, decoded, their longer side at most `side_max` px.

    Raises:
        SourceError: there is no photo, or one is damaged.
    """
    pixels = np.empty((1 << 20, 3), np.uint8)
    used = 0
    levels, rows = [], []
    for item in photos:
        item = decoded(item, side_max)
        image = np.asarray(item.picture)
        level = []
        for _ in range(LEVELS):
            h, w = image.shape[:2]
            if used + h * w > len(pixels):
                # grows in place where the system can, so that memory is not needed twice
                pixels.resize((used + h * w + len(pixels) // 4, 3), refcheck=False)
            pixels[used : used + h * w] = image.reshape(-1, 3)
            level.append((used, w, h))
            used += h * w
            half = max(1, (w + 1) // 2), max(1, (h + 1) // 2)
            image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
        levels.append(level)
        rows.append(_row(item))
    if not rows:
        raise SourceError("no photos to train on: name some with --data")
    pixels.resize((used, 3), refcheck=False)
    tables = [torch.from_numpy(np.stack(column)).to(device) for column in zip(*rows)]
    return Store(torch.from_numpy(pixels).to(device), torch.tensor(levels, device=device), *tables)


def _corners(box_px: Array) -> Array:
    return np.concatenate([box_px[..., :2], box_px[..., :2] + box_px[..., 2:]], -1)


def _row(item: Photo) -> tuple[Array, ...]:
    """Return the tables' rows of one photo, in the order of `Store`."""
    order = np.argsort(-item.box_px[:, 2] * item.box_px[:, 3], kind="stable")
    few, rest = order[:PEOPLE], order[PEOPLE:]
    ignored = _corners(np.concatenate([item.box_px[rest], item.ignore_px]))
    area = (ignored[:, 2] - ignored[:, 0]) * (ignored[:, 3] - ignored[:, 1])
    ignored = ignored[np.argsort(-area, kind="stable")[:_IGNORED]]

    def table(values: Array, rows: int, fill: float = 0.0) -> Array:
        out = np.full((rows, *values.shape[1:]), fill, np.float32)
        out[: len(values)] = values
        return out

    return (
        table(item.joints_px[few], PEOPLE),
        table(_corners(item.box_px[few]), PEOPLE),
        table(ignored, _IGNORED),
        _corners(item.reach_px).astype(np.float32),
        table(item.joints_m[few], PEOPLE, np.nan),
        table(item.weight_3d[few], PEOPLE),
        item.known.astype(bool),
        np.array(len(few)),
        np.array(item.weight, np.float32),
    )
