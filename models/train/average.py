"""``manypose train average``: the mean of weights of several runs of one network.

Runs that began from the same weights often end on different sides of one basin, and the mean is
nearer to its floor than they are. What the normalisation layers know of their inputs is not that of
the mean, and is counted anew on pictures. Sources: Wortsman et al. 2022, "Model soups"; Izmailov et
al. 2018, "Averaging weights leads to wider optima" (section 3.2, normalisation).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manypose.errors import UsageError, WeightsError
from manypose.models.train import checkpoints
from manypose.models.train.batches import Augmentation
from manypose.models.train.pool import Pool

_LOG = logging.getLogger(__name__)
_AT_ONCE = 16  # pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train average``."""
    parser.add_argument("weights", nargs="+", type=Path, help="ema.pt or .npz, two or more")
    parser.add_argument(
        "--shares", nargs="+", type=float, metavar="X", help="of each in the mean (default: equal)"
    )
    parser.add_argument(
        "--pool", nargs="+", type=Path, metavar="DIR", help="of manypose train prepare: to count on"
    )
    parser.add_argument("--pictures", type=int, default=1920, help="so many (default 1920)")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.pt)")


def run(args: argparse.Namespace) -> int:
    """Write the mean.

    Raises:
        UsageError: there is nothing to average.
        WeightsError: a file cannot be read, or is of another network.
        OutputError: --out cannot be written.
    """
    shares = args.shares or [1 / len(args.weights)] * len(args.weights)
    if len(args.weights) < 2 or len(shares) != len(args.weights):
        raise UsageError("give two files or more, and a share for each or none")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-3:
        raise UsageError("--shares: numbers from 0 to 1 that add up to 1")
    if args.out.suffix != ".pt":
        raise UsageError(f"--out {args.out}: a file that ends in .pt")
    if args.pictures < _AT_ONCE:
        raise UsageError(f"--pictures {args.pictures}: at least {_AT_ONCE}")
    pool = Pool(args.pool, torch.device("cpu"), seed=5) if args.pool else None
    content = mean([checkpoints.read(p) for p in args.weights], shares)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(args.out, content)
    if pool is not None:
        checkpoints.save(args.out, counted(args.out, content, pool, args.pictures))
    _LOG.info("the mean of %d files in %s", len(shares), args.out)
    return 0


def mean(contents: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    """Return the content of the last file with the mean of all files' weights.

    Raises:
        WeightsError: they are not of one network.
    """
    out = dict(contents[-1])
    for part in ("ema", "centre"):
        layers = [c.get(part) for c in contents]
        if part == "centre" and None in layers:
            out.pop(part, None)
            continue
        first = layers[0]
        if not all(
            isinstance(w, dict) and {k: v.shape for k, v in w.items()}
            == {k: v.shape for k, v in (first or {}).items()}
            for w in layers
        ):  # fmt: skip
            raise WeightsError("the files are not of one network: give runs of one --backbone")
        out[part] = {k: _mean([w[k] for w in layers if w], shares) for k in layers[-1] or {}}
    return out


def counted(path: Path, content: dict[str, Any], pool: Pool, pictures: int) -> dict[str, Any]:
    """Return the content with means and variances of the normalisation layers from a pool.

    Args:
        path: where the content lies.
        content: of an ema.pt.
        pool: pictures as in training.
        pictures: so many are shown, mirrored and coloured as in training.

    Raises:
        WeightsError: the weights are of no network of ours.
    """
    net, _ = checkpoints.network(path)
    net.train()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over all batches
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(pictures // _AT_ONCE):
            net(pool.take(_AT_ONCE, Augmentation(), rng).batch.images)
    net.eval()
    return {**content, "ema": checkpoints.half(net)}


def _mean(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    if not values[0].is_floating_point():
        return values[-1]
    total = sum(share * value.float() for share, value in zip(shares, values))
    return torch.as_tensor(total).to(values[-1].dtype)
