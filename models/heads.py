"""Stage I: a backbone, a decoder to stride 8, a 2D head and a 3D head.

Source: Mehta et al. 2020 (XNect), section 4. Beyond it: the stride-8 features join the decoder
(small people), a stride-32 context path (large ones), and ear-shoulder limbs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from manypose.models import espnet, res2net, resnet, selecsls, vovnet
from manypose.models.selecsls import conv_bn, scaled
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS

STRIDE = 8


class Backbone(Protocol):
    """A network with feature taps at strides 2, 4, 8 and 16."""

    channels: tuple[int, int, int, int]

    def forward_taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features at strides 2, 4, 8 and 16."""
        ...


def _selecsls(name: str, grouped: bool = False) -> Callable[[float], nn.Module]:
    return lambda width: selecsls.build(name, classes=0, width=width, grouped=grouped)


# Name -> function from a width factor to a module that follows the `Backbone` protocol.
BACKBONES: dict[str, Callable[[float], nn.Module]] = {
    **{name: _selecsls(name) for name in selecsls.VARIANTS},
    "selecsls60_grouped": _selecsls("selecsls60", grouped=True),
    # The rivals, for comparison; a "resnet50" ends with layer 3, "resnet50_res5a" one block later.
    "resnet50": lambda width: resnet.build("resnet50", 0, width),
    "resnet50_res5a": lambda width: resnet.build("resnet50", 0, width, "res5a"),
    **{n: functools.partial(vovnet.build, n, 0) for n in vovnet.VARIANTS},
    **{n: functools.partial(res2net.build, n, 0) for n in res2net.VARIANTS},
    **{n: functools.partial(espnet.build, n) for n in espnet.NAMES},
}


class Maps(NamedTuple):
    """What Stage I answers: all at stride 8, (B, channels, h, w)."""

    heatmaps: Tensor  # K
    pafs: Tensor  # 2 L
    encodings: Tensor  # 3 J


class StageOne(nn.Module):
    """Pictures (B, 3, H, W), BGR in [0, 1], sides multiples of 16, to maps at stride 8.

    Args:
        backbone: a key of `BACKBONES`.
        width: factor on all channel counts (the light model has 0.5).
    """

    def __init__(self, backbone: str = "selecsls60", width: float = 1.0) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"no backbone {backbone!r}; there are {', '.join(BACKBONES)}")
        self.backbone = BACKBONES[backbone](width)
        _, _, c8, c16 = cast("Backbone", self.backbone).channels

        def s(channels: int) -> int:
            return scaled(channels, width)

        self.lateral8 = conv_bn(c8, s(128), 1)
        self.lateral16 = conv_bn(c16, s(128), 1)
        self.context = nn.Sequential(
            conv_bn(c16, s(192), 1), conv_bn(s(192), s(192), 3, 2), conv_bn(s(192), s(128), 3)
        )
        self.smooth16 = conv_bn(s(128), s(128))
        self.trunk = nn.Sequential(conv_bn(2 * s(128), s(192)), conv_bn(s(192), s(192)))
        maps = len(JOINTS_2D) + 2 * len(LIMBS)
        self.head2d = nn.Sequential(conv_bn(s(192), s(192), 1), nn.Conv2d(s(192), maps, 1))
        self.head3d = nn.Sequential(
            conv_bn(s(192) + maps, s(160), 1),
            conv_bn(s(160), s(160)),
            nn.Conv2d(s(160), 3 * len(JOINTS), 1),
        )
        for head in (self.head2d, self.head3d):
            last = cast("nn.Conv2d", head[-1])
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(cast("Tensor", last.bias))

    def features(self, x: Tensor) -> Tensor:
        """Return the shared features at stride 8."""
        _, _, f8, f16 = cast("Backbone", self.backbone).forward_taps(x - 0.5)
        context = _resize(self.context(f16), f16)
        f = self.smooth16(self.lateral16(f16) + context)
        return cast("Tensor", self.trunk(torch.cat([_resize(f, f8), self.lateral8(f8)], 1)))

    def forward(self, x: Tensor) -> Maps:
        """Return the maps; the 3D head sees the 2D maps but does not train them."""
        return self.read(self.features(x))

    def read(self, f: Tensor) -> Maps:
        """Return the maps of shared features."""
        flat = self.head2d(f)
        encodings = self.head3d(torch.cat([f, flat.detach()], 1))
        k = len(JOINTS_2D)
        return Maps(flat[:, :k], flat[:, k:], encodings)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
