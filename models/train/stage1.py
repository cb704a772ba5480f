"""``manypose train stage1``: from sources of photos to the weights of Stage I."""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manypose.errors import DeviceError, OutputError, UsageError
from manypose.models.heads import BACKBONES, StageOne
from manypose.models.preprocess import size_named
from manypose.models.train import batches, checkpoints, distil, loop, packs, ranks, readers, store
from manypose.models.train.figures import figures
from manypose.models.train.packs import Photo
from manypose.models.train.pool import Pool
from manypose.models.train.recipe import Part, Recipe
from manypose.models.train.reports import Report
from manypose.models.train.store import Store

_LOG = logging.getLogger(__name__)

PRESETS: dict[str, Recipe] = {
    "gpu": Recipe(
        parts=(Part(0.35, 320, 192, 256), Part(0.65, 512, 320, 128)), minutes=25,
        score_every_s=180, compile=True,
    ),
    "cpu": Recipe(
        parts=(Part(0.6, 256, 160, 16), Part(0.25, 384, 256, 12), Part(0.15, 512, 320, 8)),
        minutes=480, score_every_s=1200,
    ),
    "smoke": Recipe(
        parts=(Part(1.0, 256, 160, 8),), minutes=10, backbone="selecsls42", width=0.5,
        optimizer="adamw", weight_decay=1e-4, ema=0.98, how=batches.PLAIN,
        score_every_s=90, save_every_s=1e9,
    ),
}  # fmt: skip
_PHOTO_SIDE = {"gpu": 512, "cpu": 384, "smoke": 384}
_SMOKE_PHOTOS = 16
# A person that can be learnt by heart to the last joint.
_CLEAR_JOINTS, _CLEAR_SIDE_PX, _CLEAR_PEOPLE = 10, 80, 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train stage1``."""
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="default: cpu")
    parser.add_argument(
        "--data", nargs="+", metavar="ADDRESS", default=[],
        help="sources: " + ", ".join(f"{k}:PATH" for k in readers.READERS)
        + "; options behind commas, such as coco:FILE.json,images=DIR,share=0.35",
    )  # fmt: skip
    parser.add_argument("--val", nargs="+", metavar="ADDRESS", default=[], help="hold-out photos")
    parser.add_argument(
        "--val-3d", nargs="+", metavar="ADDRESS", default=[], help="hold-out with true 3D"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/stage1"), help="folder of the run")
    parser.add_argument("--minutes", type=float, help="the run ends on time, annealed")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--resume", action="store_true", help="go on from --out")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="start from these weights, widened if --width is larger than theirs",
    )
    parser.add_argument(
        "--parts", metavar="SHARE:WxHxBATCH,...", help="sizes, such as 0.7:256x160x16,0.3:512x320x8"
    )
    parser.add_argument("--backbone", choices=BACKBONES, help="default selecsls60")
    parser.add_argument("--width", type=float, help="factor on all channels (0.5: light)")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), help="default muon")
    parser.add_argument("--lr", type=float, help="peak of the step size (default 0.002)")
    parser.add_argument("--weight-3d", type=float, help="of the 3D loss (default 0.3)")
    parser.add_argument(
        "--only-3d", action="store_true", default=None,
        help="the 3D head alone learns, three times as fast; with --init",
    )  # fmt: skip
    parser.add_argument("--teacher", type=Path, help="network to learn from (.onnx, .xml)")
    parser.add_argument("--weight-teacher", type=float, help="of its loss (default 0.5)")
    parser.add_argument(
        "--pool", nargs="+", type=Path, metavar="DIR", default=[],
        help="pictures of manypose train prepare, for the parts that have their size",
    )  # fmt: skip
    parser.add_argument("--weight-layer", type=float, help="of a teacher's layer (default 1)")
    parser.add_argument(
        "--weight-centres", type=float, metavar="W",
        help="learn a map of person centres beside (0.15; default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--average", type=float, metavar="S",
        help="under torchrun: average weights every S seconds, gradients never",
    )  # fmt: skip
    parser.add_argument(
        "--no-masks", action="store_false", dest="masks", default=None,
        help="what the labels leave open counts as empty (to compare)",
    )  # fmt: skip
    parser.add_argument(
        "--no-canvas", action="store_false", dest="canvas", default=None,
        help="one photo a picture (to compare)",
    )  # fmt: skip
    parser.add_argument("--photo-side", type=int, help="photos are kept at this longer side, px")
    parser.add_argument("--score-every", type=float, metavar="S", help="seconds between scores")
    parser.add_argument("--score-size", metavar="WxH", help="input size for the scores")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="default: if fast")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile")
    parser.add_argument("--seed", type=int, help="default 0")


def run(args: argparse.Namespace) -> int:
    """Train Stage I.

    Raises:
        UsageError: options make no sense together.
        DeviceError: there is no such device.
        SourceError: a source cannot be read.
        WeightsError: --init or the run to resume are of another network.
        OutputError: --out cannot be written.
    """
    began = time.monotonic()
    recipe = _recipe(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # averaged weights that fade away make a CPU slow
    device = ranks.join(device_named(args.device))
    if ranks.here()[0]:
        logging.getLogger("manypose").setLevel(logging.WARNING)  # one process speaks for all
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
    smoke = args.preset == "smoke"
    pools = _pools(args.pool, torch.device(device), recipe.seed)
    sizes = {(p.width, p.height) for p in recipe.parts} - {(p.width, p.height) for p in pools}
    if not args.data and not smoke and sizes:
        raise UsageError("--data is missing: name the photos to train on, such as coco:FILE.json")
    side = args.photo_side or _PHOTO_SIDE[args.preset]
    _write_config(args, recipe)
    photos: Store | None = None
    if smoke:
        held = _few(args.data, recipe)
        val: list[Photo] = held
        photos = store.load(held, side, device)
        for size in {(p.width, p.height) for p in recipe.parts}:
            top = Report(recipe, args.out, val, []).ceiling(size)
            _LOG.info("ceiling of the decoder at %dx%d: AP %.3f", *size, top.get("AP", 0))
    else:
        val = [p for a in args.val for p in readers.open_source(a)]
        if sizes:
            photos = store.load(readers.mixed(args.data), side, device)
    val_3d = [p for a in args.val_3d for p in readers.open_source(a)]
    if photos is not None:
        _LOG.info("%d photos (%.0f MiB on %s)", len(photos), photos.pixels.numel() / 2**20, device)
    _LOG.info("%d to score on, read in %.0f s", len(val), time.monotonic() - began)
    teacher = distil.open_teacher(args.teacher, args.threads or 1) if args.teacher else None
    loop.train(recipe, photos, val, val_3d, args.out, args.init, args.resume, teacher, began,
               pools, device)  # fmt: skip
    _LOG.info("weights in %s", args.out / checkpoints.EMA)
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    recipe = PRESETS[args.preset]
    given = {
        "minutes": args.minutes, "steps": args.steps, "backbone": args.backbone,
        "width": args.width, "lr": args.lr, "optimizer": args.optimizer,
        "weight_encodings": args.weight_3d,
        "weight_teacher": args.weight_teacher, "weight_layer": args.weight_layer,
        "weight_centres": args.weight_centres,
        "average_s": args.average, "only_3d": args.only_3d, "score_every_s": args.score_every,
        "bf16": args.bf16, "compile": args.compile, "seed": args.seed,
    }  # fmt: skip
    recipe = replace(recipe, **{k: v for k, v in given.items() if v is not None})
    how = {"masks": args.masks, "canvas": args.canvas}
    how = {k: v for k, v in how.items() if v is not None}
    recipe = replace(recipe, how=replace(recipe.how, **how))
    if "canvas" in how and args.pool:
        raise UsageError("--no-canvas: the pictures of a --pool are composed: name --data instead")
    if args.parts:
        recipe = replace(recipe, parts=_parts(args.parts))
    if args.score_size:
        recipe = replace(recipe, score_size=size_named(args.score_size))
    if recipe.minutes <= 0 or recipe.width <= 0 or recipe.lr <= 0:
        raise UsageError("--minutes, --width and --lr must be above 0")
    return recipe


def _pools(folders: list[Path], device: torch.device, seed: int) -> list[Pool]:
    """Return one pool for every size among the folders."""
    sized: dict[tuple[int, int], list[Path]] = {}
    for folder in folders:
        one = Pool([folder], device)
        sized.setdefault((one.width, one.height), []).append(folder)
    order = seed + 1_000_003 * ranks.here()[0]
    pools = [Pool(some, device, order) for some in sized.values()]
    for p in pools:
        _LOG.info("a pool of %d pictures of %dx%d", len(p), p.width, p.height)
    return pools


def _parts(text: str) -> tuple[Part, ...]:
    parts = []
    for word in text.split(","):
        share, _, rest = word.partition(":")
        size, _, batch = rest.rpartition("x")
        try:
            parts.append(Part(float(share), *size_named(size), int(batch)))
        except ValueError:
            raise UsageError(f"--parts {word}: write SHARE:WxHxBATCH, 0.7:256x160x16") from None
    return tuple(parts)


def to_score(
    args: argparse.Namespace,
) -> tuple[StageOne, dict[str, Any], list[Photo], tuple[int, int], str]:
    """Return network, what its file says, photos, input size and device of a step that scores.

    Raises:
        UsageError: the size makes no sense.
        DeviceError: the device cannot be had.
        WeightsError: the weights cannot be read.
        SourceError: the photos cannot be read.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    size = size_named(args.size)
    device = device_named(args.device)
    net, about = checkpoints.network(args.weights, device)
    return net, about, [p for a in args.val for p in readers.open_source(a)], size, device


