"""The verb ``eval``: score results against truth, as tables or JSON on stdout."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app import accuracy, motion, stages, truth
from manypose.app.formats.reading import Run, load_run
from manypose.errors import DeviceError, SourceError, UsageError
from manypose.pose.scores_2d import coco_ap

_BOOTSTRAP = 200
# Heading of a table's column -> (figure, factor, decimals)
_COLUMNS: dict[str, tuple[str, float, int]] = {
    "people": ("people", 1, 0),
    "found %": ("found_share", 100, 1),
    "surplus": ("surplus_people", 1, 0),
    "MPJPE": ("mpjpe_mm", 1, 1),
    "PA": ("pa_mpjpe_mm", 1, 1),
    "N": ("n_mpjpe_mm", 1, 1),
    "PCK all": ("pck_all", 100, 1),
    "matched": ("pck_matched", 100, 1),
    "bones all": ("pck_true_bones_all", 100, 1),
    "bones matched": ("pck_true_bones_matched", 100, 1),
    "AUC all": ("auc_all", 100, 1),
    "abs all": ("pck_abs_all", 100, 1),
    "root": ("root_mm", 1, 0),
    "root, true camera": ("root_true_camera_mm", 1, 0),
}
_LEGEND = (
    "mm and %; MPJPE, PA, N and root over found joints; PCK: share of joints 0-13 within 150 mm"
    " (relative to the pelvis; abs = in the camera frame); all = an unfound person is all misses;"
    " bones = found limbs rescaled to the true lengths, as the data set's own script does"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands, one for each kind of truth."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        one = kinds.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.add_argument("--json", action="store_true", help="figures as JSON on stdout")
        return one

    one = kind("coco", "2D key points by COCO's OKS average precision")
    one.add_argument("results", metavar="RESULTS", help="coco.json of a run, or a folder with one")
    one.add_argument("truth", metavar="TRUTH", help="COCO key-point annotations, JSON")
    one.add_argument(
        "--only-seen", action="store_true", help="score only the pictures that have results"
    )
    one = kind("truth3d", "labelled pictures: a folder with annotations.json")
    one.add_argument("truth", metavar="FOLDER", help="folder with annotations.json")
    one.add_argument("run", metavar="RUN", help="result folder of manypose run FOLDER/images")
    one = kind("sequence", "a video with truth in every frame: accuracy, identity, motion")
    one.add_argument("truth", metavar="TRUTH", help=".npz with joints_m, joints_px, seen, K, fps")
    one.add_argument("run", metavar="RUN", help="result folder of manypose run VIDEO")
    one = kind("stages", "what each stage is worth, on people whose every joint is known")
    stages.add_arguments(one)
    for name, text in (("mupots", "MuPoTS-3D"), ("mpi3dhp", "the MPI-INF-3DHP test set")):
        one = kind(name, f"{text} in its published folders, a result folder for each sequence")
        one.add_argument("truth", metavar="FOLDER", help="folder that holds TS1, TS2, ...")
        one.add_argument("run", metavar="RUNS", help="folder that holds the results TS1, TS2, ...")
        one.add_argument(
            "--metric",
            action="store_true",
            help="score against annot3 instead of univ_annot3 (bodies of equal size)",
        )


def run(args: argparse.Namespace) -> int:
    """Score and report; returns the exit code."""
    if args.kind == "coco":
        report = evaluate_coco(Path(args.results), Path(args.truth), only_seen=args.only_seen)
    elif args.kind == "truth3d":
        report = evaluate_truth3d(Path(args.truth), Path(args.run))
    elif args.kind == "sequence":
        report = evaluate_sequence(Path(args.truth), Path(args.run))
    elif args.kind == "stages":
        report = stages.run_stages(args)
    elif args.kind in ("mupots", "mpi3dhp"):
        report = evaluate_sequences(
            args.kind, Path(args.truth), Path(args.run), universal=not args.metric
        )
    else:
        raise UsageError(
            "eval needs to know what to score: coco, truth3d, sequence, stages, mupots, mpi3dhp"
        )
    if args.json:
        sys.stdout.write(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n")
    elif args.kind == "coco":
        _coco_table(report)
    elif args.kind == "stages":
        stages.tell(report, _console())
    else:
        _table(report)
    return 3 if report.get("missing") else 0


def evaluate_coco(results: Path, ground_truth: Path, only_seen: bool = False) -> dict[str, Any]:
    """Return COCO's figures of a results file, with standard errors over pictures.

    Args:
        results: a COCO results list, or a run's folder with a coco.json.
        ground_truth: COCO key-point annotations.
        only_seen: leave out the pictures without any result.

    Raises:
        SourceError: a file cannot be read or is not what it should be.
        DeviceError: pycocotools is missing.
    """
    if results.is_dir():
        results = results / "coco.json"
    found, document = truth.read_json(results), truth.read_json(ground_truth)
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise SourceError(f"{results}: not a COCO results list.")
    parts = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(
        isinstance(document.get(part), list) for part in parts
    ):
        raise SourceError(f"{ground_truth}: not COCO annotations ({', '.join(parts)}).")
    ids = sorted({r.get("image_id") for r in found}, key=str) if only_seen else None
    try:
        with np.errstate(over="ignore"):  # of places beyond every picture
            return dict(coco_ap(found, document, ids, _BOOTSTRAP))
    except ValueError as error:
        raise SourceError(f"{results}: {error}.") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # of pycocotools
        raise SourceError(f"{ground_truth}: not COCO annotations ({error!r}).") from error
    except ModuleNotFoundError as error:
        raise DeviceError("pycocotools is missing: pip install pycocotools.") from error


def evaluate_truth3d(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Return the figures of a run on labelled pictures: {"sets": {name: figures}}.

    Raises:
        SourceError: truth or run cannot be read or do not belong together.
    """
    sequence = truth.read_truth3d(folder)
    stored = load_run(_run_in(run_folder, ("", "images")))
    pairs = accuracy.pair_up(stored, sequence)
    return {"sets": {sequence.name: accuracy.figures(pairs)}, "camera": _camera(stored)}


