"""VoVNet-39 and its eSE variant: one-shot aggregation.

Source: Lee et al. 2019, "An Energy and GPU-Computation Efficient Backbone Network"; Lee and Park
2020 ("CenterMask") added the eSE gate and the sum over the blocks of a level. Layer names follow
timm (Apache-2.0): `vovnet39` is its vovnet39a, `ese_vovnet39` its ese_vovnet39b. Code our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manypose.models.selecsls import scaled

LAYERS = 5  # 3x3 convolutions in a row in a block


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: stem, per level (inner, output, blocks); gates and sums (eSE) or not."""

    stem: tuple[int, int, int]
    levels: tuple[tuple[int, int, int], ...]
    ese: bool


_STEM = (64, 64, 128)
_LEVELS_39 = ((128, 256, 1), (160, 512, 1), (192, 768, 2), (224, 1024, 2))
VARIANTS: dict[str, Variant] = {
    "vovnet39": Variant(_STEM, _LEVELS_39, ese=False),
    "ese_vovnet39": Variant(_STEM, _LEVELS_39, ese=True),
}


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and ReLU."""

    def __init__(self, inp: int, outp: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, outp, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outp)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return torch.relu(self.bn(self.conv(x)))


class Gate(nn.Module):
    """Effective squeeze and excitation: each channel times a hard sigmoid of all the means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated features."""
        return x * nn.functional.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Block(nn.Module):
    """One-shot aggregation: a row of 3x3 convolutions, all concatenated once with the input."""

    def __init__(self, inp: int, inner: int, outp: int, gated: bool, summed: bool) -> None:
        super().__init__()
        self.conv_mid = nn.ModuleList(
            ConvNorm(inp if i == 0 else inner, inner) for i in range(LAYERS)
        )
        self.conv_concat = ConvNorm(inp + LAYERS * inner, outp, 1)
        self.attn = Gate(outp) if gated else None
        self.summed = summed

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        seen, last = [x], x
        for layer in self.conv_mid:
            last = layer(last)
            seen.append(last)
        y: Tensor = self.conv_concat(torch.cat(seen, 1))
        if self.attn is not None:
            y = self.attn(y)
        return y + x if self.summed else y


class Level(nn.Module):
    """The blocks of one stride, after a 3x3 maximum at every second px."""

    def __init__(
        self, inp: int, inner: int, outp: int, count: int, ese: bool, pooled: bool
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True) if pooled else None
        self.blocks = nn.Sequential(*(
            Block(inp if i == 0 else outp, inner, outp, ese and i == count - 1, ese and i > 0)
            for i in range(count)
        ))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the level's output."""
        y: Tensor = self.blocks(x if self.pool is None else self.pool(x))
        return y


class VoVNet(nn.Module):
    """A VoVNet; without classes it is a backbone that ends at stride 16.

    Args:
        variant: a row of `VARIANTS`.
        classes: outputs of the classifier, or 0 for none.
        width: factor on all channel counts.
    """

    strides = (2, 4, 8, 16)

    def __init__(self, variant: Variant, classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        a, b, inp = (scaled(c, width) for c in variant.stem)
        self.stem = nn.Sequential(ConvNorm(3, a, 3, 2), ConvNorm(a, b), ConvNorm(b, inp, 3, 2))
        channels, levels = [b], []
        for i, (inner, outp, count) in enumerate(variant.levels if classes else variant.levels[:3]):
            outp = scaled(outp, width)
            levels.append(Level(inp, scaled(inner, width), outp, count, variant.ese, i > 0))
            inp = outp
            channels.append(outp)
        self.channels = tuple(channels[:4])
        self.stages = nn.Sequential(*levels)
        self.head = nn.ModuleDict({"fc": nn.Linear(inp, classes)}) if classes else None
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the feature maps at strides 2, 4, 8 and 16 of pictures (B, 3, H, W)."""
        f2 = self.stem[1](self.stem[0](x))
        f4 = self.stages[0](self.stem[2](f2))
        f8 = self.stages[1](f4)
        return f2, f4, f8, self.stages[2](f8)

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (B, classes); without a classifier the stride-16 features."""
        f16 = self.forward_taps(x)[-1]
        if self.head is None:
            return f16
        logits: Tensor = self.head["fc"](self.stages[3](f16).mean((2, 3)))
        return logits


def build(name: str = "vovnet39", classes: int = 1000, width: float = 1.0) -> VoVNet:
    """Return the network of that name, a key of `VARIANTS`."""
    return VoVNet(VARIANTS[name], classes, width)
