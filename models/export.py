"""Networks from torch to ONNX files, with a parity check that refuses to write when outputs differ.

The file takes pictures as they are (uint8, BGR, rows of pixels) and answers maps ready to use:
normalising, reordering and clamping are in the graph. Batch normalisation is folded.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manypose.errors import ManyposeError, UsageError, WeightsError
from manypose.models import weights
from manypose.models.heads import STRIDE, StageOne
from manypose.models.quantise import OUTPUTS_OF, answer, quantise, quantise_openvino
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS
from manypose.pose.records import UInt8

log = logging.getLogger(__name__)

SCHEMA = "manypose/1"
OPSET = 17
PARITY_MAX = 2e-4  # largest difference allowed, relative to the largest value


class _Whole(nn.Module):
    """Stage I with everything that surrounds it in a file."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.net(image.permute(0, 3, 1, 2).float() * (1 / 255))
        return maps[0].clamp(0, 1), maps[1], maps[2]


def export_onnx(
    net: nn.Module,
    path: Path,
    height: int = 320,
    width: int = 512,
    name: str = "full",
    licence: str = "MIT",
    source: str = "",
    record: bool = False,
    seed: int = 0,
) -> float:
    """Write Stage I as a float32 ONNX file made for this input size; return the largest difference.

    The batch is free, and so is the size, in steps of 16 px. The file appears only if ONNX
    Runtime's answers for random pictures equal torch's (relative difference below `PARITY_MAX`).
    With `record` the manifest beside it gets a row.

    Raises:
        UsageError: the sides are no multiples of 16.
        WeightsError: the answers differ or are not finite; nothing is written.
    """
    if height % 16 or width % 16 or min(height, width) < 32:
        raise UsageError(
            f"input size {width}x{height}: both sides must be multiples of 16 above 16"
        )
    told = _metadata(name, height, width, licence, source)
    return write_onnx(_Whole(net), path, told, free_sizes, record, seed)


def write_onnx(
    whole: nn.Module, path: Path, told: dict[str, str], freed: Callable[[Any], None],
    record: bool = False, seed: int = 0,
) -> float:  # fmt: skip
    """Write a network of pictures (B, H, W, 3) uint8 as ONNX; return the largest difference.

    told: the file's metadata, of which kind, name and input are needed; freed: makes sizes of the
    graph free. The rest, and the errors, as `export_onnx`.
    """
    import onnx

    outputs = OUTPUTS_OF[told["manypose.kind"]]
    width, height = json.loads(told["manypose.input"])
    whole = whole.eval()
    example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The TorchScript exporter needs no further package and writes plain nodes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole,
                (example,),
                str(part),
                input_names=["image"],
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=False,
            )
        model = onnx.load(str(part))
        freed(model)
        del model.metadata_props[:]
        for key, value in told.items():
            model.metadata_props.add(key=key, value=value)
        model.producer_name, model.producer_version = "manypose", ""
        onnx.checker.check_model(model)
        onnx.save(model, str(part))
        worst = _parity(whole, part, (width, height), seed, outputs)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if record:
        weights.record(weights.Weights(
            told["manypose.name"], path.resolve(), told["manypose.kind"], "fp32", "",
            told["manypose.licence"], told["manypose.source"], (width, height),
        ))  # fmt: skip
    return worst


def _metadata(name: str, height: int, width: int, licence: str, source: str) -> dict[str, str]:
    return {
        "manypose.schema": SCHEMA,
        "manypose.kind": "stage1",
        "manypose.name": name,
        "manypose.joints": json.dumps(JOINTS_2D),
        "manypose.limbs": json.dumps(LIMBS),
        "manypose.bones": json.dumps(JOINTS),
        "manypose.stride": str(STRIDE),
        "manypose.input": json.dumps([width, height]),
        "manypose.licence": licence,
        "manypose.source": source,
    }


def free_sizes(model: Any) -> None:
    """Make batch, height and width of a Stage I graph free, and drop what only found sizes.

    A file traced at one size has that size's numbers in every Resize. They are replaced by the
    shape of the map that the enlarged one goes together with, so that any multiple of 16 px will
    do.

    Raises:
        WeightsError: an enlarged map goes together with no other one.
    """
    from onnx import helper

    graph = model.graph
    feeds: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            feeds.setdefault(name, []).append(node)
    nodes: list[Any] = []
    # a shape may be asked for only after it is there, so every Resize waits for the map it is like
    waiting: dict[str, list[Any]] = {}
    there = {v.name for v in (*graph.input, *graph.initializer)}
    for node in graph.node:
        if node.op_type == "Resize":
            like = _beside(node.output[0], feeds)
            if like is None:
                raise WeightsError(f"export refused: nothing tells the size of {node.name}")
            resized = _resized_like(helper, node, like)
            if like not in there:
                waiting.setdefault(like, []).extend(resized)
                continue
            nodes += resized
        else:
            nodes.append(node)
        for name in node.output:
            there.add(name)
            nodes += waiting.pop(name, [])
    needed, kept = {o.name for o in graph.output}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    used = [t for t in graph.initializer if t.name in needed]
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(used)
    for value, first in ((graph.input[0], 1), *((o, 2) for o in graph.output)):
        sides = ("height", "width") if first == 1 else ("rows", "columns")
        dims = value.type.tensor_type.shape.dim
        for dim, name in ((0, "batch"), (first, sides[0]), (first + 1, sides[1])):
            dims[dim].dim_param = name