def evaluate_sequence(file: Path, run_folder: Path) -> dict[str, Any]:
    """Return the figures of a run on a video with truth: {"sets": {name: ...}, "motion": ...}.

    Raises:
        SourceError: truth or run cannot be read or do not belong together.
    """
    true = motion.read_motion(file)
    stored = load_run(run_folder)
    pairs = accuracy.pair_up(stored, true.sequence(stored.meta.get("camera", {}).get("width")))
    return {
        "sets": {true.name: accuracy.figures(pairs)},
        "motion": motion.motion_figures(stored, true),
        "camera": _camera(stored),
    }


def evaluate_sequences(
    kind: str, folder: Path, runs: Path, universal: bool = True
) -> dict[str, Any]:
    """Return the figures of MuPoTS-3D or MPI-INF-3DHP: by sequence, their mean, and pooled.

    Keys: sets {TSn: figures}, mean (each sequence weighs the same, the published figure), pooled
    (each person weighs the same), missing (sequences without a run), truth (the field scored).

    Raises:
        SourceError: the data set cannot be read, or there is no run for any sequence.
    """
    read = truth.read_mupots if kind == "mupots" else truth.read_mpi3dhp
    parts, missing, cameras = {}, [], []
    for sequence in read(folder, universal):
        try:
            stored = load_run(_run_in(runs / sequence.name, ("", "imageSequence", "images")))
        except SourceError:
            missing.append(sequence.name)
            continue
        cameras.append(_camera(stored))
        parts[sequence.name] = accuracy.pair_up(stored, sequence)
    if not parts:
        raise SourceError(
            f"{runs}: no run of any sequence; make them with manypose run FOLDER/TS1 -o {runs}."
        )
    sets = {name: accuracy.figures(part) for name, part in parts.items()}
    return {
        "sets": sets,
        "mean": accuracy.mean_of(list(sets.values())),
        "pooled": accuracy.figures(accuracy.pooled(list(parts.values()))),
        "missing": missing,
        "truth": "univ_annot3" if universal else "annot3",
        "camera": sorted(set(cameras)),
    }


def _run_in(folder: Path, below: Sequence[str]) -> Path:
    """Return the first of these sub-folders that holds a run, else the folder itself."""
    for name in below:
        if any((folder / name / file).is_file() for file in ("pose.npz", "pose.jsonl")):
            return folder / name
    return folder


def _camera(stored: Run) -> str:
    return str(stored.meta.get("camera", {}).get("source", "unknown"))


def _plain(value: Any) -> Any:
    """Return the value with NaN as None, which JSON can say."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _console() -> Any:
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 160
    return Console(width=wide, no_color=bool(os.environ.get("NO_COLOR")) or None)


def _coco_table(report: Mapping[str, float]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("figure", "value", "standard error"):
        table.add_column(head, justify="left" if head == "figure" else "right")
    for name in ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR"):
        error = report.get(f"{name}_se")
        table.add_row(name, f"{report[name]:.3f}", "" if error is None else f"{error:.3f}")
    for name in ("images", "people"):
        table.add_row(name, f"{report[name]:.0f}", "")
    _console().print(table)


def _table(report: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("set", no_wrap=True)
    for head in _COLUMNS:
        table.add_column(head, justify="right")
    rows = dict(report["sets"])
    rows |= {name: report[name] for name in ("mean", "pooled") if name in report}
    for name, figures in rows.items():
        cells = []
        for key, factor, decimals in _COLUMNS.values():
            value = figures[key]
            cells.append("-" if math.isnan(value) else f"{factor * value:.{decimals}f}")
        table.add_row(name, *cells)
    console = _console()
    console.print(table)
    console.print(_LEGEND, highlight=False)
    for name, value in report.get("motion", {}).items():
        console.print(f"{name:20} {value:10.3f}", highlight=False)
    if report.get("missing"):
        console.print(f"without a run: {', '.join(report['missing'])}", highlight=False)
