"""SelecSLS (Mehta et al. 2020, XNect, section 4): narrow 3x3 convolutions, concatenation only.

Every block concatenates three taps, and all but the first block of a level also the output of that
first block (the long skip). Layer names are those of the authors' release, so that its checkpoints
load strictly; timm's renamed ones load through `load_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the family: per level (inner width, output widths), then the ImageNet head."""

    levels: tuple[tuple[int, tuple[int, ...]], ...]
    head: tuple[tuple[int, int, int], ...]  # (channels, kernel, stride)


_LEVELS_42 = ((64, (64, 128)), (144, (144, 288)), (304, (304, 480)))
_LEVELS_60 = ((64, (64, 128)), (128, (128, 128, 288)), (288, (288, 288, 288, 416)))
VARIANTS: dict[str, Variant] = {
    "selecsls42": Variant(_LEVELS_42, ((960, 3, 2), (1024, 3, 1), (1024, 3, 2), (1280, 1, 1))),
    "selecsls42_b": Variant(_LEVELS_42, ((960, 3, 2), (1024, 3, 1), (1280, 3, 2), (1024, 1, 1))),
    "selecsls60": Variant(_LEVELS_60, ((756, 3, 2), (1024, 3, 1), (1024, 3, 2), (1280, 1, 1))),
    "selecsls60_b": Variant(_LEVELS_60, ((756, 3, 2), (1024, 3, 1), (1280, 3, 2), (1024, 1, 1))),
    "selecsls84": Variant(
        ((64, (64, 144)), (144, (144,) * 4 + (304,)), (304, (304,) * 5 + (512,))),
        ((960, 3, 2), (1024, 3, 1), (1024, 3, 2), (1280, 1, 1)),
    ),
    "selecsls102": Variant(
        ((64, (64, 64, 64, 128)), (128, (128,) * 4 + (288,)), (288, (288,) * 6 + (480,))),
        ((960, 3, 2), (1024, 3, 1), (1024, 3, 2), (1280, 1, 1)),
    ),
}
# Groups of the 3x3 convolutions in XNect's deployed core (60 only): per block of each level, first
# convolution, then the two narrow ones.
XNECT_GROUPS = (((1, 1), (1, 1)), ((2, 1), (2, 1), (4, 2)), ((4, 2), (4, 2), (4, 2), (4, 2)))
STEM_WIDTH = 32


def scaled(channels: int, width: float) -> int:
    """Return the channel count at a width factor: a multiple of 8, at least 8."""
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


def conv_bn(
    inp: int, outp: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inp, outp, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outp),
        nn.ReLU(inplace=True),
    )


class Block(nn.Module):
    """One SelecSLS block; the first of a level has stride 2 and no long skip as input."""

    def __init__(
        self, inp: int, skip: int, inner: int, outp: int, first: bool, groups: tuple[int, int]
    ) -> None:
        super().__init__()
        self.first = first
        half = inner // 2
        wide, narrow = groups
        self.conv1 = conv_bn(inp, inner, 3, 2 if first else 1, wide)
        self.conv2 = conv_bn(inner, inner, 1)
        self.conv3 = conv_bn(inner, half, 3, groups=narrow)
        self.conv4 = conv_bn(half, inner, 1)
        self.conv5 = conv_bn(inner, half, 3, groups=narrow)
        self.conv6 = conv_bn(inner + 2 * half + (0 if first else skip), outp, 1)

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (output, long skip) from (input, long skip)."""
        a = self.conv1(x[0])
        b = self.conv3(self.conv2(a))
        c = self.conv5(self.conv4(b))
        if self.first:
            out = self.conv6(torch.cat([a, b, c], 1))
            return out, out
        return self.conv6(torch.cat([a, b, c, x[1]], 1)), x[1]


class SelecSLS(nn.Module):
    """A SelecSLS network; without classes it is a backbone with feature taps only.

    Args:
        variant: a row of `VARIANTS`.
        classes: outputs of the ImageNet classifier, or 0 for no head.
        width: factor on all channel counts.
        grouped: XNect's grouped 3x3 convolutions (60 only).
    """

    strides = (2, 4, 8, 16)

    def __init__(
        self, variant: Variant, classes: int = 1000, width: float = 1.0, grouped: bool = False
    ) -> None:
        super().__init__()
        if grouped and len(variant.levels[2][1]) != 4:
            raise ValueError("grouped convolutions are defined for SelecSLS-60 only")
        stem = scaled(STEM_WIDTH, width)
        self.stem = conv_bn(3, stem, 3, 2)
        blocks: list[nn.Module] = []
        taps, inp = [], stem
        for i, (inner, outs) in enumerate(variant.levels):
            k, skip = scaled(inner, width), 0
            for j, out in enumerate(outs):
                outp = scaled(out, width)
                groups = XNECT_GROUPS[i][j] if grouped else (1, 1)
                blocks.append(Block(inp, skip, k, outp, j == 0, groups))
                skip, inp = (outp if j == 0 else skip), outp
            taps.append(len(blocks) - 1)
        self.taps = tuple(taps)
        self.channels = (stem, *(scaled(outs[-1], width) for _, outs in variant.levels))
        head: list[nn.Module] = []
        if classes:
            for out, kernel, stride in variant.head:
                head.append(conv_bn(inp, scaled(out, width), kernel, stride))
                inp = scaled(out, width)
            self.head: nn.Module | None = nn.Sequential(*head)
        else:
            self.head = None
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Linear(inp, classes)) if classes else None
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_taps(
        self, x: Tensor, more: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the feature maps at strides 2, 4, 8 and 16 of pictures (B, 3, H, W).

        more: is added to the features at stride 2.
        """
        x = self.stem(x)
        if more is not None:
            x = x + more
        found, pair = [x], (x, x)
        for i, block in enumerate(self.features):
            pair = block(pair)
            if i in self.taps:
                found.append(pair[0])
        return found[0], found[1], found[2], found[3]

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (B, classes); without a head the stride-16 features."""
        x = self.forward_taps(x)[-1]
        if self.head is None or self.classifier is None:
            return x
        logits: Tensor = self.classifier(self.head(x).mean(3).mean(2))
        return logits


def build(name: str, classes: int = 1000, width: float = 1.0, grouped: bool = False) -> SelecSLS:
    """Return the network of that name, a key of `VARIANTS`.

    Raises:
        ValueError: no network has this name.
    """
    key = name.lower().replace("-", "")
    if key not in VARIANTS:
        raise ValueError(f"no SelecSLS variant {name!r}; there are {', '.join(VARIANTS)}")
    return SelecSLS(VARIANTS[key], classes, width, grouped)


def load_checkpoint(net: SelecSLS, state: Mapping[str, Tensor]) -> None:
    """Load weights strictly, in the authors' naming or in timm's (``fc`` for the classifier).

    A network built without a head takes the backbone part of a whole checkpoint.

    Raises:
        RuntimeError: names or shapes differ (timm's SelecSLS-84 has another last head layer).
    """
    state = {
        ("classifier.0." + k[3:] if k.startswith("fc.") else k.removeprefix("module.")): v
        for k, v in state.items()
    }
    if net.head is None:
        state = {k: v for k, v in state.items() if not k.startswith(("head.", "classifier."))}
    net.load_state_dict(dict(state), strict=True)
