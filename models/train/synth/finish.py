"""From a clean rendering to a plausible photograph: occluders, blur, colour, sensor noise.

The network would else find people by their sharp edges. Nothing here moves a pixel, so the truth
stays exact; occluders also hide people in the truth.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from manypose.models.train.synth.backgrounds import Chance, clutter, noise, shape_masks

_OCCLUDERS_SHARES = (0.45, 0.3, 0.15, 0.1)  # pictures with 0, 1, 2, 3 objects in front of everybody
_DESK_SHARE = 0.08  # pictures whose lower edge is hidden, as by a desk
_MOVED_SHARE = 0.15  # pictures blurred by a moving camera
_REACH = 6  # px, half width of the blur kernels


def occlude(chance: Chance, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return pictures (B, 3, H, W) with objects in front of everybody, and where (B, H, W)."""
    count, _, height, width = images.shape
    shares = torch.tensor(_OCCLUDERS_SHARES, device=images.device).cumsum(0)
    wanted = (chance.uniform(count, 1) >= shares[:-1]).sum(1)
    desk = chance.uniform(count) < _DESK_SHARE
    covered = torch.zeros(count, height, width, dtype=torch.bool, device=images.device)
    busy = ((wanted > 0) | desk).nonzero()[:, 0]
    if not len(busy):
        return images, covered
    paint = clutter(chance, noise(chance, len(busy), height, width), 6)
    for s in range(len(_OCCLUDERS_SHARES) - 1):
        inside, _ = shape_masks(chance, len(busy), height, width, low=0.02, high=0.22)
        covered[busy] |= inside & (wanted[busy] > s)[:, None, None]
    edge = height * chance.uniform(count, low=0.62, high=0.95)
    row = torch.arange(height, device=images.device)[None, :, None]
    covered |= (row > edge[:, None, None]) & desk[:, None, None]
    out = images.clone()
    out[busy] = torch.where(covered[busy][:, None], paint, images[busy])
    return out, covered


def photograph(chance: Chance, images: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) uint8 as a camera would deliver them, each different."""
    count = len(images)
    soft = chance.uniform(count) < 0.7
    sigma = torch.where(
        soft, chance.uniform(count, low=0.3, high=1.1), chance.uniform(count, low=1.0, high=2.2)
    )
    images = blur(images, sigma)
    moved = (chance.uniform(count) < _MOVED_SHARE).nonzero()[:, 0]
    if len(moved):
        images = images.clone()
        images[moved] = _shake(chance, images[moved])

    def each(low: float, high: float) -> Tensor:
        return chance.uniform(count, 1, 1, 1, low=low, high=high)

    tint = 1 + 0.05 * chance.normal(count, 3, 1, 1)
    images = images * each(0.7, 1.25) * tint + 8 * chance.normal(count, 1, 1, 1)
    images = 255 * (images / 255).clamp(0, 1) ** each(0.75, 1.3)
    grain = each(1, 7) * chance.normal(*images.shape)
    return (images + grain).clamp(0, 255).to(torch.uint8)


def blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) blurred by a Gaussian, sigma_px (B,) each its own."""
    count, channels = images.shape[:2]
    at = torch.arange(-_REACH, _REACH + 1, device=images.device)
    kernel = torch.exp(-0.5 * (at / sigma_px[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = pad(images, (_REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    groups = count * channels
    flat = conv2d(flat, kernel[:, None, None], groups=groups)
    flat = conv2d(flat, kernel[:, None, :, None], groups=groups)
    return flat[0].view(count, channels, *images.shape[2:])


def _shake(chance: Chance, images: Tensor) -> Tensor:
    """Return pictures blurred along straight lines of 2 to 10 px."""
    count, channels = images.shape[:2]
    angle, half = chance.uniform(count, high=torch.pi), chance.uniform(count, low=1, high=5)
    at = torch.arange(-_REACH, _REACH + 1, device=images.device).float()
    dx, dy = at[None, None], at[None, :, None]
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    along, beside = (c * dx + s * dy).abs(), (c * dy - s * dx).abs()
    kernel = (half[:, None, None] + 0.5 - along).clamp(0, 1) * (1 - beside).clamp(0, 1)
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0)
    flat = pad(images, (_REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    flat = conv2d(flat, kernel[:, None], groups=count * channels)
    return flat[0].view(count, channels, *images.shape[2:])
