"""Variation of colour, sharpness and cover, for a whole batch at once on its device."""

from __future__ import annotations

import torch
from torch import Tensor

_BLURRED = 3  # one picture of so many is less sharp
_COMPRESSED = 6  # and one looks like a saved JPEG


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
    # the order of pictures in a batch means nothing, so that a fixed part of it is a fair part
    few = -(-b // _BLURRED)
    sharp = images[-few:]
    sharp.lerp_(_soft(sharp), chance()[-few:])
    images.clamp_(0, 1).pow_(((chance() - 0.5) * 0.9).exp())
    gain = (0.75 + 0.5 * chance()) * (0.88 + 0.24 * chance(3))
    images.mul_(gain).add_(0.5 - 0.5 * gain + (chance() - 0.5) * 0.2)
    noise = torch.randn(images.shape, generator=rng, device=device)
    images.addcmul_(noise, 0.04 * chance() * sometimes(0.5))
    images.clamp_(0, 1)
    few = -(-b // _COMPRESSED)
    if h % 8 == 0 and w % 8 == 0:
        images[:few] = compressed(images[:few], 0.02 + 0.14 * chance()[:few] ** 2)
    return images.contiguous(memory_format=torch.channels_last)


def _soft(images: Tensor) -> Tensor:
    """Return the mean of 3 x 3 pixels (B, 3, H, W); at the edges those of the other side count."""
    across = images + images.roll(1, 3) + images.roll(-1, 3)
    return (across + across.roll(1, 2) + across.roll(-1, 2)) / 9


def compressed(images: Tensor, step: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W), sides multiples of 8, with the blocks and rings of a JPEG.

    Cosine coefficients of 8 x 8 blocks of each channel are rounded to multiples of `step` (B, 1, 1,
    1), more coarsely the higher their frequency, as in the quantisation tables of ITU-T T.81 (K).
    """
    b, c, h, w = images.shape
    k = torch.arange(8, device=images.device, dtype=images.dtype)
    basis = torch.cos((2 * k + 1) * k[:, None] * (torch.pi / 16)) * 0.5
    basis[0] *= 0.5**0.5
    blocks = images.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    spectrum = basis @ (blocks - 0.5) @ basis.T
    unit = step[..., None, None] * (1 + 0.45 * (k[:, None] + k))
    spectrum = (spectrum / unit).round_() * unit
    back = basis.T @ spectrum @ basis + 0.5
    return back.transpose(3, 4).reshape(b, c, h, w).clamp_(0, 1)


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
