"""``manypose train prepare``: a pool of pictures with a teacher's answers (see `pool`)."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from manypose.errors import UsageError
from manypose.models.preprocess import size_named
from manypose.models.train import batches, distil, pool, readers, store

_LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train prepare``."""
    parser.add_argument(
        "--data", nargs="+", metavar="ADDRESS", required=True, help="as for stage1 --data"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pool")
    parser.add_argument(
        "--count",
        type=int,
        default=10_000,
        help="pictures (default 10000); Ctrl-C keeps those made",
    )
    parser.add_argument("--size", default="256x160", help="of the pictures (default 256x160)")
    parser.add_argument("--teacher", type=Path, help="network to ask about them (.onnx, .xml)")
    parser.add_argument(
        "--teacher-layer", metavar="NAME", help="operation of it, at stride 8, to be learnt too"
    )
    parser.add_argument(
        "--teacher-enlarge", type=int, default=1, choices=(1, 2, 3), metavar="N",
        help="show it the pictures N times as large (default 1): small people need 2",
    )  # fmt: skip
    parser.add_argument("--photo-side", type=int, default=384, help="photos at most so long, px")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, help="other seed, other pictures")


def run(args: argparse.Namespace) -> int:
    """Write a pool.

    Raises:
        UsageError: options make no sense together.
        SourceError: a source cannot be read.
        WeightsError: the teacher cannot be used.
        OutputError: --out cannot be written.
    """
    width, height = size_named(args.size)
    if args.count < 1:
        raise UsageError("--count must be above 0")
    if args.teacher_layer and not args.teacher:
        raise UsageError("--teacher-layer needs --teacher")
    if args.threads:
        torch.set_num_threads(args.threads)
    teacher = None
    if args.teacher:
        teacher = distil.enlarged(
            distil.open_teacher(args.teacher, args.threads or 1, args.teacher_layer),
            args.teacher_enlarge,
        )
    photos = store.load(readers.mixed(args.data), args.photo_side)
    rng = torch.Generator().manual_seed(args.seed)
    pool.write(args.out, photos, args.count, width, height, batches.Augmentation(), rng, teacher)
    _LOG.info("%d pictures of %dx%d in %s", args.count, width, height, args.out)
    return 0
