"""The network of portraits as files for users, with scores, card and history."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from manypose.errors import OutputError, UsageError
from manypose.models import export, quantise
from manypose.models.portrait import Portrait
from manypose.models.train import checkpoints, readers, release
from manypose.models.train.portraits import hold_out
from manypose.models.train.portraits.hold_out import HoldOut
from manypose.models.train.portraits.loop import KIND, network
from manypose.pose.joints import JOINTS_2D
from manypose.pose.portraits import HEIGHT, SHEET_HEIGHT, STRIDE, WIDTH

_LOG = logging.getLogger(__name__)
_ROWS = (
    ("AP", "OKS AP, true boxes"), ("AP50", "AP50"), ("AR", "AR"),
    ("AP_told", "OKS AP, true boxes, a reading with drawn faults known"),
    ("pck", "PCK@0.2 torso, single athletes"),
    ("pck_told", "the same, a reading with drawn faults known"),
    ("pose_mm", "bones joined, mm from the pelvis"),
    ("pose_constant_mm", "what the mean pose would score, mm"),
)  # fmt: skip


class _Whole(nn.Module):
    """The network with everything that surrounds it in a file."""

    def __init__(self, net: Portrait) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        told = self.net.of_sheets(image)
        return told.heatmaps(), told.bones


def run(args: argparse.Namespace) -> int:
    """Export, quantise, score, and write card and history; arguments of ``train release``.

    Raises:
        UsageError: options make no sense.
        WeightsError: the checkpoint is none, or the exported file answers differently.
        SourceError: photos cannot be read.
        OutputError: --out cannot be written.
    """
    net, about = network(args.weights)
    photos = [p for a in args.val for p in readers.open_source(a)]
    wanted = args.count + quantise.TEST_PICTURES
    pictures = list(islice(_people(args.calibrate), wanted))
    if not pictures:
        raise UsageError("--calibrate has nobody to look at: name photos of people")
    held = HoldOut(photos)
    name, out = args.name, args.out
    source = f"manypose train, {args.trained_on}" if args.trained_on else "manypose train"
    plain = out / f"{name}.onnx"
    try:
        out.mkdir(parents=True, exist_ok=True)
        told = {
            "manypose.schema": export.SCHEMA, "manypose.kind": KIND, "manypose.name": name,
            "manypose.joints": json.dumps(JOINTS_2D),
            "manypose.input": f"[{WIDTH}, {SHEET_HEIGHT}]", "manypose.stride": str(STRIDE),
            "manypose.licence": args.licence, "manypose.source": source,
        }  # fmt: skip
        parity = export.write_onnx(_Whole(net), plain, told, _free_batch, record=True)
        files, reports = release.with_int8(plain, pictures, args.count)
        checkpoints.save_arrays(out / f"{name}_start.npz", net.state_dict(), about)
        found = {kind: held.score(_of_file(path)) for kind, path in files.items()}
        card = _facts(name, net, about, files, args), _measured(found, parity, reports, args.val)
        release.write_card(out / f"{name}.md", *card)
        size = f"{WIDTH}x{HEIGHT} true boxes"
        rows = [(path, found[kind], size) for kind, path in files.items()]
        release.add_history(out / release.HISTORY, rows, about, args.trained_on)
    except OSError as error:
        raise OutputError(f"cannot write {out} ({error.strerror}): choose another --out") from None
    for kind, path in files.items():
        scores = ", ".join(f"{k} {v:.3f}" for k, v in found[kind].items())
        _LOG.info("%s: %s", path, scores or "nobody to score on")
    return 0


def _people(addresses: list[str]) -> Iterator[Any]:
    """Yield sheets of labelled people, of whom readings with faults are known."""
    photos = chain.from_iterable(readers.open_source(a) for a in addresses)
    for n, item in enumerate(photos):
        yield from HoldOut([item], seed=n).sheets()


def _free_batch(model: Any) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _of_file(path: Path) -> hold_out.Answer:
    def answer(shown: Any) -> tuple[Any, Any]:
        outputs = quantise.OUTPUTS_OF[KIND]
        parts = [
            quantise.answer(path, shown[n : n + 64], outputs) for n in range(0, len(shown), 64)
        ]
        maps, bones = (np.concatenate(z) for z in zip(*parts))
        return maps, hold_out.in_metres(bones)

    return answer


def _facts(
    name: str, net: Portrait, about: dict[str, Any], files: dict[str, Path],
    args: argparse.Namespace,
) -> str:  # fmt: skip
    count = sum(p.numel() for p in net.parameters()) / 1e6
    rows = [
        f"| `{p.name}` | {kind} | {release.file_bytes(p) / 1e6:.1f} MB | {WIDTH}x{HEIGHT} |"
        for kind, p in files.items()
    ]
    return "\n".join([
        f"# Model card: {name} (a closer look at each person)", "",
        "| file | precision | size | input |", "|---|---|---|---|", *rows, "",
        f"SelecSLS-42 at {net.width:g} of its width with maps at stride 4, {count:.2f} M "
        f"parameters. Licence of the weights: {args.licence}.", "", "## Training", "",
        f"{about.get('images', 'an unknown number of')} portraits in "
        f"{float(about.get('minutes', 0)):.0f} minutes. Sources: "
        f"{args.trained_on or 'not stated'}.", "",
        "**Not for** anything that depends on a person being found: safety, medicine, "
        "surveillance.", "",
    ])  # fmt: skip


def _measured(
    found: dict[str, dict[str, float]], parity: float, reports: dict[str, dict[str, Any]],
    val: list[str],
) -> str:  # fmt: skip
    held = ", ".join(Path(readers.parse(a)[1]).name for a in val)
    lines = [release.MEASURED, "", f"Hold-out {held}, the boxes of the labels.", "",
             f"| | {' | '.join(found)} |", "|---|" + "---|" * len(found)]  # fmt: skip
    for key, text in _ROWS:
        if key in found["fp32"]:
            digits = 0 if key.endswith("mm") else 3
            each = " | ".join(
                f"{s[key]:.{digits}f}" + (f" ± {s['ap_error']:.3f}" if key == "AP" else "")
                for s in found.values()
            )
            lines.append(f"| {text} | {each} |")
    lines += release.rounding(parity, reports)
    lines.append("")
    return "\n".join(lines)
