"""A map of person centres with offsets to the joints: one more thing to learn, and to group by.

Source: Zhou et al. 2019, "Objects as Points", section 4, human pose: a peak stands for a person,
and its cell says where the joints are. Here it is trained beside heat-maps and fields.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manypose.models.train.losses import heatmap_loss
from manypose.models.train.targets import POSITIVE, People, biggest, window
from manypose.pose.joints import INDEX_2D, JOINTS_2D
from manypose.pose.targets import STRIDE

_K = len(JOINTS_2D)
CHANNELS = 1 + 2 * _K
UNIT_CELLS = 8.0  # of the offsets
_SIGMA_CELLS = 1.5
_TOLD_CELLS = 1.6  # so far from a centre a cell says where the joints are
_TORSO = tuple(INDEX_2D[n] for n in ("l_shoulder", "r_shoulder", "l_hip", "r_hip"))


class Centres(NamedTuple):
    """What to answer: heatmap (B, 1, h, w); offsets (B, 2 K, h, w) in units; told (B, K, h, w)."""

    heatmap: Tensor
    offsets: Tensor
    told: Tensor


def draw(people: People, size: tuple[int, int, int]) -> Centres:
    """Return the targets of B pictures of h x w cells, size = (B, h, w).

    The centre is the mean of the labelled joints of the torso, or of all joints if none of them is
    labelled; where two people want a cell, the bigger one has it.
    """
    b, h, w = size
    device = people.joints_px.device
    cells = (people.joints_px - (STRIDE - 1) / 2) / STRIDE
    known = people.visibility > 0
    use = known & people.inside
    torso = torch.zeros_like(use)
    torso[:, list(_TORSO)] = use[:, list(_TORSO)]
    use = torch.where(torso.any(1, keepdim=True), torso, use)
    count = use.sum(1)
    centre = (cells.nan_to_num() * use[..., None]).sum(1) / count.clamp_min(1)[:, None]
    n = (count > 0).nonzero()[:, 0]
    at, ok, dx, dy = window(centre[n], 3, h, w)
    far2 = dx**2 + dy**2
    cell = at + (people.picture[n] * (h * w))[:, None]
    value = torch.exp(-far2 / (2 * _SIGMA_CELLS**2)) * ok
    heat = torch.zeros(b * h * w, device=device)
    heat.scatter_reduce_(0, cell.flatten(), value.flatten(), "amax")
    wins = biggest(cells, known, n, cell, ok & (far2 <= _TOLD_CELLS**2), b * h * w)
    to, who = cell[wins], n[wins.nonzero()[:, 0]]
    here = torch.stack([to % w, to // w % h], 1).float()
    offsets = torch.zeros(b * h * w, _K, 2, device=device)
    offsets[to] = (cells[who].nan_to_num() - here[:, None]) / UNIT_CELLS * known[who][..., None]
    told = torch.zeros(b * h * w, _K, device=device)
    told[to] = known[who].float()
    return Centres(
        heat.reshape(b, 1, h, w),
        offsets.reshape(b, h, w, 2 * _K).permute(0, 3, 1, 2),
        told.reshape(b, h, w, _K).permute(0, 3, 1, 2),
    )


def loss(answer: Tensor, wanted: Centres, known: Tensor) -> Tensor:
    """Return the loss of answered maps (B, 1 + 2 K, h, w).

    known: (B, K, h, w) how much the cells of each joint's heat-map count; where one of them says
    nothing, an empty cell says nothing of centres either.
    """
    b, _, h, w = answer.shape
    weight = known.amin(1, keepdim=True).maximum((wanted.heatmap > POSITIVE).float())
    seeds = heatmap_loss(answer[:, :1].float(), wanted.heatmap, weight)
    error = (answer[:, 1:].float() - wanted.offsets).abs().reshape(b, _K, 2, h, w).sum(2)
    return seeds + (error * wanted.told).sum() / wanted.told.sum().clamp_min(1)
