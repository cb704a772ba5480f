"""Training targets, drawn for a whole batch at once on its device.

The definition is that of `manypose.pose.targets` (a test compares the two); here people of all
pictures are one flat list, and a picture may be a canvas of several photos with their own regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manypose.pose.joints import BONE_UNIT_M, CARRIED, JOINTS, JOINTS_2D, LIMBS, PARENT
from manypose.pose.targets import LIMB_END_CELLS, LIMB_HALF_WIDTH_CELLS, SIGMA_CELLS, STRIDE

_K, _J, _L = len(JOINTS_2D), len(JOINTS), len(LIMBS)
_RADIUS = 3
_LIMBS_AT_ONCE = 4096  # bounds the memory of the fields; a batch is one or a few such blocks
# A cell is a positive, and counts even where nothing else is known, from this height of a Gaussian.
POSITIVE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """People on the pictures of a batch, P of them as one flat list.

    picture (P,); region (P,): part of the canvas they belong to; joints_px (P, K, 2); visibility
    (P, K): 0 not labelled, 1 hidden, 2 seen; inside (P, K): the joint lies on its own photo and
    region; bones_m (P, J, 3) joint minus parent, NaN = not known; weight_3d (P, J).
    """

    picture: Tensor
    region: Tensor
    joints_px: Tensor
    visibility: Tensor
    inside: Tensor
    bones_m: Tensor
    weight_3d: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the network should answer for B pictures, and how much each cell counts.

    heatmaps, heatmap_weight (B, K, h, w); pafs (B, 2 L, h, w), paf_weight, on_limb (B, L, h, w);
    encodings (B, 3 J, h, w), encoding_weight (B, J, h, w).
    """

    heatmaps: Tensor
    heatmap_weight: Tensor
    pafs: Tensor
    paf_weight: Tensor
    on_limb: Tensor
    encodings: Tensor
    encoding_weight: Tensor


def draw(
    people: People,
    region: Tensor,
    known_joints: Tensor,
    known_limbs: Tensor,
) -> Targets:
    """Return the targets of B pictures.

    Args:
        people: see `People`.
        region: (B, h, w) part of the canvas that each cell belongs to.
        known_joints: (B, K, h, w) how far a cell is known to be without a joint, apart from the
            people's own: 1 known, 0 not known.
        known_limbs: (B, L, h, w) the same for limbs.
    """
    size = (len(region), region.shape[1], region.shape[2])
    cells = (people.joints_px - (STRIDE - 1) / 2) / STRIDE
    known = people.visibility > 0
    drawn = known & people.inside
    heat, faint = _heatmaps(people, cells, drawn, size)
    pafs, on_limb = _pafs(people, cells, known, drawn, region)
    encodings, encoding_weight = _encodings(people, cells, known, drawn, size)
    return Targets(
        heat,
        torch.maximum(known_joints, (heat > POSITIVE).float()) * (1 - 0.5 * faint),
        pafs,
        torch.maximum(known_limbs, on_limb),
        on_limb,
        encodings,
        encoding_weight,
    )


