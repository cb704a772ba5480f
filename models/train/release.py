"""``manypose train release``: weights as files for users, with their scores, card and history.

NAME.onnx, NAME_int8.onnx and, where NNCF is installed, NAME_int8.xml with its .bin run; further
input sizes have the size in their names. NAME_start.npz is what others train on from (--init).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from manypose.errors import OutputError, UsageError
from manypose.models import export, quantise
from manypose.models.preprocess import letterbox, size_named
from manypose.models.train import checkpoints, readers, scores
from manypose.models.train.packs import Photo, decoded
from manypose.pose.records import NetworkOutput

_LOG = logging.getLogger(__name__)
HISTORY = "history.csv"
OWN = "int8 for OpenVINO"
_COLUMNS = ("date", "file", "pictures_seen", "minutes", "data", "ap", "ap_standard_error", "ap50",
            "pck", "input")  # fmt: skip
MEASURED = "## Measured"
_ROWS = (
    ("AP", "OKS AP, decoded people"), ("AP50", "AP50"), ("AR", "AR"),
    ("recall", "labelled joints with a peak near"), ("pck", "PCK@0.2 torso, single athletes"),
    ("swaps", "left and right exchanged, share of pairs"), ("missed", "people missed per photo"),
    ("invented", "people invented per photo"), ("merged", "two people taken for one, per photo"),
    ("ghosts", "people per people-free photo"),
    ("bone_mm", "3D encoding, mm"), ("bone_constant_mm", "what the mean bone would score, mm"),
    ("bone_seen_mm", "3D encoding of joints in sight that the maps show, mm"),
    ("bone_seen_constant_mm", "what the mean bone would score there, mm"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """Files of one input size (width, height) by precision, and what was measured of them."""

    size: tuple[int, int]
    files: dict[str, Path]
    parity: float
    reports: dict[str, dict[str, Any]]
    found: dict[str, dict[str, float]]
    top: dict[str, float]

    @property
    def named(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train release``."""
    parser.add_argument("weights", type=Path, help="ema.pt of a run of stage1 or portraits")
    parser.add_argument("--name", default="full", help="name of the network (full, light, ...)")
    parser.add_argument(
        "--size", nargs="+", default=["512x320"],
        help="input sizes, the one of the model card first (default 512x320)",
    )  # fmt: skip
    parser.add_argument("--val", nargs="+", metavar="ADDRESS", required=True, help="hold-out")
    parser.add_argument(
        "--calibrate", nargs="+", metavar="ADDRESS", required=True,
        help="photos for int8, not those of --val",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=200, help="photos to calibrate on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--licence", default="MIT", help="of the weights (default MIT)")
    parser.add_argument("--trained-on", default="", metavar="TEXT", help="origins of the pictures")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Export, quantise, score, and write card and history.

    Raises:
        UsageError: options make no sense.
        WeightsError: the checkpoint is none, or the exported file answers differently.
        SourceError: photos cannot be read.
        OutputError: --out cannot be written.
    """
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--name {args.name}: letters, digits, - and _ only")
    if checkpoints.read(args.weights).get("kind") == "portrait":
        from manypose.models.train.portraits import release as portraits

        return portraits.run(args)
    sizes = [size_named(text) for text in args.size]
    net, about = checkpoints.network(args.weights, "cpu")
    trained_on = args.trained_on or _sources(args.weights)
    photos = [p for a in args.val for p in readers.open_source(a)]
    some = chain.from_iterable(readers.open_source(a) for a in args.calibrate)
    count = args.count + quantise.TEST_PICTURES
    pictures = [np.asarray(decoded(p).picture) for p in islice(some, count)]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        start = args.out / f"{args.name}_start.npz"
        checkpoints.save_arrays(start, net.state_dict(), about)
        made = [_made(args, net, size, trained_on, pictures, photos) for size in sizes]
        facts = _facts(args.name, net, about, made, trained_on, args.licence)
        write_card(args.out / f"{args.name}.md", facts, _measured(made, args.val))
        rows = [(p, one.found[k], one.named) for one in made for k, p in one.files.items()]
        add_history(args.out / HISTORY, rows, about, trained_on)
    except OSError as error:
        raise OutputError(
            f"cannot write {args.out} ({error.strerror}): choose another --out"
        ) from (None)
    for one in made:
        for kind, path in one.files.items():
            _LOG.info("%s: %s", path, scores.line(one.found[kind], one.top))
    return 0


def _made(
    args: argparse.Namespace, net: Any, size: tuple[int, int], trained_on: str,
    pictures: Sequence[Any], photos: Sequence[Photo],
) -> _Made:  # fmt: skip
    """Write the files of one input size, with their rows of the manifest, and score them."""
    width, height = size
    named = f"{width}x{height}"
    stem = args.name if named == args.size[0] else f"{args.name}_{named}"
    plain = args.out / f"{stem}.onnx"
    source = f"manypose train, {trained_on}" if trained_on else "manypose train"
    parity = export.export_onnx(
        net, plain, height, width, args.name, args.licence, source, record=True
    )
    files, reports = with_int8(plain, pictures, args.count)
    found = {
        kind: scores.evaluate(photos, of_file(path, width, height)) for kind, path in files.items()
    }
    return _Made(size, files, parity, reports, found, scores.ceiling(photos, width, height))


def with_int8(
    plain: Path, pictures: Sequence[Any], count: int
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Write the int8 files of an exported one, with their rows of the manifest.

    Returns all files by precision, and the reports of the rounded ones.
    """
    files = {"fp32": plain, "int8": plain.with_name(f"{plain.stem}_int8.onnx")}
    reports = {"int8": quantise.quantise(plain, files["int8"], pictures, True, count)}
    if all(importlib.util.find_spec(name) for name in ("nncf", "openvino")):
        files[OWN] = files["int8"].with_suffix(".xml")
        reports[OWN] = quantise.quantise_openvino(plain, files[OWN], pictures, True, count)
    return files, reports