def device_named(name: str) -> str:
    """Return the device of that name; "auto" is CUDA where it is.

    Raises:
        DeviceError: it cannot be had.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"no device {name} here ({reason}): choose --device cpu") from None
    return name


def _few(addresses: list[str], recipe: Recipe) -> list[Photo]:
    """Return 16 photos whose people are all big and well labelled; without sources drawn ones.

    Photos of which a part is not known come last: what the network answers there is free, and
    counts as invented people.
    """
    part = recipe.parts[0]
    if not addresses:
        return figures(_SMOKE_PHOTOS, part.width, part.height)
    found: list[Photo] = []
    spare: list[Photo] = []
    for item in chain.from_iterable(readers.open_source(a) for a in addresses):
        labelled = (item.joints_px[:, :17, 2] > 0).sum(1)
        clear = (labelled >= _CLEAR_JOINTS) & (item.box_px[:, 2:].max(1) > _CLEAR_SIDE_PX)
        if 1 <= len(clear) <= _CLEAR_PEOPLE and clear.all() and item.known[:17].all():
            whole = item.reach_px[2] >= packs.EVERYWHERE[2]
            (found if whole else spare).append(replace(item, weight=1.0))
        if len(found) == _SMOKE_PHOTOS:
            break
    found = (found + spare)[:_SMOKE_PHOTOS]
    if not found:
        raise UsageError("--data has no photo in which every person is big and well labelled")
    return found


def _write_config(args: argparse.Namespace, recipe: Recipe) -> None:
    """Write how the run was started beside its weights."""
    if ranks.here()[0]:
        return
    content = {
        "preset": args.preset, "data": args.data, "val": args.val, "val_3d": args.val_3d,
        "init": str(args.init) if args.init else None, "torch": torch.__version__,
        "numpy": np.__version__, "recipe": asdict(recipe),
    }  # fmt: skip
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1) + "\n"
        (args.out / "config.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {args.out} ({error.strerror}): choose another --out"
        ) from (None)
