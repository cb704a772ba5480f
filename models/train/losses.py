"""What Stage I is trained to make small.

Every loss is a sum over cells divided by the number of positives, so that neither the size of the
picture nor of the batch changes its meaning.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from manypose.models.heads import Maps
from manypose.models.train.targets import Targets

_BESIDE_LIMBS = 0.15  # weight of cells without a limb
_BEND = 0.2  # of the smooth L1: network units, 5 cm


class Losses(NamedTuple):
    """The three losses, each a scalar."""

    heatmaps: Tensor
    pafs: Tensor
    encodings: Tensor


def losses(answer: Maps, wanted: Targets) -> Losses:
    """Return the losses of the maps (computed in float32 whatever the network ran in)."""
    return Losses(
        heatmap_loss(answer.heatmaps.float(), wanted.heatmaps, wanted.heatmap_weight),
        _paf_loss(answer.pafs.float(), wanted),
        _encoding_loss(answer.encodings.float(), wanted),
    )


def heatmap_loss(answer: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Return the squared error, joints ten times as important as empty cells."""
    error = (answer - wanted).square() * (1 + 9 * wanted) * weight
    return error.sum() / (wanted * weight).sum().clamp_min(1)


def _paf_loss(answer: Tensor, wanted: Targets) -> Tensor:
    b, channels, h, w = answer.shape
    error = (answer - wanted.pafs).square().reshape(b, channels // 2, 2, h, w).sum(2)
    importance = wanted.on_limb + _BESIDE_LIMBS * (1 - wanted.on_limb)
    return (error * wanted.paf_weight * importance).sum() / wanted.on_limb.sum().clamp_min(1)


def _encoding_loss(answer: Tensor, wanted: Targets) -> Tensor:
    b, channels, h, w = answer.shape
    error = functional.smooth_l1_loss(answer, wanted.encodings, reduction="none", beta=_BEND)
    error = error.reshape(b, channels // 3, 3, h, w).sum(2) * wanted.encoding_weight
    return error.sum() / wanted.encoding_weight.sum().clamp_min(1)


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite (reads back from the device)."""
    return bool(torch.isfinite(values).all())
