"""What the whole picture might have shown of a person: readings with faults, to learn from.

The network of portraits is told where joints were read before. It learns what such readings are
worth, and whom they mean where people overlap, from the truth with faults of the kinds that
bottom-up networks make. Source of the idea: Moon et al. 2019 (PoseFix), whose faults follow
Ronchi and Perona 2017 ("Benchmarking and error diagnosis in multi-instance pose estimation").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manypose.pose.joints import INDEX_2D, JOINTS_2D, MIRROR_2D
from manypose.pose.portraits import HEIGHT, SIGMA_CELLS, STRIDE, WIDTH

_PARTS = (
    ("nose", "l_eye", "r_eye", "l_ear", "r_ear", "head_top"),
    ("l_elbow", "l_wrist"), ("r_elbow", "r_wrist"), ("l_wrist",), ("r_wrist",),
    ("l_knee", "l_ankle"), ("r_knee", "r_ankle"), ("l_ankle",), ("r_ankle",),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of faults, and how far joints are off, as `light` reads people it has not seen."""

    real: float = 0.85  # of the portraits of which there is a real reading, it is told
    none: float = 0.15  # of the portraits nothing is told
    fewest: float = 0.3  # share of the joints told, at least
    sure: tuple[float, float] = (0.3, 0.8)  # from, to: how sure a reading is; joints differ
    sure_joint: float = 0.18  # standard deviation
    off_px: float = 2.3  # standard deviation where it is 0.8 sure, of a portrait
    off_unsure: float = 2.5  # the logarithm of off_px grows by so much if it is not sure at all
    off_joint: float = 0.5  # standard deviation of that logarithm
    mirrored: float = 0.04  # of the portraits, sides exchanged
    swapped: float = 0.03  # of the joints
    strangers: float = 0.3  # of the portraits that show somebody else; limbs of theirs
    limbs: float = 0.3  # of the limbs there
    invented: float = 0.35  # of the joints that are not there
    alone: float = 0.3  # of the portraits nothing is told of others
    again_px: float = 1.0  # standard deviation of what real readings vary
    forgotten: float = 0.06  # share of their joints, and of people, that are not told
    twice: float = 0.06  # of the portraits the person was found twice, once as somebody else


def gaussians(px: Tensor) -> Tensor:
    """Return maps (B, K, h, w) of joints (B, K, 2), px of a portrait; their highest is 1."""
    cells = (px - (STRIDE - 1) / 2) / STRIDE
    x = torch.arange(WIDTH // STRIDE, device=px.device) - cells[..., :1]
    y = torch.arange(HEIGHT // STRIDE, device=px.device) - cells[..., 1:]
    narrow = -0.5 / SIGMA_CELLS**2
    return (narrow * x.square()).exp()[..., None, :] * (narrow * y.square()).exp()[..., None]


def simulated(
    px: Tensor, seen: Tensor, other_px: Tensor, other_seen: Tensor, how: Faults,
    rng: torch.Generator,
) -> Tensor:  # fmt: skip
    """Return maps (B, 2 K, h, w) in [0, 1] of what was read before, as high as it seemed sure.

    Those of the person come first, then those of others. px, other_px (B, K, 2): joints of a person
    and of who is nearest, px of the portrait; seen, other_seen (B, K): these are there.
    """
    b, k = seen.shape
    device = px.device

    def chance(*shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=rng, device=device)

    at, height = _read(px, seen, how, rng)
    whose = (chance(1) < how.strangers) & (chance(len(_PARTS)) < how.limbs)
    stranger = (whose[..., None] & _members(device)).any(1) & other_seen
    at = torch.where(stranger[..., None], other_px, at)
    height = torch.where(stranger, 0.2 + 0.6 * chance(k), height)
    own = gaussians(at) * (height * (chance(1) >= how.none))[..., None, None]

    at, height = _read(other_px, other_seen, how, rng)
    others = gaussians(at) * (height * (chance(1) >= how.alone))[..., None, None]
    at, height = _read(px, seen, how, rng)
    again = gaussians(at) * (height * (chance(1) < how.twice))[..., None, None]
    return torch.cat([own, torch.maximum(others, again)], 1)


def told_again(found: Sequence[tuple[Tensor, Tensor]], how: Faults, rng: torch.Generator) -> Tensor:
    """Return maps (B, 2 K, h, w) of real readings, of the person first, then of others.

    found: px of the portrait (B, K, 2) and how sure (B, K).
    """
    b, k = found[0][1].shape
    device = found[0][1].device
    maps = []
    for px, sure in found:
        draw = torch.rand(b, k, generator=rng, device=device)
        near = px + how.again_px * torch.randn(b, k, 2, generator=rng, device=device)
        height = sure * (draw >= how.forgotten)
        maps.append(gaussians(near) * height[..., None, None])
    whole = torch.rand(2, b, 1, 1, 1, generator=rng, device=device)
    others = torch.stack(maps[1:]).amax(0) * (whole[0] >= how.forgotten)
    return torch.cat([maps[0] * (whole[1] >= how.forgotten), others], 1).clamp(0, 1)


def _read(px: Tensor, seen: Tensor, how: Faults, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return where joints (B, K, 2) were read, and how sure (B, K)."""
    b, k = seen.shape
    device = px.device

    def chance(*shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=rng, device=device)

    sides = list(MIRROR_2D)
    exchanged = (chance(1) < how.mirrored) | (chance(k) < how.swapped)
    at = torch.where(exchanged[..., None], px[:, sides], px)
    there = torch.where(exchanged, seen[:, sides], seen)
    normal = torch.randn(b, k, 4, generator=rng, device=device)
    low, high = how.sure
    sure = (low + (high - low) * chance(1) + how.sure_joint * normal[..., 2]).clamp(0.12, 0.95)
    off = how.off_px * (how.off_unsure * (0.8 - sure) + how.off_joint * normal[..., 3]).exp()
    at = at + off[..., None] * normal[..., :2]
    told = there & (chance(k) < how.fewest + (1 - how.fewest) * chance(1).pow(0.4))
    # nothing is invented of people who are not there
    invented = ~seen & seen.any(1, keepdim=True) & (chance(k) < how.invented)
    size = torch.tensor([WIDTH, HEIGHT], device=device)
    at = torch.where(invented[..., None], size * chance(k, 2), at)
    return at, torch.where(invented, 0.15 + 0.4 * chance(k), sure * told)


def _members(device: torch.device) -> Tensor:
    """Return which joints (parts, K) belong to a part of the body."""
    out = torch.zeros(len(_PARTS), len(JOINTS_2D), dtype=torch.bool, device=device)
    for n, names in enumerate(_PARTS):
        out[n, [INDEX_2D[name] for name in names]] = True
    return out
