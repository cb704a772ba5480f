"""A triangle rasteriser in plain tensor operations: one code path for CPU and CUDA.

Every triangle is expanded into the pixel centres of its bounding box; all fragments of all images
are tested in one flat tensor; the depth test is one scatter-minimum on a 64-bit key (depth,
triangle). Shading is deferred: only the winning triangle of each pixel is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEAR_M = 0.15  # triangles that come nearer vanish whole: there is no clipping
# About 120 bytes of memory for each fragment in flight.
_FRAGMENTS_MAX = {"cpu": 2_000_000, "cuda": 40_000_000}
_EMPTY = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """The covered pixels (Q of them) of a batch of pictures.

    pixel (Q,) flat index into (n, h, w); triangle (Q,); corner_weights (Q, 3) perspective-correct;
    depth_m (Q,).
    """

    pixel: Tensor
    triangle: Tensor
    corner_weights: Tensor
    depth_m: Tensor


def rasterise(corners: Tensor, image: Tensor, count: int, height: int, width: int) -> Raster:
    """Return what `count` pictures of height x width px see of triangles.

    corners (T, 3, 3): x px, y px (pixel centres at whole numbers), depth m of the three corners;
    image (T,): the picture a triangle belongs to.
    """
    x, y, z = corners.unbind(-1)
    left = x.amin(1).ceil().clamp(0, width).long()
    right = x.amax(1).floor().clamp(-1, width - 1).long()
    top = y.amin(1).ceil().clamp(0, height).long()
    bottom = y.amax(1).floor().clamp(-1, height - 1).long()
    across, down = right - left + 1, bottom - top + 1
    area = _edge(x[:, 0], y[:, 0], x[:, 1], y[:, 1], x[:, 2], y[:, 2])
    # Most triangles of a distant person hold no pixel centre at all and leave here.
    held = (across > 0) & (down > 0) & (z.amin(1) > NEAR_M) & (area.abs() > 1e-9)
    kept = held.nonzero()[:, 0]
    across, left, top = across[kept], left[kept], top[kept]
    fragments = across * down[kept]
    ends = fragments.cumsum(0)
    nearest = torch.full((count * height * width,), _EMPTY, dtype=torch.int64, device=x.device)
    limit = _FRAGMENTS_MAX.get(x.device.type, _FRAGMENTS_MAX["cpu"])
    total = int(ends[-1]) if len(kept) else 0
    bounds = torch.arange(limit, total + limit, limit, device=x.device)
    cuts = torch.searchsorted(ends, bounds, right=True).tolist() if total else []
    first = 0
    for last in [*cuts, len(kept)]:
        last = min(max(last, first + 1), len(kept))
        if last <= first:
            continue
        part = slice(first, last)
        k = torch.repeat_interleave(torch.arange(first, last, device=x.device), fragments[part])
        rank = torch.arange(len(k), device=x.device) - (ends - fragments)[k]
        rank += (ends - fragments)[first]
        px, py = left[k] + rank % across[k], top[k] + rank // across[k]
        t = kept[k]
        b0, b1, b2 = _corner_weights(x[t], y[t], area[t], px.float(), py.float())
        inside = ((b0 >= 0) & (b1 >= 0) & (b2 >= 0)).nonzero()[:, 0]
        t = t[inside]
        weights = torch.stack([b0[inside], b1[inside], b2[inside]], 1)
        depth_um = (1e6 / (weights / z[t]).sum(1)).long().clamp(0, 2**30)
        pixel = (image[t] * height + py[inside]) * width + px[inside]
        nearest.scatter_reduce_(0, pixel, (depth_um << 32) | t, "amin")
        first = last
    pixel = (nearest != _EMPTY).nonzero()[:, 0]
    t = nearest[pixel] & 0xFFFFFFFF
    px, py = pixel % width, pixel // width % height
    flat = torch.stack(_corner_weights(x[t], y[t], area[t], px.float(), py.float()), 1) / z[t]
    inverse_depth = flat.sum(1, keepdim=True)
    return Raster(pixel, t, flat / inverse_depth, 1 / inverse_depth[:, 0])


def _edge(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Return twice the signed area of the triangle a b p."""
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


def _corner_weights(
    x: Tensor, y: Tensor, area: Tensor, px: Tensor, py: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the screen-space barycentric weights of px, py in triangles x, y (Q, 3)."""
    b0 = _edge(x[:, 1], y[:, 1], x[:, 2], y[:, 2], px, py) / area
    b1 = _edge(x[:, 2], y[:, 2], x[:, 0], y[:, 0], px, py) / area
    return b0, b1, 1 - b0 - b1


def sample_texture(textures: Tensor, layer: Tensor, uv: Tensor) -> Tensor:
    """Return colours (Q, 3) float, bilinear, of textures (A, S, S, 3) at uv (Q, 2), v upwards."""
    side = textures.shape[1]
    column = uv[:, 0].clamp(0, 1) * side - 0.5
    row = (1 - uv[:, 1].clamp(0, 1)) * side - 0.5
    left, top = column.floor(), row.floor()
    right_share, low_share = (column - left)[:, None], (row - top)[:, None]
    left, top = left.long(), top.long()
    c = (left.clamp(0, side - 1), (left + 1).clamp(0, side - 1))
    r = (top.clamp(0, side - 1), (top + 1).clamp(0, side - 1))
    flat = textures.view(-1, 3)
    corner = [
        [flat[(layer * side + r[i]) * side + c[j]].float() for j in range(2)] for i in range(2)
    ]
    upper = corner[0][0] + (corner[0][1] - corner[0][0]) * right_share
    lower = corner[1][0] + (corner[1][1] - corner[1][0]) * right_share
    return upper + (lower - upper) * low_share
