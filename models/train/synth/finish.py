"""From a clean rendering to a plausible photograph: occluders, blur, colour, sensor noise.

The network would else find people by their sharp edges. Nothing here moves a pixel, so the truth
stays exact; occluders also hide people in the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from manypose.models.train.synth.backgrounds import Chance, clutter, noise, shape_masks

_OCCLUDERS_SHARES = (0.45, 0.3, 0.15, 0.1)  # pictures with 0, 1, 2, 3 objects in front of everybody
_DESK_SHARE = 0.08  # pictures whose lower edge is hidden, as by a desk
_MOVED_SHARE = 0.15  # pictures blurred by a moving camera
_REACH = 6  # px, half width of the blur kernels


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How B cameras see.

    blur_px (B,); length and angle of the shake (B,); gain (B, 3) and offset (B,) of the colours;
    gamma (B,); grain (B,) standard deviation of the noise.
    """

    blur_px: Tensor
    shake_px: Tensor
    shake_rad: Tensor
    gain: Tensor
    offset: Tensor
    gamma: Tensor
    grain: Tensor


def sample_looks(chance: Chance, count: int) -> Look:
    """Return the looks of `count` random cameras."""
    soft = chance.uniform(count) < 0.7
    near, far = chance.uniform(count, low=0.3, high=1.1), chance.uniform(count, low=1, high=2.2)
    moved = chance.uniform(count) < _MOVED_SHARE
    tint = 1 + 0.05 * chance.normal(count, 3)
    return Look(
        blur_px=torch.where(soft, near, far),
        shake_px=torch.where(moved, chance.uniform(count, low=2, high=10), 0.0),
        shake_rad=chance.uniform(count, high=torch.pi),
        gain=chance.uniform(count, 1, low=0.7, high=1.25) * tint,
        offset=8 * chance.normal(count),
        gamma=chance.uniform(count, low=0.75, high=1.3),
        grain=chance.uniform(count, low=1, high=7),
    )


def plain_looks(count: int, device: str | torch.device) -> Look:
    """Return the looks of clean cameras: no noise, the lightest blur against jagged edges."""
    zero, one = torch.zeros(count, device=device), torch.ones(count, device=device)
    return Look(0.5 * one, zero, zero, one[:, None].repeat(1, 3), zero, one, zero)


def sample_occluders(chance: Chance, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return objects before everybody: their colours (B, 3, H, W), where they are (B, H, W)."""
    shares = torch.tensor(_OCCLUDERS_SHARES, device=chance.device).cumsum(0)
    wanted = (chance.uniform(count, 1) >= shares[:-1]).sum(1)
    desk = chance.uniform(count) < _DESK_SHARE
    covered = torch.zeros(count, height, width, dtype=torch.bool, device=chance.device)
    paint = torch.zeros(count, 3, height, width, device=chance.device)
    busy = ((wanted > 0) | desk).nonzero()[:, 0]
    if len(busy):
        # Soft enough at half size, a quarter of the work.
        rough = noise(chance, len(busy), height // 2, width // 2)
        paint[busy] = interpolate(
            clutter(chance, rough, 6), size=(height, width), mode="bilinear", align_corners=False
        )
    for s in range(len(_OCCLUDERS_SHARES) - 1):
        some = (wanted > s).nonzero()[:, 0]
        if len(some):
            covered[some] |= shape_masks(chance, len(some), height, width, 0.02, 0.22)[0]
    edge = height * chance.uniform(count, low=0.62, high=0.95)
    row = torch.arange(height, device=chance.device)[None, :, None]
    covered |= (row > edge[:, None, None]) & desk[:, None, None]
    return paint, covered


def photograph(chance: Chance, images: Tensor, look: Look) -> Tensor:
    """Return pictures (B, 3, H, W) uint8 as cameras with these looks would deliver them."""
    images = blur(images, look.blur_px)
    moved = (look.shake_px > 0).nonzero()[:, 0]
    if len(moved):
        images = images.clone()
        images[moved] = _shake(images[moved], look.shake_rad[moved], look.shake_px[moved])
    images = images * look.gain[:, :, None, None] + look.offset[:, None, None, None]
    images = 255 * (images / 255).clamp(0, 1) ** look.gamma[:, None, None, None]
    if bool((look.grain > 0).any()):
        images = images + look.grain[:, None, None, None] * chance.normal(*images.shape)
    return images.round().clamp(0, 255).to(torch.uint8)


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


def _shake(images: Tensor, angle_rad: Tensor, length_px: Tensor) -> Tensor:
    """Return pictures blurred along straight lines (B,)."""
    count, channels = images.shape[:2]
    angle, half = angle_rad, length_px / 2
    at = torch.arange(-_REACH, _REACH + 1, device=images.device).float()
    dx, dy = at[None, None], at[None, :, None]
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    along, beside = (c * dx + s * dy).abs(), (c * dy - s * dx).abs()
    kernel = (half[:, None, None] + 0.5 - along).clamp(0, 1) * (1 - beside).clamp(0, 1)
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0)
    flat = pad(images, (_REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    flat = conv2d(flat, kernel[:, None], groups=count * channels)
    return flat[0].view(count, channels, *images.shape[2:])
