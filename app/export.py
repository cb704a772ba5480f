"""``manypose export``: a stored run to the files of other programs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from manypose.app.config import nearest
from manypose.app.exports import EXPORTERS, Options, exporter
from manypose.app.formats import WRITERS
from manypose.app.formats.part import write_json
from manypose.app.formats.reading import Run, load_run
from manypose.errors import UsageError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder written by manypose run")
    listed = "; ".join(f"{name}: {line}" for name, (_, line) in EXPORTERS.items())
    parser.add_argument(
        "--to", required=True, metavar="LIST",
        help=f"comma list of: {listed}; and a run's own: {', '.join(WRITERS)}",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", dest="out", metavar="DIR", help="folder (default: the run's own)"
    )
    parser.add_argument("--rate", type=float, default=0.0, help="Hz of constant-rate formats")
    parser.add_argument("--up", choices=("y", "z"), default="", help="axis that points upwards")
    parser.add_argument("--units", choices=("m", "mm"), default="", help="unit of TRC, C3D, BVH")
    parser.add_argument(
        "--max-gap", type=float, default=0.25, metavar="S", help="longer gaps stay open"
    )
    parser.add_argument(
        "--no-ground", action="store_true", help="do not put the lowest steps on height 0"
    )
    parser.add_argument("--ids", metavar="LIST", default="", help="only these people, as 1,3")


def run(args: argparse.Namespace) -> int:
    """Export every run named and print the files."""
    names = [n for n in args.to.split(",") if n]
    check_formats(names)
    if args.rate < 0 or args.rate > 1000:
        raise UsageError(f"--rate {args.rate:g}: frames per second are 0 (the source's) to 1000")
    try:
        ids = tuple(int(i) for i in args.ids.split(",") if i)
    except ValueError as e:
        raise UsageError(f"--ids {args.ids}: a comma list of numbers, as 1,3") from e
    options = Options(args.rate, args.up, args.units, args.max_gap, not args.no_ground, ids)
    several = len(args.runs) > 1
    for folder in map(Path, args.runs):
        out = None if args.out is None else Path(args.out) / (folder.name if several else "")
        for path in export_run(folder, names, out, options):
            sys.stdout.write(f"{path}\n")
    return 0


def _why_nothing(stored: Run) -> str:
    if not len(stored.id):
        return "nobody was found"
    return "it holds motion, and nobody wanted is there in two frames or more"


def check_formats(names: Sequence[str]) -> None:
    """Raise UsageError for a name that no exporter has."""
    known = (*EXPORTERS, *WRITERS)
    for name in names:
        if name not in known:
            raise UsageError(
                f"no export format {name!r}{nearest(name, known)}; there are {', '.join(known)}"
            )
    if not names:
        raise UsageError(f"no export format given; there are {', '.join(known)}")


def export_run(
    folder: Path,
    names: Sequence[str],
    out: Path | None = None,
    options: Options | None = None,
) -> list[Path]:
    """Export one stored run and return the files; a run's own formats are written if missing.

    Raises:
        SourceError: the folder holds no run.
        OutputError: the files cannot be written.
    """
    stored = load_run(folder)
    target = folder if out is None else out
    options = options or Options()
    written: list[Path] = []
    for name in names:
        if name in EXPORTERS:
            made = exporter(name)(stored, target, options)
            if not made:
                log.warning("%s: %s: nothing to write, as %s", folder, name, _why_nothing(stored))
            written += made
        elif options.ids:
            raise UsageError(f"--ids: {name} has everybody in it; leave --ids or {name} out")
        else:
            from manypose.app.rewrite import write_native

            written.append(write_native(stored, target, name))
    meta = folder / "meta.json"
    if out is None and meta.is_file():  # so that they can be made anew when the run is changed
        told = {name: asdict(options) for name in names if name in EXPORTERS}
        kept = {k: v for k, v in stored.meta.items() if k != "exports"}
        write_json(meta, {**kept, "exports": {**(stored.meta.get("exports") or {}), **told}})
    return written
