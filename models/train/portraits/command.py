"""``manypose train portraits``: from labelled photos to the network of portraits."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from manypose.errors import UsageError
from manypose.models.front_end import load_front_end
from manypose.models.train import checkpoints, ranks, readers, scores, stage1
from manypose.models.train.packs import Photo
from manypose.models.train.portraits import loop, patches
from manypose.models.train.portraits.batch import Drawer
from manypose.models.train.portraits.first import Find
from manypose.models.train.portraits.guide import open_teacher
from manypose.models.train.portraits.hold_out import HoldOut

_LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train portraits``."""
    plan = loop.Plan()
    parser.add_argument("--data", nargs="+", metavar="ADDRESS", default=[],
                        help="photos to cut people out of, as for stage1 --data")  # fmt: skip
    parser.add_argument("--patches", type=Path, metavar="DIR",
                        help="people cut out before, or where to keep them")  # fmt: skip
    parser.add_argument("--reader", metavar="NAME",
                        help="network whose readings of --data are told")  # fmt: skip
    parser.add_argument("--val", nargs="+", metavar="ADDRESS", default=[], help="hold-out photos")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/portraits"), help="folder of the run"
    )
    parser.add_argument("--minutes", type=float, help=f"the run ends on time, annealed (default "
                        f"{plan.minutes:g})")  # fmt: skip
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--resume", action="store_true", help="go on from --out")
    parser.add_argument("--init", type=Path, metavar="FILE",
                        help="start from weights of portraits, widened if --width is "
                             "larger than theirs, or Stage I's backbone")  # fmt: skip
    parser.add_argument(
        "--width", type=float, help=f"factor on all channels (default {plan.width:g})"
    )
    parser.add_argument("--batch", type=int, help=f"portraits in a step (default {plan.batch})")
    parser.add_argument("--lr", type=float, help=f"peak of the step size (default {plan.lr:g})")
    parser.add_argument("--weight-bones", type=float,
                        help=f"of the loss of bones (default {plan.weight_bones:g})")  # fmt: skip
    parser.add_argument("--teacher", type=Path, metavar="FILE",
                        help=".toml of a network for one person's crop whose layers are learnt, "
                             "too (docs/own_networks.md)")  # fmt: skip
    parser.add_argument("--teacher-layers", nargs="+", metavar="NAME", default=[],
                        help="names of these layers, each met by ours of its grid")  # fmt: skip
    parser.add_argument("--weight-teacher", type=float,
                        help=f"of their loss (default {plan.weight_teacher:g})")  # fmt: skip
    parser.add_argument("--score-every", type=float, metavar="S", help="seconds between scores")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--seed", type=int, help="default 0")


def run(args: argparse.Namespace) -> int:
    """Train the network of portraits.

    Raises:
        UsageError: options make no sense together.
        ConfigError: the --teacher is not described as it must be.
        DeviceError: there is no such device.
        SourceError: a source cannot be read.
        WeightsError: --init or the run to resume are of another network.
        OutputError: --out cannot be written.
    """
    began = time.monotonic()
    given = {
        "minutes": args.minutes, "steps": args.steps, "width": args.width, "batch": args.batch,
        "lr": args.lr, "score_every_s": args.score_every, "seed": args.seed,
        "weight_bones": args.weight_bones, "weight_teacher": args.weight_teacher,
    }  # fmt: skip
    plan = replace(loop.Plan(), **{k: v for k, v in given.items() if v is not None})
    if min(plan.minutes, plan.width, plan.lr, plan.batch) <= 0:
        raise UsageError("--minutes, --width, --lr and --batch must be above 0")
    if (args.teacher is None) != (not args.teacher_layers):
        raise UsageError("--teacher and --teacher-layers go together: give both")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # averaged weights that fade away make a CPU slow
    teacher = None
    if args.teacher is not None:
        teacher = open_teacher(args.teacher, args.teacher_layers, args.threads or 1)
    device = ranks.join(stage1.device_named(args.device))
    if ranks.here()[0]:
        logging.getLogger("manypose").setLevel(logging.WARNING)  # one process speaks for all
    folder = args.patches or args.out / "patches"
    if not (folder / patches.MANIFEST).exists():
        if not args.data:
            raise UsageError("--data is missing: name photos of people, such as coco:FILE.json")
        if ranks.here()[0] == 0:
            find = None if args.reader is None else _reader(args.reader, args.threads)
            count = patches.write(folder, _sources(args.data), plan.seed, find)
            _LOG.info("%d people cut out into %s", count, folder)
        ranks.wait()
    held = patches.read(folder)
    rng = torch.Generator(device=device).manual_seed(plan.seed + 1_000_003 * ranks.here()[0])
    drawer = Drawer(held, torch.device(device), rng)
    val = [p for a in args.val for p in readers.open_source(a)] if ranks.here()[0] == 0 else []
    _LOG.info("%d people to learn from, %d photos to score on", len(held), len(val))
    loop.train(plan, drawer, HoldOut(val), args.out, args.init, args.resume, began, teacher)
    _LOG.info("weights in %s", args.out / checkpoints.EMA)
    return 0


def _reader(name: str, threads: int | None) -> Find:
    program = load_front_end(name, threads=threads, close_ups=True, long_shots=True)
    return scores.found_by(program)


def _sources(addresses: list[str]) -> Iterator[tuple[float | None, Iterator[Photo]]]:
    """Yield the share and the photos of each address.

    Raises:
        UsageError: some addresses have a share and some have not.
    """
    shares = readers.shares(addresses)
    for share, address in zip(shares, addresses):
        yield share, readers.open_source(address)
