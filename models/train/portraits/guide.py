"""Hidden layers of another network for one person's crop, which portraits learn to answer as well.

A label says of a portrait where some twenty joints are; a layer of a network that has seen millions
of people says thousands of things. Source of the idea: Romero et al. 2015 (FitNets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manypose.errors import WeightsError
from manypose.models import own_networks, topdown
from manypose.models.portrait import Portrait
from manypose.models.sessions import openvino_core
from manypose.models.train import checkpoints
from manypose.models.train.distil import with_layers
from manypose.models.train.student import bf16_here
from manypose.pose.portraits import HEIGHT, STRIDE, WIDTH

Teacher = Callable[[Tensor], "list[Tensor]"]
_LR = 2e-3  # of the layers between the two networks
_FAR = 6.0  # standard deviations: single cells do not count more


def open_teacher(path: Path, layers: Sequence[str], threads: int = 1) -> Teacher:
    """Return a function from portraits (B, 3, H, W), BGR in [0, 1], to layers (B, c, h, w).

    path: the TOML of a network for one person's crop (docs/own_networks.md); layers: names of its
    operations. It runs on the CPU by OpenVINO, in bfloat16 where the processor is fast at it.

    Raises:
        ConfigError: the TOML is wrong.
        WeightsError: a file is missing or damaged, or there is no such layer; when it is called:
            layers are no maps.
    """
    pose = own_networks.read(path).pose
    if pose.kind == "one-stage":
        raise WeightsError(f"{path} looks at whole pictures: a teacher is shown one person")
    model = with_layers(pose.file, layers)
    ends = [r.input_value(0).get_node().get_friendly_name() for r in model.get_results()]
    places = [ends.index(layer) for layer in layers]
    hint = "bf16" if bf16_here(torch.device("cpu")) else "f32"
    # pinned, the teachers of several processes would all wait for the first core
    settings = {
        "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": hint,
    }  # fmt: skip
    compiled: dict[int, Any] = {}

    def teacher(images: Tensor) -> list[Tensor]:
        count, (width, height) = len(images), pose.input
        if count not in compiled:
            shape = (height, width, 3) if pose.layout == "nhwc" else (3, height, width)
            try:
                model.reshape([count, *shape])
                compiled[count] = openvino_core().compile_model(model, "CPU", settings)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise WeightsError(f"{pose.file} cannot be a teacher ({reason})") from None
        large = nn.functional.interpolate(
            images.cpu().float(), size=(height, width), mode="bicubic", align_corners=False
        )
        x = topdown.blob(255 * large.permute(0, 2, 3, 1).numpy(), pose)
        answers = list(compiled[count]([x]).values())
        found = [answers[place] for place in places]
        for name, layer in zip(layers, found):
            if layer.ndim != 4:
                raise WeightsError(f"{pose.file}: layer {name} answers no maps: name another")
        return [torch.from_numpy(f.astype(np.float32)).to(images.device) for f in found]

    return teacher


class Guide:
    """What lies between a teacher's layers and those of the network that learns.

    Each layer of the teacher is answered, by one 1x1 convolution, from the layer of `net` whose
    grid is most like its own.
    """

    def __init__(self, teacher: Teacher, net: Portrait, device: torch.device) -> None:
        self._teacher = teacher
        self._made: dict[int, Tensor] = {}
        taps = (net.smooth4, net.smooth8, net.smooth16)
        for n, tap in enumerate(taps):
            tap.register_forward_hook(lambda _m, _x, made, n=n: self._made.__setitem__(n, made))
        with torch.no_grad():
            there = teacher(torch.zeros(1, 3, HEIGHT, WIDTH))
        rows = np.log([HEIGHT / STRIDE / 2**n for n in range(len(taps))])
        self._from = [int(np.abs(rows - np.log(v.shape[2])).argmin()) for v in there]
        self.between = nn.ModuleList(
            [nn.Conv2d(_width(taps[n]), v.shape[1], 1) for n, v in zip(self._from, there)]
        ).to(device)
        self._optimizer = torch.optim.AdamW(self.between.parameters(), lr=_LR, weight_decay=0)

    def loss(self, images: Tensor, somebody: Tensor) -> Tensor:
        """Return the loss of the answers just made for portraits (B, 3, H, W).

        somebody (B,): whether somebody is shown; of others a teacher knows nothing.
        """
        if not somebody.any():
            return images.new_zeros(())
        wanted = self._teacher(images)
        losses = []
        for between, n, layer in zip(self.between, self._from, wanted):
            got = between(self._made[n].float())[somebody]
            losses.append(nn.functional.mse_loss(got, _even(layer[somebody], got.shape[2:])))
        return torch.stack(losses).mean()

    def step(self) -> None:
        """Take a step after the loss's gradients were found."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return what goes on from here."""
        return {"between": self.between.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from the `state` that a file has.

        Raises:
            WeightsError: it is of other layers.
        """
        checkpoints.load_weights(self.between, state["between"], path)
        self._optimizer.load_state_dict(state["optimizer"])


def _even(layer: Tensor, size: torch.Size) -> Tensor:
    """Return a layer (B, c, h, w) in this size, each channel about nought and as loud as others."""
    layer = nn.functional.interpolate(layer, size=size, mode="bilinear", align_corners=False)
    spread, mean = torch.std_mean(layer, (0, 2, 3), keepdim=True)
    return ((layer - mean) / spread.clamp_min(1e-3)).clamp(-_FAR, _FAR)


def _width(tap: nn.Module) -> int:
    return [m for m in tap.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
