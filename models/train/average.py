"""``manypose train average``: the mean of weights of several runs of one network.

Runs that began from the same weights often end on different sides of one basin, and the mean is
nearer to its floor than they are. Source: Wortsman et al. 2022, "Model soups".
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from manypose.errors import UsageError, WeightsError
from manypose.models.train import checkpoints

_LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train average``."""
    parser.add_argument("weights", nargs="+", type=Path, help="ema.pt or .npz, two or more")
    parser.add_argument(
        "--shares", nargs="+", type=float, metavar="X", help="of each in the mean (default: equal)"
    )
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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(args.out, mean([checkpoints.read(p) for p in args.weights], shares))
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


def _mean(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    if not values[0].is_floating_point():
        return values[-1]
    total = sum(share * value.float() for share, value in zip(shares, values))
    return torch.as_tensor(total).to(values[-1].dtype)
