"""How a run of Stage I is made: its parts, weights of losses, optimiser and step size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from manypose.models.train import muon
from manypose.models.train.batches import Augmentation

_WARM_UP = 0.03  # share of the run


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run: its share of the time, input width and height px, pictures a step."""

    share: float
    width: int
    height: int
    batch: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; times in minutes and seconds, weights of losses relative to heat-maps."""

    parts: tuple[Part, ...]
    minutes: float
    backbone: str = "selecsls60"
    width: float = 1.0
    optimizer: str = "muon"  # or "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 5.0
    weight_pafs: float = 1.0
    weight_encodings: float = 0.3
    weight_teacher: float = 0.5
    weight_layer: float = 1.0  # of the teacher's hidden layer; falls to 0 over the run
    weight_centres: float = 0.0  # of a map of person centres learnt beside; 0: there is none
    only_3d: bool = False  # nothing but the 3D head learns
    average_s: float | None = None  # several processes: average weights so often, not gradients
    how: Augmentation = field(default_factory=Augmentation)
    steps: int | None = None  # ends after so many steps instead of after `minutes`
    score_every_s: float = 600.0
    save_every_s: float = 180.0
    bf16: bool | None = None  # None: where the processor has it
    compile: bool = False
    seed: int = 0
    score_size: tuple[int, int] | None = None  # width, height; None: of the last part


def optimizer_of(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of the recipe; normalisation and biases do not decay."""
    groups = muon.grouped(net, recipe.weight_decay, recipe.lr)
    if recipe.optimizer == "muon":
        return muon.Muon(groups, recipe.lr)
    for group in groups:
        del group["orthogonal"]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def step_size(share: float, peak: float) -> float:
    """Return the step size: a short warm-up, then a cosine down to zero."""
    if share < _WARM_UP:
        return peak * max(share / _WARM_UP, 0.01)
    return float(peak * 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))))
