"""Pictures of a run: portraits with their labels, and with what the network reads in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.models.train import sheets
from manypose.models.train.portraits import hold_out
from manypose.models.train.portraits.batch import Batch

Array = NDArray[Any]


def label_sheet(path: Path, batch: Batch) -> None:
    """Write portraits of a batch with their labels, each beside the sum of its maps."""
    tiles = []
    for image, joints, heat, weight in zip(
        batch.images, batch.joints_px, batch.heatmaps, batch.weight
    ):
        pixels = (255 * image.permute(1, 2, 0)).byte().cpu().numpy()
        seen = (heat.amax((1, 2)) > 0).cpu().numpy()
        veil = (255 * (heat * (weight > 0.3)[:, None, None]).amax(0)).byte().cpu().numpy()
        beside = _tile(np.repeat(veil[..., None], 3, 2).repeat(4, 0).repeat(4, 1))
        tiles.append(np.hstack([_tile(pixels, joints.cpu().numpy(), seen), beside]))
    sheets.write(path, tiles, 8)


def _tile(
    image: np.ndarray, joints: np.ndarray | None = None, seen: np.ndarray | None = None
) -> np.ndarray:
    larger = image.repeat(2, 0).repeat(2, 1)
    if joints is None or seen is None:
        return larger
    return sheets.draw_people(larger, [(2 * joints + 0.5, seen)])


def people_sheet(path: Path, portraits: Array, maps: Array) -> None:
    """Write portraits (N, H, W, 3) with the people of their maps (N, K, h, w)."""
    plain = np.array([[1.0, 0, 0], [0, 1, 0]])
    tiles = []
    for image, heat in zip(portraits, maps):
        person = hold_out.person(heat, plain)
        tiles.append(_tile(image, person.joints_px, person.confidence > 0.15))
    sheets.write(path, tiles, 12)
