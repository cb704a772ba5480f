"""ResNet-50 (He et al. 2016, "Deep Residual Learning", table 1) with feature taps.

Layer names follow torchvision (BSD-3-Clause) and timm (Apache-2.0), so that their checkpoints load
strictly; the code is our own. The stride of a level sits in its 3x3 convolution, as in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from manypose.models.selecsls import scaled

EXPANSION = 4
PLANES = (64, 128, 256, 512)
TAILS = ("layer3", "res5a", "whole")


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the family: blocks per level."""

    blocks: tuple[int, int, int, int]


VARIANTS: dict[str, Variant] = {"resnet50": Variant((3, 4, 6, 3))}

# (input channels, planes, stride, width factor, first of its level) -> block
BlockMaker = Callable[[int, int, int, float, bool], nn.Module]


def shortcut(inp: int, outp: int, stride: int) -> nn.Sequential:
    """Return the 1x1 convolution and normalisation that lead past the first block of a level."""
    return nn.Sequential(nn.Conv2d(inp, outp, 1, stride, bias=False), nn.BatchNorm2d(outp))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, plus the input."""

    def __init__(self, inp: int, planes: int, stride: int, width: float, first: bool) -> None:
        super().__init__()
        inner, outp = scaled(planes, width), scaled(planes * EXPANSION, width)
        self.conv1 = nn.Conv2d(inp, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outp, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outp)
        self.act = nn.ReLU(inplace=True)
        self.downsample = shortcut(inp, outp, stride) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.act(self.bn1(self.conv1(x)))
        y = self.act(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network of four levels.

    Args:
        variant: blocks per level.
        classes: outputs of the classifier, or 0 for a backbone with feature taps only.
        width: factor on all channel counts.
        tail: where a backbone ends: "layer3", or "res5a": the first block of the fourth level with
            stride 1, as in VNect and XNect's baseline; with classes always "whole".
        block: what the levels are made of.
    """

    strides = (2, 4, 8, 16)
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        variant: Variant,
        classes: int = 1000,
        width: float = 1.0,
        tail: str = "layer3",
        block: BlockMaker = Bottleneck,
    ) -> None:
        super().__init__()
        if tail not in TAILS:
            raise ValueError(f"no tail {tail!r}; there are {', '.join(TAILS)}")
        self.tail = "whole" if classes else tail
        stem = scaled(64, width)
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inp, channels = stem, [stem]
        for level, (planes, count) in enumerate(zip(PLANES, variant.blocks)):
            stride = 1 if level == 0 else 2
            if level == 3:
                if self.tail == "layer3":
                    break
                if self.tail == "res5a":
                    stride, count = 1, 1
            outp = scaled(planes * EXPANSION, width)
            blocks = [block(inp, planes, stride, width, True)]
            blocks += [block(outp, planes, 1, width, False) for _ in range(count - 1)]
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
            inp = outp
            channels.append(outp)
        if self.tail == "res5a":
            channels[3] = channels.pop()
        self.channels = tuple(channels[:4])
        self.fc = nn.Linear(inp, classes) if classes else None
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the feature maps at strides 2, 4, 8 and 16 of pictures (B, 3, H, W)."""
        f2 = self.act1(self.bn1(self.conv1(x)))
        f4 = self.layer1(self.maxpool(f2))
        f8 = self.layer2(f4)
        f16 = self.layer3(f8)
        return f2, f4, f8, self.layer4(f16) if self.tail == "res5a" else f16

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (B, classes); without a classifier the stride-16 features."""
        f16 = self.forward_taps(x)[-1]
        if self.tail != "whole":
            return f16
        f32: Tensor = self.layer4(f16)
        return f32 if self.fc is None else cast("Tensor", self.fc(f32.mean((2, 3))))


def build(
    name: str = "resnet50", classes: int = 1000, width: float = 1.0, tail: str = "layer3"
) -> ResNet:
    """Return the network of that name, a key of `VARIANTS`."""
    return ResNet(VARIANTS[name], classes, width, tail)
