"""``manypose prune --gates``: Gate Decorator on Stage I, trained on photos given by addresses.

The schedule is that of `gates.Gated`; what it trains on are batches made as for training, and the
loss of Stage I. The result goes the way of every pruned network: silenced, cut, compared, written.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from manypose.errors import UsageError
from manypose.models import pruning
from manypose.models.heads import Maps
from manypose.models.preprocess import size_named
from manypose.models.train import batches, readers, store
from manypose.models.train.batches import Augmentation, Batch
from manypose.models.train.gates import GateConfig, Gated
from manypose.models.train.losses import losses
from manypose.models.train.stage1 import PRESETS

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a gated network is trained on: photos, and how many batches make one pass."""

    addresses: tuple[str, ...]
    width: int = 256
    height: int = 160
    batch: int = 8
    steps: int = 50
    seed: int = 0


def options(args: argparse.Namespace) -> tuple[GateConfig, Lessons]:
    """Return schedule and lessons of the options.

    Raises:
        UsageError: an option makes no sense.
    """
    for name in ("ticks", "tock_every", "tock_passes", "batch", "steps"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')}: give 1 or more")
    if not 0 < args.share < 1:
        raise UsageError(
            f"--share {args.share:g}: the part of the channels cut at each tick, 0.005"
        )
    schedule = GateConfig(
        ticks=args.ticks, share=args.share, tock_every=args.tock_every,
        tock_passes=args.tock_passes,
    )  # fmt: skip
    width, height = size_named(args.train_size)
    return schedule, Lessons(tuple(args.gates), width, height, args.batch, args.steps, args.seed)


def gated(
    net: nn.Module, schedule: GateConfig, lessons: Lessons
) -> tuple[pruning.Plan, list[float]]:
    """Return what is to be cut of a network after the whole schedule, and the shares left by tick.

    The network of the plan has been trained further, gates folded into its normalisation.

    Raises:
        SourceError: the photos cannot be read.
        UsageError: there are none.
    """
    photos = chain.from_iterable(readers.open_source(a) for a in lessons.addresses)
    held = store.load(photos, max(lessons.width, lessons.height))
    if not len(held):
        raise UsageError("--gates: no photo at these addresses")
    rng = torch.Generator().manual_seed(lessons.seed)
    how = Augmentation()

    def one_pass() -> Iterator[Batch]:
        for _ in range(lessons.steps):
            yield batches.make(held, lessons.batch, lessons.width, lessons.height, how, rng)

    worker = Gated(net, schedule)
    worker.run(one_pass, loss, _tell)
    dead = {name: ~left for name, left in worker.left_by_layer.items()}
    return pruning.plan(worker.plain(), dead=dead), worker.history


def loss(net: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of Stage I on a batch, weighed as in training."""
    each = losses(Maps(*net(batch.images)), batch.targets)
    r = PRESETS["cpu"]
    return each.heatmaps + r.weight_pafs * each.pafs + r.weight_encodings * each.encodings


def _tell(done: int, ticks: int, left: float, mean_loss: float) -> None:
    _LOG.info("tick %d of %d: %.1f %% of the channels left, loss %.3f", done, ticks, 100 * left,
              mean_loss)  # fmt: skip
