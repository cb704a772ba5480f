"""From ESPNet to SelecSLS: the encoder and the steps that the SelecSLS blog post tells of.

- `espnet`: the encoder of Mehta et al. 2018 (ESPNet, section 3): 1x1 (or strided 3x3) to a fifth of
  the channels, five 3x3 with dilation 1, 2, 4, 8, 16, their outputs summed step by step and
  concatenated, plus the input; the picture, averaged, joins at strides 2 and 4. Blocks per level as
  in the paper (2 and 8). It ends at stride 8 there; the level at stride 16 is ours (same pattern).
- `espnet_hierarchical`: the post's first idea: convolutions between the sums instead of before
  them, so each sees the one before it; four layers deep, the same number of operations.
- `dlnas_middle`: the post's Fig. 2, middle: regular convolutions, 1x1 before 3x3, "close
  resemblance to Res2Net". Ours: one 1x1 for each 3x3, four of them, and the widths.
- `dlnas_right`: Fig. 2, right: the final design but with "hierarchical feature aggregation" and
  without skips between modules. Ours: that the sum is of the two narrow 3x3; the widths are those
  of SelecSLS-60.

The post's figure itself was not at hand: the text alone is followed. ESPNet's own code is MIT
(sacmehta/ESPNet); this code is our own, and no released weights load into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manypose.models.selecsls import STEM_WIDTH, conv_bn, scaled

DILATIONS = (1, 2, 4, 8, 16)
PARTS = 4


class Pyramid(nn.Module):
    """ESPNet's spatial pyramid of dilated convolutions; no sum with the input where it strides."""

    def __init__(self, inp: int, outp: int, stride: int, hierarchical: bool) -> None:
        super().__init__()
        part = max(1, outp // len(DILATIONS))
        first = outp - (len(DILATIONS) - 1) * part
        self.hierarchical, self.summed = hierarchical, stride == 1 and inp == outp
        kernel = 1 if stride == 1 else 3
        self.reduce = nn.Conv2d(inp, part, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(part, first if d == 1 else part, 3, padding=d, dilation=d, bias=False)
            for d in DILATIONS
        )
        self.norm = nn.BatchNorm2d(outp)
        self.act = nn.PReLU(outp)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        reduced = self.reduce(x)
        # The branch of dilation 1 has another width and takes no part in the sums.
        done: list[Tensor] = [self.branches[0](reduced)]
        for i, branch in enumerate(list(self.branches)[1:]):
            if i == 0:
                done.append(branch(reduced))
            elif self.hierarchical:
                done.append(branch(reduced + done[-1]))
            else:
                done.append(branch(reduced) + done[-1])
        y = torch.cat(done, 1)
        out: Tensor = self.act(self.norm(y + x if self.summed else y))
        return out


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


class ESPNet(nn.Module):
    """The ESPNet encoder with a level at stride 16; see the module's docstring.

    Args:
        hierarchical: convolutions between the sums.
        width: factor on all channel counts.
        blocks: per level at strides 4, 8 and 16.
    """

    strides = (2, 4, 8, 16)

    def __init__(
        self, hierarchical: bool, width: float = 1.0, blocks: tuple[int, int, int] = (2, 8, 4)
    ) -> None:
        super().__init__()
        stem, *widths = (scaled(c, width) for c in (16, 64, 128, 256))
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), _norm(stem))
        self.shrink2 = nn.AvgPool2d(3, 2, 1)
        self.shrink4 = nn.AvgPool2d(3, 2, 1)
        self.join2 = _norm(stem + 3)
        inp, self.downs, self.levels = stem + 3, nn.ModuleList(), nn.ModuleList()
        joins, channels = [], [inp]
        for i, (outp, count) in enumerate(zip(widths, blocks)):
            self.downs.append(Pyramid(inp, outp, 2, hierarchical))
            self.levels.append(
                nn.Sequential(*(Pyramid(outp, outp, 1, hierarchical) for _ in range(count)))
            )
            inp = 2 * outp + (3 if i == 0 else 0)
            joins.append(_norm(inp))
            channels.append(inp)
        self.joins = nn.ModuleList(joins)
        self.channels = tuple(channels)

    def forward_taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the feature maps at strides 2, 4, 8 and 16 of pictures (B, 3, H, W)."""
        half = self.shrink2(x)
        f = self.join2(torch.cat([self.stem(x), half], 1))
        found = [f]
        for i, (down, level, join) in enumerate(zip(self.downs, self.levels, self.joins)):
            first = down(f)
            parts = [level(first), first]
            if i == 0:
                parts.append(self.shrink4(half))
            f = join(torch.cat(parts, 1))
            found.append(f)
        return found[0], found[1], found[2], found[3]

    def forward(self, x: Tensor) -> Tensor:
        """Return the stride-16 features."""
        return self.forward_taps(x)[-1]


class Middle(nn.Module):
    """1x1 to parts, each 3x3 sees its part and the output before it, 1x1, plus the input."""

    def __init__(self, inp: int, inner: int, outp: int, first: bool) -> None:
        super().__init__()
        part = max(1, inner // PARTS)
        self.summed = inp == outp and not first
        self.reduce = nn.ModuleList(conv_bn(inp, part, 1) for _ in range(PARTS))
        stride = 2 if first else 1
        self.convs = nn.ModuleList(conv_bn(part, part, 3, stride) for _ in range(PARTS))
        # In a strided module an output must not meet its larger input: the parts stay apart.
        self.chained = not first
        self.join = conv_bn(part * PARTS, outp, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        done: list[Tensor] = []
        for i, (reduce, conv) in enumerate(zip(self.reduce, self.convs)):
            y = reduce(x)
            done.append(conv(y + done[-1] if i and self.chained else y))
        out: Tensor = self.join(torch.cat(done, 1))
        return out + x if self.summed else out


class Right(nn.Module):
    """The SelecSLS module with the two narrow outputs summed step by step and no long skip."""

    def __init__(self, inp: int, inner: int, outp: int, first: bool) -> None:
        super().__init__()
        half = inner // 2
        self.conv1 = conv_bn(inp, inner, 3, 2 if first else 1)
        self.conv2, self.conv3 = conv_bn(inner, inner, 1), conv_bn(inner, half)
        self.conv4, self.conv5 = conv_bn(half, inner, 1), conv_bn(inner, half)
        self.conv6 = conv_bn(inner + 2 * half, outp, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        a = self.conv1(x)
        b = self.conv3(self.conv2(a))
        c = self.conv5(self.conv4(b))
        out: Tensor = self.conv6(torch.cat([a, b, b + c], 1))
        return out


@dataclass(frozen=True, slots=True)
class Early:
    """One row of the intermediate designs: its module, and per level (inner, output widths)."""

    module: type[Middle] | type[Right]
    levels: tuple[tuple[int, tuple[int, ...]], ...]


EARLY: dict[str, Early] = {
    "dlnas_middle": Early(
        Middle, ((64, (128, 128)), (128, (256, 256, 256)), (256, (416, 416, 416, 416)))
    ),
    "dlnas_right": Early(
        Right, ((64, (64, 128)), (128, (128, 128, 288)), (288, (288, 288, 288, 416)))
    ),
}
NAMES = ("espnet", "espnet_hierarchical", *EARLY)


class EarlySelecSLS(nn.Module):
    """An intermediate design as a backbone: a 3x3 stem and three levels."""

    strides = (2, 4, 8, 16)

    def __init__(self, row: Early, width: float = 1.0) -> None:
        super().__init__()
        inp = scaled(STEM_WIDTH, width)
        self.stem = conv_bn(3, inp, 3, 2)
        channels, levels = [inp], []
        for inner, outs in row.levels:
            blocks = []
            for j, out in enumerate(outs):
                outp = scaled(out, width)
                blocks.append(row.module(inp, scaled(inner, width), outp, j == 0))
                inp = outp
            levels.append(nn.Sequential(*blocks))
            channels.append(inp)
        self.levels = nn.Sequential(*levels)
        self.channels = tuple(channels)

    def forward_taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the feature maps at strides 2, 4, 8 and 16 of pictures (B, 3, H, W)."""
        f2 = self.stem(x)
        f4 = self.levels[0](f2)
        f8 = self.levels[1](f4)
        return f2, f4, f8, self.levels[2](f8)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stride-16 features."""
        return self.forward_taps(x)[-1]


def build(name: str, width: float = 1.0) -> nn.Module:
    """Return the backbone of that name, one of `NAMES`.

    Raises:
        ValueError: no network has this name.
    """
    if name not in NAMES:
        raise ValueError(f"no network {name!r}; there are {', '.join(NAMES)}")
    net = (
        EarlySelecSLS(EARLY[name], width)
        if name in EARLY
        else ESPNet(name == "espnet_hierarchical", width)
    )
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return net
