"""Learning from another network: its maps for the very pictures of a batch, where it is sure.

A teacher is any function from pictures (B, 3, H, W), BGR in [0, 1], to `Hints`. `open_teacher`
makes one of a bottom-up network in an ONNX or OpenVINO file that answers OpenPose's maps of the
COCO model: 18 or 19 heat-maps and 38 field channels at stride 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.errors import WeightsError
from manypose.models.heads import Maps
from manypose.models.sessions import openvino_core
from manypose.models.train.losses import heatmap_loss
from manypose.models.train.targets import POSITIVE, Targets
from manypose.pose.joints import INDEX_2D, LIMBS

# OpenPose's COCO order: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
_OPENPOSE = (
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist",
    "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
)  # fmt: skip
# Its limbs (from, to) by number, in the order of their channel pairs.
_OPENPOSE_LIMBS = (
    (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 2), (2, 3), (3, 4), (2, 16), (1, 5),
    (5, 6), (6, 7), (5, 17), (1, 0), (0, 14), (0, 15), (14, 16), (15, 17),
)  # fmt: skip
_SURE = 0.3  # a teacher's answers below this say nothing about limbs


@dataclass(frozen=True, slots=True, eq=False)
class Hints:
    """A teacher's maps in our order.

    heatmaps (B, n, h, w) of `joints`, our numbers; pafs (B, 2 m, h, w) of `limbs`; layer (B, c, h,
    w) what a hidden layer answered, not negative.
    """

    heatmaps: Tensor
    joints: tuple[int, ...]
    pafs: Tensor
    limbs: tuple[int, ...]
    layer: Tensor | None = None


Teacher = Callable[[Tensor], Hints]


def loss(answer: Maps, hints: Hints, wanted: Targets) -> Tensor:
    """Return the loss against the teacher's maps, where no label says anything else.

    Labels win: cells near a labelled joint or limb are left out.
    """
    joints, limbs = list(hints.joints), list(hints.limbs)
    size = answer.heatmaps.shape[-2:]
    heat, pafs = (_resized(m, size) for m in (hints.heatmaps, hints.pafs))
    free = (wanted.heatmaps[:, joints] <= POSITIVE).float()
    total = heatmap_loss(answer.heatmaps[:, joints].float(), heat.clamp(0, 1), free)
    if limbs:
        b, _, h, w = answer.pafs.shape
        ours = answer.pafs.float().reshape(b, -1, 2, h, w)[:, limbs]
        theirs = pafs.reshape(b, len(limbs), 2, h, w)
        sure = theirs.square().sum(2) > _SURE**2
        weight = (1 - wanted.on_limb[:, limbs]) * torch.where(sure, 1.0, 0.15)
        error = (ours - theirs).square().sum(2) * weight
        total = total + error.sum() / (sure * weight).sum().clamp_min(1)
    return total


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps.float()
    return torch.nn.functional.interpolate(maps.float(), size=size, mode="bilinear")


def layer_loss(answer: Tensor, layer: Tensor) -> Tensor:
    """Return the mean squared error of a hidden layer (B, c, h, w), each channel by its spread.

    Source: Romero et al. 2015 (FitNets): a hidden layer of the teacher guides one of the student.
    """
    layer = _resized(layer, answer.shape[-2:])
    spread = layer.var((0, 2, 3), keepdim=True)
    # channels that hardly answer on these pictures would be noise made loud
    error = (answer.float() - layer).square() / (spread + 0.1 * spread.mean() + 1e-4)
    return error.mean()


def open_teacher(path: Path, threads: int = 1, layer: str | None = None) -> Teacher:
    """Return a teacher from an OpenVINO (.xml) or ONNX file with OpenPose's maps.

    Input: BGR in [0, 255]. Which output holds fields is told by its 38 channels. `layer` names an
    operation at stride 8 whose output is given too.

    Raises:
        WeightsError: the file is missing or answers other maps, or there is no such layer.
    """
    core = openvino_core()
    model = with_layers(path, [] if layer is None else [layer])
    compiled: dict[tuple[int, ...], Any] = {}
    joints, limbs = _mapping()

    def teacher(images: Tensor) -> Hints:
        shape = tuple(images.shape)
        if shape not in compiled:
            model.reshape(list(shape))
            # pinned, the teachers of several processes would all wait for the first core
            settings = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
            compiled[shape] = core.compile_model(model, "CPU", settings)
        found = list(compiled[shape]([images.cpu().numpy() * 255]).values())
        hidden = found.pop() if layer is not None else None
        heat = next((m for m in found if m.shape[1] in (18, 19)), None)
        pafs = next((m for m in found if m.shape[1] == 38), None)
        if heat is None or pafs is None:
            got = ", ".join(str(m.shape) for m in found)
            raise WeightsError(f"{path} answers {got}: a teacher has 19 and 38 channels")
        hints = _hints(heat, pafs, joints, limbs, images.device)
        if hidden is None:
            return hints
        return replace(hints, layer=torch.from_numpy(hidden.astype(np.float32)).to(images.device))

    return teacher


def with_layers(path: Path, layers: Sequence[str]) -> Any:
    """Return the OpenVINO model of an .xml or ONNX file that answers these operations, too.

    Raises:
        WeightsError: the file is missing or damaged, or there is no such operation.
    """
    try:
        model = openvino_core().read_model(path)
    except (RuntimeError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[-1]
        raise WeightsError(f"{path}: no network to learn from ({reason}): check --teacher") from (
            None
        )
    there = {o.get_friendly_name(): o for o in model.get_ordered_ops()}
    for layer in layers:
        if layer not in there:
            raise WeightsError(f"{path} has no layer {layer}: look at it with Netron")
    model.add_outputs([there[layer].output(0) for layer in layers])
    return model


def enlarged(teacher: Teacher, times: int) -> Teacher:
    """Return a teacher that is shown pictures `times` as large, with maps of the usual size.

    A network that learnt from pictures of 368 px misses most people of one of 160 px, and finds
    more of them in the same picture enlarged. Of `times` x `times` cells the highest heat, the
    longest field vector and the mean of the hidden layer are kept.
    """

    def larger(images: Tensor) -> Hints:
        hints = teacher(
            torch.nn.functional.interpolate(images, scale_factor=times, mode="bilinear")
        )
        b, _, h, w = hints.pafs.shape
        x, y = hints.pafs.reshape(b, -1, 2, h, w).unbind(2)
        _, at = torch.nn.functional.max_pool2d(x**2 + y**2, times, return_indices=True)
        kept = [v.flatten(2).gather(2, at.flatten(2)).reshape(at.shape) for v in (x, y)]
        layer = hints.layer
        return replace(
            hints,
            heatmaps=torch.nn.functional.max_pool2d(hints.heatmaps, times),
            pafs=torch.stack(kept, 2).flatten(1, 2),
            layer=None if layer is None else torch.nn.functional.avg_pool2d(layer, times),
        )

    return teacher if times == 1 else larger


def _mapping() -> tuple[list[tuple[int, int]], list[tuple[int, int, float]]]:
    """Return (theirs, ours) of joints and (theirs, ours, sign) of limbs."""
    ours = [INDEX_2D[name] for name in _OPENPOSE]
    joints = list(enumerate(ours))
    limbs = []
    for n, (a, b) in enumerate(_OPENPOSE_LIMBS):
        for sign, pair in ((1.0, (ours[a], ours[b])), (-1.0, (ours[b], ours[a]))):
            if pair in LIMBS:
                limbs.append((n, LIMBS.index(pair), sign))
    return joints, limbs


def _hints(
    heat: NDArray[Any], pafs: NDArray[Any], joints: list[tuple[int, int]],
    limbs: list[tuple[int, int, float]], device: torch.device,
) -> Hints:  # fmt: skip
    field = pafs.reshape(len(pafs), -1, 2, *pafs.shape[2:])
    sign = np.array([s for *_, s in limbs], np.float32)[None, :, None, None, None]
    ours = field[:, [n for n, *_ in limbs]] * sign
    maps = heat[:, [n for n, _ in joints]]
    return Hints(
        torch.from_numpy(np.ascontiguousarray(maps)).to(device), tuple(k for _, k in joints),
        torch.from_numpy(ours.reshape(len(pafs), -1, *pafs.shape[2:])).to(device),
        tuple(k for _, k, _ in limbs),
    )  # fmt: skip