def window(cells: Tensor, radius: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of the cells round n points: y * w + x, whether on the grid, offsets dx, dy (n, m)."""
    offset = torch.arange(-radius, radius + 1, device=cells.device)
    dy, dx = (v.flatten() for v in torch.meshgrid(offset, offset, indexing="ij"))
    # far outside, a whole number would overflow
    middle = torch.floor(cells.clamp(-1e6, 1e6) + 0.5).long()
    x, y = middle[:, :1] + dx, middle[:, 1:] + dy
    ok = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return y.clamp(0, h - 1) * w + x.clamp(0, w - 1), ok, x - cells[:, :1], y - cells[:, 1:]


def _heatmaps(
    people: People, cells: Tensor, drawn: Tensor, size: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return the heat-maps, and the same of hidden joints only, (B, K, h, w)."""
    b, h, w = size
    p, k = drawn.nonzero(as_tuple=True)
    at, ok, dx, dy = window(cells[p, k], _RADIUS, h, w)
    value = torch.exp(-(dx**2 + dy**2) / (2 * SIGMA_CELLS**2)) * ok
    index = (at + ((people.picture[p] * _K + k) * (h * w))[:, None]).flatten()
    hidden = value * (people.visibility[p, k] < 2)[:, None]
    maps = [
        torch.zeros(b * _K * h * w, device=cells.device)
        .scatter_reduce_(0, index, v.flatten(), "amax")
        .reshape(b, _K, h, w)
        for v in (value, hidden)
    ]
    return maps[0], maps[1]


def _pafs(
    people: People, cells: Tensor, known: Tensor, drawn: Tensor, region: Tensor
) -> tuple[Tensor, Tensor]:
    b, h, w = region.shape
    device = cells.device
    start, end = (torch.tensor(side, device=device) for side in zip(*LIMBS))
    use = known[:, start] & known[:, end] & (drawn[:, start] | drawn[:, end])
    n, limb = use.nonzero(as_tuple=True)
    a = cells[n, start[limb]]
    step = cells[n, end[limb]] - a
    length = step.norm(dim=-1)
    unit = step / length.clamp_min(1e-6)[:, None]
    index = people.picture[n] * _L + limb
    field = torch.zeros(b * _L, 2, h, w, device=device)
    count = torch.zeros(b * _L, h, w, device=device)
    x = torch.arange(w, device=device)
    y = torch.arange(h, device=device)[:, None]
    for first in range(0, len(n), _LIMBS_AT_ONCE):
        some = slice(first, first + _LIMBS_AT_ONCE)
        ux, uy = (unit[some, i, None, None] for i in (0, 1))
        dx, dy = x - a[some, 0, None, None], y - a[some, 1, None, None]
        far = length[some, None, None]
        along, across = dx * ux + dy * uy, (dx * uy - dy * ux).abs()
        on = (along >= -LIMB_END_CELLS) & (along <= far + LIMB_END_CELLS) & (far >= 1e-6)
        on &= across <= LIMB_HALF_WIDTH_CELLS
        on &= region[people.picture[n[some]]] == people.region[n[some], None, None]
        weight = on.float()
        count.index_add_(0, index[some], weight)
        field.index_add_(0, index[some], weight[:, None] * unit[some, :, None, None])
    field /= count.clamp_min(1)[:, None]
    return field.reshape(b, 2 * _L, h, w), (count > 0).float().reshape(b, _L, h, w)


def _encodings(
    people: People, cells: Tensor, known: Tensor, drawn: Tensor, size: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return encodings and weights; where two people want a cell, the bigger one has it."""
    b, h, w = size
    device = cells.device
    joints, bones = (torch.tensor(side, device=device) for side in zip(*CARRIED))
    usable = people.bones_m.isfinite().all(-1) & (people.weight_3d > 0)
    p, c = (drawn[:, joints] & usable[:, bones]).nonzero(as_tuple=True)
    at, ok, _, _ = window(cells[p, joints[c]], 1, h, w)
    bone = bones[c]
    index = at + ((people.picture[p] * _J + bone) * (h * w))[:, None]
    wins = biggest(cells, known, p, index, ok, b * _J * h * w)
    to, source = index[wins], wins.nonzero()[:, 0]
    encodings = torch.zeros(b * _J * h * w, 3, device=device)
    weight = torch.zeros(b * _J * h * w, device=device)
    encodings[to] = people.bones_m[p[source], bone[source]] / BONE_UNIT_M
    weight[to] = people.weight_3d[p[source], bone[source]]
    maps = encodings.reshape(b, _J, h, w, 3).permute(0, 1, 4, 2, 3)
    return maps.reshape(b, 3 * _J, h, w), weight.reshape(b, _J, h, w)


def biggest(
    cells: Tensor, known: Tensor, who: Tensor, index: Tensor, ok: Tensor, count: int
) -> Tensor:
    """Return which claims (n, m) of people to cells are won: each cell goes to the biggest.

    cells (P, K, 2): joints, of which `known` (P, K) tell a size; who (n,): the people who claim;
    index (n, m): the cells, below count; ok (n, m): whether a claim is made.
    """
    infinity = torch.full_like(cells, float("inf"))
    low = torch.where(known[..., None], cells, infinity).amin(1)
    high = torch.where(known[..., None], cells, -infinity).amax(1)
    # a person's place in the order of sizes is unique, so every cell has one owner
    rank = torch.empty(len(cells), device=cells.device)
    rank[torch.argsort((high - low).amax(-1), stable=True)] = torch.arange(
        1.0, len(cells) + 1, device=cells.device
    )
    claim = rank[who][:, None] * ok
    owner = torch.zeros(count, device=cells.device)
    owner.scatter_reduce_(0, index.flatten(), claim.flatten(), "amax")
    return ok & (owner[index] == claim)


def bones(joints_m: Tensor) -> Tensor:
    """Return bone vectors (..., J, 3), joint minus parent; zero at the root."""
    parent = torch.tensor([j if p < 0 else p for j, p in enumerate(PARENT)], device=joints_m.device)
    return joints_m - joints_m[..., parent, :]
