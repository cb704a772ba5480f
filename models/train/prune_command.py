"""The verb ``prune``: a checkpoint to a smaller, fused network file, with what it gained and lost.

First the dead channels are silenced and the loss measured, then they are cut; the cut network must
answer as the silenced one does, or nothing is written.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manypose.errors import UsageError, WeightsError

if TYPE_CHECKING:
    import torch

    from manypose.models.train.gate_command import Lessons
    from manypose.models.train.gates import GateConfig

PARITY_MAX = 1e-4  # of the largest value, between silenced and cut
_ROUNDS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint", type=Path, help="ema.pt or last.pt of manypose train")
    parser.add_argument("-o", "--out", type=Path, help="file to write (.onnx)")
    parser.add_argument("--simulate", action="store_true", help="measure only, write nothing")
    parser.add_argument(
        "--threshold", type=float, nargs="+", default=[1e-3], metavar="G",
        help="channels with |scale| at or below this are dead (default 0.001); several with"
        " --simulate",
    )  # fmt: skip
    parser.add_argument(
        "--beta", default="keep", metavar="HOW",
        help="a dead channel's constant before a padded convolution: keep the channel (exact,"
        " default), fold the constant, drop it as the authors do",
    )  # fmt: skip
    parser.add_argument("--size", default="512x320", metavar="WxH", help="input size of the file")
    gates = parser.add_argument_group(
        "gates (Gate Decorator: for networks with sums, or where no channel is dead)"
    )
    gates.add_argument(
        "--gates", nargs="+", metavar="ADDRESS",
        help="train gates on these photos, as for manypose train stage1 --data, and cut by them",
    )  # fmt: skip
    for name, value, text in (
        ("ticks", 40, "passes that train gates and cut"),
        ("tock-every", 10, "ticks between two trainings of the whole network"),
        ("tock-passes", 10, "passes of one of these"),
        ("steps", 50, "batches of a pass"),
        ("batch", 8, "pictures of a batch"),
        ("seed", 0, "of everything drawn at random"),
    ):
        gates.add_argument(
            f"--{name}", type=int, default=value, metavar="N", help=f"{text} (default {value})"
        )
    gates.add_argument(
        "--share", type=float, default=0.005, metavar="P",
        help="part of the channels still there that a tick cuts (default 0.005)",
    )  # fmt: skip
    gates.add_argument("--train-size", default="256x160", metavar="WxH", help="of these pictures")
    parser.add_argument("--name", help="name written into the file (default: its file name)")
    parser.add_argument(
        "--val", nargs="+", metavar="ADDRESS", help="labelled photos, as for manypose train score"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N", help="timed calls")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Prune and report; returns the exit code."""
    from manypose.models.preprocess import size_named
    from manypose.models.pruning import BETA

    if args.beta not in BETA:
        raise UsageError(f"--beta {args.beta}: give one of {', '.join(BETA)}")
    if not all(0 <= threshold < 10 for threshold in args.threshold):
        raise UsageError("--threshold: give a number such as 0.001")
    if len(args.threshold) > 1 and (args.gates or not args.simulate):
        raise UsageError("several values of --threshold are for --simulate alone")
    if args.rounds < 1:
        raise UsageError("--rounds: give 1 or more")
    if not args.simulate and args.out is None:
        raise UsageError("name the file to write with -o, or only measure with --simulate")
    if args.out is not None and args.out.suffix != ".onnx":
        raise UsageError(f"{args.out}: the file is an ONNX file, call it .onnx")
    width, height = size_named(args.size)
    lessons = None
    if args.gates:
        from manypose.models.train import gate_command

        lessons = gate_command.options(args)
    reports: list[dict[str, Any]] = []
    for threshold in args.threshold:
        reports.append(prune_file(
            args.checkpoint, None if args.simulate else args.out, width, height, threshold,
            args.beta, args.val or [], args.rounds, args.name, lessons,
            reports[0].get("scores", {}).get("before") if reports else None,
        ))  # fmt: skip
    if args.json:
        sys.stdout.write(json.dumps(reports if len(reports) > 1 else reports[0], indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(map(_text, reports)))
    return 0


def prune_file(
    checkpoint: Path,
    out: Path | None,
    width: int,
    height: int,
    threshold: float,
    beta: str,
    val: list[str],
    rounds: int = _ROUNDS,
    name: str | None = None,
    lessons: tuple[GateConfig, Lessons] | None = None,
    known: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Prune a checkpoint, write it unless `out` is None, and return the report.

    lessons: gates are trained and say what is cut, instead of the threshold. known: the scores of
    the unpruned network, where they are known already.

    Raises:
        WeightsError: the checkpoint cannot be read, or the cut network answers differently.
    """
    import torch

    from manypose.models import pruning
    from manypose.models.costs import count
    from manypose.models.export import export_onnx

    net, about = _network(checkpoint)
    whole = pruning.fuse(net)
    left: list[float] = []
    if lessons is None:
        planned = pruning.plan(net, threshold, beta)
    else:
        from manypose.models.train import gate_command

        planned, left = gate_command.gated(net, *lessons)
    quiet, small = pruning.silence(planned), pruning.cut(planned)
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    kept = _difference(quiet, small, x)
    if beta != "fold" and not kept <= PARITY_MAX:
        raise WeightsError(
            f"{checkpoint}: the cut network's answers differ by {kept:.2g} from the silenced one's;"
            " nothing was written. Check the checkpoint for NaN"
        )
    total, dead, gone = planned.counts()
    report: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "backbone": about.get("backbone", "selecsls60"),
        "width": about.get("width", about.get("scale", 1.0)),
        "threshold": threshold,
        "beta": beta,
        "left_by_tick": left,
        "channels": {"all": total, "dead": dead, "cut": gone},
        "input": f"{width}x{height}",
        "before": asdict(count(whole, x)),
        "after": asdict(count(small, x)),
        "parity_to_silenced": kept,
        "difference_to_unpruned": _difference(net, small, x),
        "written": None if out is None else str(out),
    }
    if val:
        from manypose.models.train import readers, scores

        photos = [p for a in val for p in readers.open_source(a)]
        rows = report["scores"] = {"before": known} if known else {}
        for key, one in (("before", net), ("after", small)):
            if key not in rows:
                predict = scores.of_network(one, width, height)  # type: ignore[arg-type]
                rows[key] = scores.evaluate(photos, predict)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        export_onnx(whole, before, height, width)
        title = name or (out.stem if out else "pruned")
        how = f"threshold {threshold:g}, beta {beta}" if lessons is None else f"{len(left)} ticks"
        source = f"manypose prune, {how}"
        report["parity_to_onnx"] = export_onnx(
            small, out or after, height, width, title, str(about.get("licence", "MIT")), source
        )
        report["cpu_ms"] = _speed({"before": before, "after": out or after}, width, height, rounds)
    return report


def _network(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the network of a checkpoint, averaged weights first, and what the file says."""
    from manypose.models.heads import BACKBONES, StageOne
    from manypose.models.train import checkpoints

    content = checkpoints.read(path)
    weights = next((content[k] for k in ("ema", "net") if isinstance(content.get(k), dict)), None)
    backbone = str(content.get("backbone", "selecsls60"))
    if weights is None or backbone not in BACKBONES:
        raise WeightsError(f"{path}: no weights of a Stage I network; give the ema.pt of a run")
    net = StageOne(backbone, float(content.get("width", content.get("scale", 1.0))))
    checkpoints.load_weights(net, weights, path)
    return net.eval(), {k: v for k, v in content.items() if isinstance(v, str | int | float)}


def _difference(a: torch.nn.Module, b: torch.nn.Module, x: torch.Tensor) -> float:
    """Return the largest difference of two networks' maps, in units of the largest value."""
    import torch

    with torch.no_grad():
        return max(
            float((p - q).abs().max() / max(1e-6, float(p.abs().max()))) for p, q in zip(a(x), b(x))
        )


def _speed(files: dict[str, Path], width: int, height: int, rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of one picture by ONNX Runtime, one thread."""
    import numpy as np

    from manypose.models.costs import interleaved
    from manypose.models.sessions import Wish, open_session

    picture = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
    calls = {}
    for key, path in files.items():
        session = open_session(path, "onnx", Wish(threads=1))
        calls[key] = functools.partial(session.run, picture)
    spent = interleaved(calls, rounds, time.process_time)
    return {k: round(1e3 * statistics.median(v), 3) for k, v in spent.items()}


def _text(report: dict[str, Any]) -> str:
    """Return the report for people to read."""
    c, a, b, ms = (report[k] for k in ("channels", "before", "after", "cpu_ms"))
    how = f"|scale| <= {report['threshold']:g}, beta: {report['beta']}"
    if report["left_by_tick"]:
        how = f"gates, {len(report['left_by_tick'])} ticks"
    lines = [
        f"{report['backbone']} at width {report['width']:g}, {report['checkpoint']}",
        f"channels    {c['all']}, dead {c['dead']} ({c['dead'] / max(1, c['all']):.1%}), cut"
        f" {c['cut']} ({c['cut'] / max(1, c['all']):.1%}), {how}",
        f"parameters  {a['parameters'] / 1e6:.2f} M -> {b['parameters'] / 1e6:.2f} M",
        f"operations  {a['macs'] / 1e9:.2f} -> {b['macs'] / 1e9:.2f} GMAC at {report['input']}",
        f"CPU         {ms['before']:.1f} -> {ms['after']:.1f} ms by ONNX Runtime, one thread,"
        f" {ms['before'] / ms['after']:.2f}x",
        f"difference  {report['difference_to_unpruned']:.2g} of the largest value to the unpruned"
        f" network, {report['parity_to_silenced']:.2g} to the silenced one",
    ]
    for key, found in report.get("scores", {}).items():
        words = [f"{k} {found[k]:.3f}" for k in ("AP", "AP50", "AR", "recall") if k in found]
        lines.append(f"{key:12s}{', '.join(words)}")
    where = report["written"]
    lines.append(f"written     {where}" if where else "nothing was written (--simulate)")
    return "\n".join(lines) + "\n"
