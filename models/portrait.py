"""The network of portraits: one person's part of the picture to heat-maps and bones.

A bottom-up network reads people of all sizes at once; this one is shown each of them upright in the
middle, always as large. What it has to learn is so much less that a small network and a few hours
suffice. Source of the idea: Xiao et al. 2018, "Simple Baselines for Human Pose Estimation". Where a
joint is is a choice among cells, as in Li et al. 2022 (SimCC), there of rows and columns. It is
also told what was read before, as in Moon et al. 2019 (PoseFix): whom is meant, among people who
cover each other, the picture alone does not say.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from manypose.models import selecsls
from manypose.models.selecsls import conv_bn, scaled
from manypose.pose.joints import JOINTS, JOINTS_2D
from manypose.pose.portraits import CLUES, HEIGHT, SIGMA_CELLS, STRIDE, WIDTH

_SHARPNESS = 10.0  # of the chances: what the last layer answers, times this, is their logarithm
_PEAK = 1 / (2 * math.pi * SIGMA_CELLS**2)  # the chance of the cell of a joint that is certain


class PortraitMaps(NamedTuple):
    """What the network answers for B people."""

    places: Tensor  # (B, K, h, w) at stride 4: logarithms of each cell's chance, but for a constant
    seen: Tensor  # (B, K): logits of whether the joint is there
    bones: Tensor  # (B, 3 J) in units of `joints.BONE_UNIT_M`, axes of a camera that looks at them

    def heatmaps(self) -> Tensor:
        """Return maps (B, K, h, w) in [0, 1], whose peaks are as high as the joint is certain."""
        k, h, w = self.places.shape[1:]
        chance = self.places.float().reshape(-1, k, h * w).softmax(2).reshape(-1, k, h, w)
        there = self.seen.float().sigmoid()[..., None, None]
        return (chance * (1 / _PEAK)).clamp(0, 1) * there


class Portrait(nn.Module):
    """Parts of pictures (B, 3, H, W), BGR in [0, 1], and clues (B, 2 K, h, w), to `PortraitMaps`.

    Sides are multiples of 16, h and w a quarter of them. Clues are maps of joints as they were read
    before, as high as they are sure, in [0, 1]; zeros where nothing is known: those of the person,
    then those of others. width: factor on all channel counts.
    """

    def __init__(self, width: float = 0.375) -> None:
        super().__init__()
        self.width = width
        self.backbone = selecsls.build("selecsls42", 0, width)
        _, c4, c8, c16 = self.backbone.channels
        n4, n8, n16 = scaled(96, width), scaled(128, width), scaled(192, width)
        self.smooth16 = nn.Sequential(conv_bn(c16, n16, 1), conv_bn(n16, n16), conv_bn(n16, n16))
        self.lateral8 = conv_bn(c8, n8, 1)
        self.smooth8 = conv_bn(n16 + n8, n8)
        self.lateral4 = conv_bn(c4, n4, 1)
        self.smooth4 = nn.Sequential(conv_bn(n8 + n4, n4), conv_bn(n4, n4))
        self.clues = nn.Conv2d(CLUES, self.backbone.channels[0], 1, bias=False)
        self.maps = nn.Conv2d(n4, len(JOINTS_2D), 1)
        self.body = nn.Sequential(conv_bn(n16 + n8, n16, 3, 2), conv_bn(n16, n16))
        self.bones = nn.Linear(n16, 3 * len(JOINTS))
        self.seen = nn.Linear(n16, len(JOINTS_2D))
        for last in (self.maps, self.bones, self.seen):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def of_sheets(self, sheets: Tensor) -> PortraitMaps:
        """Return what `forward` says of sheets (B, SHEET_HEIGHT, W, 3) uint8."""
        h, w = HEIGHT // STRIDE, WIDTH // STRIDE
        image = sheets[:, :HEIGHT].permute(0, 3, 1, 2).float() * (1 / 255)
        clues = sheets[:, HEIGHT:].flatten(1)[:, : CLUES * h * w].reshape(-1, CLUES, h, w)
        told: PortraitMaps = self(image, clues.float() * (1 / 255))
        return told

    def forward(self, x: Tensor, clues: Tensor) -> PortraitMaps:
        """Return where joints are, whether they are there, and bones."""
        _, f4, f8, f16 = self.backbone.forward_taps(x - 0.5, _twice(self.clues(clues)))
        f8 = torch.cat([_twice(self.smooth16(f16)), self.lateral8(f8)], 1)
        f4 = torch.cat([_twice(self.smooth8(f8)), self.lateral4(f4)], 1)
        places = _SHARPNESS * self.maps(self.smooth4(f4))
        body = self.body(f8).mean(3).mean(2)
        return PortraitMaps(places, self.seen(body), self.bones(body))


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
