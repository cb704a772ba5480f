"""``manypose bench backbones``: SelecSLS against its rivals, engine by engine.

All networks of one cell (size, batch, engine) take turns, warm, and medians are given; each ratio
names what it compares with: ResNet-50 to layer 3, to res5a at stride 16, or whole. Weights are
random: they do not change the speed.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manypose.errors import DeviceError, UsageError
from manypose.models.train import backbone_report
from manypose.models.train.backbone_report import Row

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOG = logging.getLogger(__name__)

NETWORKS = (
    "selecsls42", "selecsls60", "selecsls84", "resnet50", "resnet50_res5a", "vovnet39",
    "res2net50", "espnet", "espnet_hierarchical", "dlnas_middle", "dlnas_right",
    "selecsls60:whole", "resnet50:whole", "vovnet39:whole", "res2net50:whole",
)  # fmt: skip
SIZES = ("224x224", "400x400", "512x512", "512x320")
# What a ratio compares with: ResNet-50 as a pose backbone of stride 16, twice, and as a classifier.
COMPARATORS = {"layer3": "resnet50", "res5a": "resnet50_res5a", "whole": "resnet50:whole"}
Maker = Callable[["nn.Module", "Tensor", int, Path], Callable[[], Any]]


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options of this benchmark; they stand beside those of `manypose bench`."""
    for name, values, text in (
        ("networks", NETWORKS, "backbones, or NAME:whole for the classifier"),
        ("sizes", SIZES, "input sizes WxH"),
        ("engines", tuple(ENGINES)[:-1], f"of {', '.join(ENGINES)}"),
    ):
        parser.add_argument(
            f"--{name}", nargs="+", metavar=name[:-1].upper(), default=list(values),
            help=f"{text} (default: {' '.join(values)})",
        )  # fmt: skip
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 16], metavar="N", help="default: 1 16"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="calls timed of each")
    parser.add_argument("--clock", default="auto", help="cpu, wall or auto: cpu with one thread")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="add the rows to this history")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios (.png)")
    parser.add_argument(
        "--table", type=Path, metavar="FILE",
        help="renew the table in this Markdown file, between its markers",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure, report and write what was asked for; returns the exit code."""
    from manypose.models.machine import cores

    asked = vars(args)
    threads = int(asked["model.threads"] or 0) or cores()
    device = _device(asked["model.device"] or "auto")
    _check(args)
    if args.table is not None:
        backbone_report.markers(args.table)
    clock = args.clock
    if clock == "auto":
        clock = "cpu" if threads == 1 and device == "cpu" else "wall"
    rows: list[Row] = []
    for size in args.sizes:
        for batch in args.batches:
            rows += measure(
                args.networks, size, batch, args.engines, threads, device, clock, args.rounds
            )
    if args.csv is not None:
        backbone_report.write_csv(args.csv, rows)
    if args.plot is not None:
        backbone_report.plot(args.plot, rows)
    if args.table is not None:
        backbone_report.renew_table(args.table, rows)
    if args.json:
        sys.stdout.write(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    else:
        sys.stdout.write(backbone_report.table(rows))
    return 0


def _check(args: argparse.Namespace) -> None:
    from manypose.models.preprocess import size_named

    for size in args.sizes:
        size_named(size)
    if min(args.batches) < 1 or args.rounds < 1:
        raise UsageError("--batches and --rounds: give 1 or more")
    if args.clock not in ("auto", "cpu", "wall"):
        raise UsageError(f"--clock {args.clock}: give cpu, wall or auto")
    for name in args.engines:
        if name not in ENGINES:
            raise UsageError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    for name in args.networks:
        build(name)
    if args.plot is not None and args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{args.plot}: the plot is a .png, .svg or .pdf")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError("there is no CUDA device that torch can use; give --device cpu")
    return name


def build(name: str) -> nn.Module:
    """Return the network of a name of `NETWORKS`, in evaluation mode.

    Raises:
        UsageError: no network has this name.
    """
    from manypose.models import res2net, resnet, selecsls, vovnet
    from manypose.models.heads import BACKBONES

    whole: dict[str, Callable[[str], nn.Module]] = {
        **dict.fromkeys(selecsls.VARIANTS, selecsls.build),
        **dict.fromkeys(resnet.VARIANTS, resnet.build),
        **dict.fromkeys(vovnet.VARIANTS, vovnet.build),
        **dict.fromkeys(res2net.VARIANTS, res2net.build),
    }
    core, colon, tail = name.partition(":")
    if not colon and core in BACKBONES:
        return BACKBONES[core](1.0).eval()
    if tail == "whole" and core in whole:
        return whole[core](core).eval()
    raise UsageError(f"no network {name!r}; there are {', '.join(BACKBONES)}; also NAME:whole for"
                     f" {', '.join(whole)}")  # fmt: skip


def measure(
    networks: Sequence[str],
    size: str,
    batch: int,
    engines: Sequence[str],
    threads: int,
    device: str,
    clock: str,
    rounds: int,
) -> list[Row]:
    """Return one row per engine and network at this size and batch."""
    import torch

    from manypose.models.costs import count, interleaved, peak_bytes
    from manypose.models.machine import cpu_name

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    width, height = (int(v) for v in size.split("x"))
    x = torch.rand(batch, 3, height, width).to(device)
    nets = {name: build(name).to(device) for name in networks}
    costs = {name: count(net, x[:1]) for name, net in nets.items()}
    memory = {}
    for name in networks:
        # On a CPU tensors without content have the same sizes and cost no time.
        one, y = (nets[name], x) if x.is_cuda else (build(name).to("meta"), x.to("meta"))
        memory[name] = peak_bytes(one, y), peak_bytes(one, y, True)
    read = time.process_time if clock == "cpu" else time.perf_counter
    rows = []
    for engine in engines:
        with tempfile.TemporaryDirectory() as folder:
            calls = {
                n: ENGINES[engine](net, x, threads, Path(folder) / f"{i}.onnx")
                for i, (n, net) in enumerate(nets.items())
            }
            _LOG.info("%s, batch %d, %s: %d networks", size, batch, engine, len(calls))
            spent = interleaved(calls, rounds, read)
        ms = {n: 1e3 * statistics.median(s) for n, s in spent.items()}
        for n, seconds in spent.items():
            ratio = {
                key: round(ms[other] / ms[n], 3)
                if other in ms and (key == "whole") == n.endswith(":whole")
                else None
                for key, other in COMPARATORS.items()
            }
            c, order = costs[n], sorted(seconds)
            rows.append(Row(
                time.strftime("%Y-%m-%d"), cpu_name(), _title(device), torch.__version__,
                threads, clock, size, batch, engine, n, round(ms[n], 3),
                round(1e3 * order[len(order) // 10], 3),
                round(1e3 * order[(9 * len(order) - 1) // 10], 3), rounds,
                ratio["layer3"], ratio["res5a"], ratio["whole"], round(c.parameters / 1e6, 3),
                round(c.macs / 1e9, 3), round(c.activations / 1e6, 3), round(c.traffic / 1e6, 3),
                round(memory[n][0] / 1e6, 1), round(memory[n][1] / 1e6, 1),
            ))  # fmt: skip
    return rows


def _title(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _eager(net: nn.Module, x: Tensor, _threads: int, _path: Path) -> Callable[[], Any]:
    import torch

    def call() -> None:
        with torch.inference_mode():
            net(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    return call


def _channels_last(net: nn.Module, x: Tensor, threads: int, path: Path) -> Callable[[], Any]:
    import torch

    from manypose.models import pruning

    fused: Any = pruning.fuse(net)
    last = torch.channels_last
    return _eager(fused.to(memory_format=last), x.to(memory_format=last), threads, path)


def _compiled(net: nn.Module, x: Tensor, threads: int, path: Path) -> Callable[[], Any]:
    import torch

    from manypose.models import pruning

    last = torch.channels_last
    fused: Any = pruning.fuse(net)
    mode = "reduce-overhead" if x.is_cuda else "default"
    compiled: Any = torch.compile(fused.to(memory_format=last), mode=mode)
    return _eager(compiled, x.to(memory_format=last), threads, path)


def _file(runtime: str) -> Maker:
    def make(net: nn.Module, x: Tensor, threads: int, path: Path) -> Callable[[], Any]:
        import torch

        from manypose.models import pruning
        from manypose.models.sessions import Wish, open_session

        fused = pruning.fuse(net).cpu()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                fused, (x.cpu(),), str(path), input_names=["x"], opset_version=17, dynamo=False
            )
        device = "cuda" if x.is_cuda and runtime == "onnx" else "cpu"
        session = open_session(path, runtime, Wish(device, threads, "fp32", len(x)))
        array = x.cpu().numpy()
        return lambda: session.run(array)

    return make


# eager is torch as it comes; in all others normalisation is folded. compiled stands last: it takes
# minutes, so it is measured only when asked for.
ENGINES: dict[str, Maker] = {
    "eager": _eager,
    "channels_last": _channels_last,
    "onnx": _file("onnx"),
    "openvino": _file("openvino"),
    "compiled": _compiled,
}
