"""Res2Net-50, 26w 4s (Gao et al. 2019, "Res2Net", section 3): a hierarchy inside each bottleneck.

Layer names and the order of the splits follow timm (Apache-2.0), whose checkpoints load strictly:
the last split is the untouched one, average-pooled in the first block of a level. Code our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manypose.models import resnet
from manypose.models.resnet import EXPANSION, ResNet, shortcut
from manypose.models.selecsls import scaled


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the family: blocks per level, width of a split at 64 planes, number of splits."""

    blocks: tuple[int, int, int, int]
    split_width: int
    splits: int


VARIANTS: dict[str, Variant] = {"res2net50": Variant((3, 4, 6, 3), 26, 4)}


class Block(nn.Module):
    """1x1 to `splits` parts; each 3x3 also sees the part before it; 1x1 up, plus the input."""

    def __init__(
        self,
        inp: int,
        planes: int,
        stride: int,
        width: float,
        first: bool,
        split_width: int = 26,
        splits: int = 4,
    ) -> None:
        super().__init__()
        self.part, self.splits = scaled(split_width * planes // 64, width), splits
        inner, outp = self.part * splits, scaled(planes * EXPANSION, width)
        self.conv1 = nn.Conv2d(inp, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.part, self.part, 3, stride, 1, bias=False) for _ in range(splits - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.part) for _ in range(splits - 1))
        self.conv3 = nn.Conv2d(inner, outp, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outp)
        self.pool = nn.AvgPool2d(3, stride, 1) if first else None
        self.downsample = shortcut(inp, outp, stride) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        parts = torch.split(torch.relu(self.bn1(self.conv1(x))), self.part, 1)
        done: list[Tensor] = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns)):
            # A first block has no sums: its parts would differ in size where it strides.
            alone = i == 0 or self.pool is not None
            done.append(torch.relu(bn(conv(parts[i] if alone else parts[i] + done[-1]))))
        last = parts[self.splits - 1]
        done.append(last if self.pool is None else self.pool(last))
        y = self.bn3(self.conv3(torch.cat(done, 1)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def build(name: str = "res2net50", classes: int = 1000, width: float = 1.0) -> ResNet:
    """Return the network of that name, a key of `VARIANTS`; as a backbone it ends with layer 3."""
    row = VARIANTS[name]

    def block(inp: int, planes: int, stride: int, width: float, first: bool) -> nn.Module:
        return Block(inp, planes, stride, width, first, row.split_width, row.splits)

    return ResNet(resnet.Variant(row.blocks), classes, width, block=block)
