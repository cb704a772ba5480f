"""The network as it is trained: its answers, a teacher's hidden layer, precision and layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manypose.models.heads import Maps, StageOne


class Student(nn.Module):
    """The network, and a layer that answers a teacher's hidden layer from the shared features."""

    def __init__(self, net: StageOne, channels: int) -> None:
        super().__init__()
        self.net = net
        width = net.trunk[-1][0].out_channels  # type: ignore[index]
        self.guess = nn.Conv2d(width, channels, 1) if channels else None

    def forward(self, images: Tensor) -> tuple[Maps, Tensor | None]:
        """Return the maps, and what the teacher's layer may be."""
        features = self.net.features(images)
        return self.net.read(features), None if self.guess is None else self.guess(features)


def bf16_here(device: torch.device) -> bool:
    """Return whether the processor computes in bfloat16, so that it is faster and not slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(ask and ask())


def channels_last(net: nn.Module) -> None:
    """Lay the kernels out channels-last: two to three times the speed of bf16 on CPU and GPU."""
    for p in net.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