def of_file(path: Path, width: int, height: int) -> scores.Predict:
    """Return a function from decoded photos to the maps of an exported file."""

    def predict(photos: Sequence[Photo]) -> list[NetworkOutput]:
        boxed = [letterbox(np.asarray(p.picture), height, width) for p in photos]
        maps = quantise.answer(path, np.stack([image for image, _ in boxed]))
        return [
            NetworkOutput(heat, pafs, encodings, to_image)
            for heat, pafs, encodings, (_, to_image) in zip(*maps, boxed)
        ]

    return predict


def _sources(weights: Path) -> str:
    """Return the sources of the run that made the weights, as its config.json tells them."""
    try:
        config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
        return ", ".join(Path(readers.parse(a)[1]).name for a in config["data"])
    except (OSError, ValueError, KeyError, UsageError):
        return ""


def _facts(
    name: str, net: Any, about: dict[str, Any], made: Sequence[_Made], trained_on: str, licence: str
) -> str:
    count = sum(p.numel() for p in net.parameters()) / 1e6
    rows = [f"| `{p.name}` | {kind} | {file_bytes(p) / 1e6:.1f} MB | {one.named} |"
            for one in made for kind, p in one.files.items()]  # fmt: skip
    return "\n".join([
        f"# Model card: {name} (Stage I)", "", "| file | precision | size | input |",
        "|---|---|---|---|", *rows, "",
        f"{about.get('backbone', 'selecsls60')} at {about.get('width', 1.0):g} of its width, "
        f"{count:.2f} M parameters. Licence of the weights: {licence}.", "", "## Training", "",
        f"{about.get('images', 'an unknown number of')} pictures in "
        f"{float(about.get('minutes', 0)):.0f} minutes. Sources: {trained_on or 'not stated'}.", "",
        "**Not for** anything that depends on a person being found: safety, medicine, "
        "surveillance.", "",
    ])  # fmt: skip


def file_bytes(path: Path) -> int:
    """Return the size of a weight file; of an OpenVINO .xml with its .bin."""
    twin = path.with_suffix(".bin")
    return path.stat().st_size + (twin.stat().st_size if path.suffix == ".xml" else 0)


def _measured(made: Sequence[_Made], val: Sequence[str]) -> str:
    held = ", ".join(Path(readers.parse(a)[1]).name for a in val)
    lines = [MEASURED, "", f"Hold-out {held}, through the product's decoder."]
    for one in made:
        limit = f" (its ceiling on perfect maps: AP {one.top['AP']:.3f})" if one.top else ""
        lines += ["", f"Input {one.named}{limit}:", "", f"| | {' | '.join(one.found)} |",
                  "|---|" + "---|" * len(one.found)]  # fmt: skip
        for key, text in _ROWS:
            if key in one.found["fp32"]:
                each = " | ".join(
                    f"{s[key]:.3f}" + (f" ± {s['ap_error']:.3f}" if key == "AP" else "")
                    for s in one.found.values()
                )
                lines.append(f"| {text} | {each} |")
        lines += rounding(one.parity, one.reports)
    lines.append("")
    return "\n".join(lines)


def rounding(parity: float, reports: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a card about what export and rounding changed."""
    lines = ["", f"Largest difference between torch and ONNX Runtime, relative: {parity:.1g}."]
    for kind, report in reports.items():
        sqnr = ", ".join(f"{k} {v:g}" for k, v in report["sqnr_db"].items())
        lines.append(f"Signal to rounding noise of {kind}, dB: {sqnr}; "
                     f"{len(report['float_layers'])} layers stay in float.")  # fmt: skip
    return lines


def write_card(path: Path, facts: str, measured: str) -> None:
    """Write the card; in one that is there, only the section of scores is renewed."""
    text = facts + "\n" + measured
    if path.exists():
        old = path.read_text(encoding="utf-8")
        before, found, rest = old.partition(MEASURED)
        after = rest.partition("\n## ")[2]
        text = (before if found else old.rstrip() + "\n\n") + measured
        text += f"\n## {after}" if after else ""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def add_history(
    path: Path, scored: Sequence[tuple[Path, dict[str, float], str]], about: dict[str, Any],
    trained_on: str,
) -> None:  # fmt: skip
    """Append a line for each file, with its scores and the input they were measured at."""
    old = path.read_text(encoding="utf-8") if path.exists() else ",".join(_COLUMNS) + "\n"
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        file.write(old)
        table = csv.writer(file, lineterminator="\n")
        today = datetime.now(UTC).date().isoformat()
        seen = about.get("images", ""), round(float(about.get("minutes", 0)))
        for of, s, size in scored:
            told = [f"{s[k]:.3f}" if k in s else "" for k in ("AP", "ap_error", "AP50", "pck")]
            table.writerow([today, of.name, *seen, trained_on, *told, size])
    part.replace(path)