def _beside(name: str, feeds: dict[str, list[Any]]) -> str | None:
    """Return the map that a map is added to or stacked on, both rounded or not."""
    for node in feeds.get(name, []):
        if node.op_type in ("Add", "Concat"):
            return str(next(n for n in node.input if n != name))
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return _beside(node.output[0], feeds)
    return None


def _resized_like(helper: Any, node: Any, like: str) -> list[Any]:
    """Return nodes that enlarge the first input of a Resize to the rows and columns of `like`."""
    x, out = node.input[0], node.output[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    ends = [f"{out}_maps", f"{out}_sides", f"{out}_sizes"]
    return [
        helper.make_node("Shape", [x], ends[:1], ends[0], end=2),
        helper.make_node("Shape", [like], ends[1:2], ends[1], start=2),
        helper.make_node("Concat", ends[:2], ends[2:], ends[2], axis=0),
        helper.make_node("Resize", [x, "", "", ends[2]], [out], node.name, **attributes),
    ]


def _pictures(count: int, height: int, width: int, seed: int) -> UInt8:
    """Return random pictures that are smooth in part, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, height // 16, width // 16, 3))
    smooth = coarse.repeat(16, 1).repeat(16, 2)
    return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def _parity(
    whole: nn.Module, path: Path, size: tuple[int, int], seed: int, outputs: Sequence[str]
) -> float:
    pictures = _pictures(3, size[1], size[0], seed)
    with torch.no_grad():
        wanted = [t.numpy() for t in whole(torch.from_numpy(pictures))]
    halves = (answer(path, p, outputs) for p in (pictures[:2], pictures[2:]))
    got = [np.concatenate(z) for z in zip(*halves)]
    worst = 0.0
    for name, a, b in zip(outputs, wanted, got):
        if a.shape != b.shape:
            raise WeightsError(f"export refused: {name} is {b.shape}, in torch {a.shape}")
        difference = float(np.abs(a - b).max() / max(1e-6, np.abs(a).max()))
        if not difference <= PARITY_MAX:
            raise WeightsError(
                f"export refused: {name} differs by {difference:.2g} (relative) between torch and "
                "ONNX Runtime; nothing was written. Check the checkpoint for NaN"
            )
        worst = max(worst, difference)
    return worst


def load_checkpoint(path: Path) -> tuple[StageOne, dict[str, Any]]:
    """Return the network of a training checkpoint and the checkpoint's other entries.

    The checkpoint is a torch file of plain tensors and numbers with `backbone`, `width` and the
    weights under `ema` (taken first), `model` or `state`.

    Raises:
        WeightsError: it cannot be read or belongs to another network.
    """
    try:
        doc = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        line = str(e).partition("\n")[0][:160]
        raise WeightsError(f"{path}: cannot be read as a checkpoint ({line})") from e
    if not isinstance(doc, dict):
        raise WeightsError(f"{path}: not a checkpoint of manypose train")
    state = next((doc[k] for k in ("ema", "model", "state") if isinstance(doc.get(k), dict)), None)
    try:
        net = StageOne(str(doc["backbone"]), float(doc.get("width", 1.0)))
        if state is None:
            raise KeyError("ema, model or state")
        net.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    except (KeyError, ValueError, RuntimeError, AttributeError) as e:
        line = " ".join(str(e).split())[:160]
        raise WeightsError(f"{path}: not a checkpoint of manypose train ({line})") from e
    return net.eval(), {k: v for k, v in doc.items() if k not in ("ema", "model", "state")}


def main(argv: Sequence[str] | None = None) -> int:
    """Export a checkpoint: `python -m manypose.models.export CHECKPOINT --name light`."""
    parser = argparse.ArgumentParser(
        prog="python -m manypose.models.export", description=main.__doc__
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", default="full", help="name in the manifest (light, full, ...)")
    parser.add_argument("--size", default="512x320", help="input size WxH, multiples of 16")
    parser.add_argument("--out", type=Path, default=weights.SHIPPED, help="folder of the files")
    parser.add_argument("--images", type=Path, help="folder of photographs: writes int8 as well")
    parser.add_argument("--count", type=int, default=200, help="photographs to calibrate on")
    parser.add_argument(
        "--nncf",
        action="store_true",
        help="with --images: int8 in OpenVINO's form too (.xml, .bin)",
    )
    parser.add_argument("--licence", default="MIT")
    parser.add_argument("--source", default="trained by manypose train")
    args = parser.parse_args(argv)
    try:
        width, height = (int(v) for v in args.size.split("x"))
        net, _ = load_checkpoint(args.checkpoint)
        path = args.out / f"{args.name}.onnx"
        worst = export_onnx(
            net, path, height, width, args.name, args.licence, args.source, record=True
        )
        report: dict[str, Any] = {"file": str(path), "parity": worst}
        if args.images:
            out = args.out / f"{args.name}_int8.onnx"
            report["int8"] = {"file": str(out)} | quantise(
                path, out, args.images, record=True, count=args.count
            )
            if args.nncf:
                out = out.with_suffix(".xml")
                report["int8 for OpenVINO"] = {"file": str(out)} | quantise_openvino(
                    path, out, args.images, record=True, count=args.count
                )
    except ValueError:
        parser.error(f"--size {args.size}: write it as 512x320")
    except ManyposeError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
