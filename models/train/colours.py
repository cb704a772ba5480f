"""Variation of colour, sharpness and cover, for a whole batch at once on its device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def vary(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return pictures (B, 3, H, W) in [0, 1], each varied by chance; no labels move."""
    b, _, h, w = images.shape
    device = images.device

    def chance(channels: int = 1) -> Tensor:
        return torch.rand(b, channels, 1, 1, generator=rng, device=device)

    def sometimes(share: float) -> Tensor:
        return (chance() < share).float()

    # in place: on a CPU fresh memory of this size costs as much as the arithmetic
    # a piece of another picture, or a bar of one colour, hides parts of people
    patch = _patch(b, h, w, rng, device, 0.05, 0.25) * sometimes(0.3)
    images = torch.lerp(images, images.roll(1, 0).flip(3), patch)
    bar = _patch(b, h, w, rng, device, 0.01, 0.06) * sometimes(0.15)
    images.lerp_(chance(3).expand_as(images), bar)
    images.lerp_(images.mean(1, keepdim=True).expand_as(images), sometimes(0.15) * chance())
    soft = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    images.lerp_(soft, sometimes(0.3) * chance())
    images.clamp_(0, 1).pow_(((chance() - 0.5) * 0.9).exp())
    gain = (0.75 + 0.5 * chance()) * (0.88 + 0.24 * chance(3))
    images.mul_(gain).add_(0.5 - 0.5 * gain + (chance() - 0.5) * 0.2)
    noise = torch.randn(images.shape, generator=rng, device=device)
    images.addcmul_(noise, 0.04 * chance() * sometimes(0.5))
    return images.clamp_(0, 1).contiguous(memory_format=torch.channels_last)


def _patch(
    b: int, h: int, w: int, rng: torch.Generator, device: torch.device, low: float, high: float
) -> Tensor:
    """Return (B, 1, H, W): one turned rectangle or ellipse a picture, 1 inside.

    One side is between `low` and `high` of the picture's, the other up to half of it.
    """

    def chance(width: float, start: float) -> Tensor:
        return torch.rand(b, 1, 1, 1, generator=rng, device=device) * width + start

    x = torch.arange(w, device=device) - chance(w, 0)
    y = torch.arange(h, device=device)[:, None] - chance(h, 0)
    turn = chance(3.1416, 0)
    along, across = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    a = along / (0.5 * w * chance(high - low, low))
    c = across / (0.5 * h * chance(0.4, 0.1))
    rectangle = torch.maximum(a.abs(), c.abs()) < 1
    ellipse = a * a + c * c < 1
    return torch.where(chance(1, 0) < 0.5, rectangle, ellipse).float()
