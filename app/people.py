"""The verb ``people``: who is in a finished run, and other numbers for them without running again.

A tracker sometimes gives one person two numbers, or two people one. Edits repair that afterwards:
``5=2`` joins 5 to 2 (or renames it, where there is no 2), ``5@12.5=9`` does so from that second on,
``5=`` takes a ghost out. All edits speak of the numbers before; so ``1@8=2,2@8=1`` swaps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.formats.reading import Run, load_run
from manypose.app.rescale import body_height_m
from manypose.app.rewrite import EVERY, refresh, write_run
from manypose.errors import UsageError
from manypose.pose.joints import MISSING

log = logging.getLogger(__name__)

_EDIT = re.compile(r"(\d{1,9})(?:@(\d+(?:\.\d*)?))?=(\d{1,9})?")
_GONE = -1


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit: from `start_s` on (0: always), person `old` is person `new` (None: nobody)."""

    text: str
    old: int
    start_s: float
    new: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a recorded session")
    parser.add_argument(
        "--edit-ids", metavar="LIST", default="",
        help="5=2: 5 is 2; 5@12.5=9: from 12.5 s on, 5 is 9; 5=: nobody; several with commas",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR", help="new folder (default: in place)")
    parser.add_argument("--json", action="store_true", help="the table as JSON")


def run(args: argparse.Namespace) -> int:
    """Print who is in a run, after the edits asked for."""
    stored = load_run(args.run)
    if args.output is not None and not args.edit_ids:
        raise UsageError("-o belongs to --edit-ids")
    if args.edit_ids:
        edits = parse(args.edit_ids)
        changed = edited(stored, edits)
        folder = stored.folder if args.output is None else Path(args.output)
        write_run(changed, folder, EVERY)
        refresh(folder)
        log.info("%s: %d edits of identities", folder, len(edits))
        stored = load_run(folder)
    rows = [_described(stored, int(i)) for i in np.unique(stored.id)]
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    elif rows:
        _table(rows)
    else:
        log.info("%s: nobody was found in it", stored.folder)
    return 0


def parse(text: str) -> list[Edit]:
    """Return the edits in a comma list.

    Raises:
        UsageError: one of them is not understood or says nothing.
    """
    edits = []
    for part in filter(None, (word.strip() for word in text.split(","))):
        match = _EDIT.fullmatch(part)
        if match is None:
            raise UsageError(
                f"--edit-ids {part!r}: write 5=2 (5 is 2), 5@12.5=9 (from 12.5 s on, 5 is 9) or 5="
                " (5 is nobody)"
            )
        old, start_s, new = match.groups()
        edits.append(Edit(part, int(old), float(start_s or 0), None if new is None else int(new)))
        if edits[-1].old == edits[-1].new:
            raise UsageError(f"--edit-ids {part}: changes nothing")
    if not edits:
        raise UsageError("--edit-ids: no edit given; write 5=2 or 5@12.5=9")
    starts = [(e.old, e.start_s) for e in edits]
    for edit in edits:
        if starts.count((edit.old, edit.start_s)) > 1:
            raise UsageError(f"--edit-ids: two edits of {edit.old} from the same time on")
    return edits


def edited(stored: Run, edits: list[Edit]) -> Run:
    """Return the run with other identities; everything else stays.

    Raises:
        UsageError: nobody has a number that is edited, or two people would get the same one.
    """
    ids = stored.id.astype(np.int64)
    times = stored.t[stored.row_frame]
    known = sorted({int(i) for i in ids})
    for edit in sorted(edits, key=lambda e: e.start_s):
        mine = stored.id == edit.old
        if not mine.any():
            raise UsageError(
                f"--edit-ids {edit.text}: nobody has the number {edit.old}; there are"
                f" {', '.join(map(str, known)) or 'no people'}"
            )
        first, last = times[mine].min(), times[mine].max()
        if edit.start_s and not first < edit.start_s <= last:
            raise UsageError(
                f"--edit-ids {edit.text}: {edit.old} is in view from {first:.3f} to {last:.3f} s;"
                " give a time between"
            )
        ids[mine & (times >= edit.start_s)] = _GONE if edit.new is None else edit.new
    _check_apart(stored, ids)
    keep = ids != _GONE
    columns = ("row_frame", "id", "score", "box", "kp2d", "kp3d", "state", "root", "quat")
    data: dict[str, Any] = {k: getattr(stored, k) for k in columns}
    data["id"] = ids.astype(np.int32)
    data = {k: v if v is None else v[keep] for k, v in data.items()}
    n = np.bincount(data["row_frame"], minlength=len(stored.t)).astype(stored.n.dtype)
    return dataclasses.replace(stored, **data, n=n, meta=_meta(stored, edits, data, n))


def _check_apart(stored: Run, ids: Any) -> None:
    """Refuse two people with one number in one frame."""
    pairs = np.stack([stored.row_frame, ids], 1)[ids != _GONE]
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    twice = unique[counts > 1]
    if not len(twice):
        return
    frame, number = (int(v) for v in twice[0])
    both = sorted({int(i) for i in stored.id[(stored.row_frame == frame) & (ids == number)]})
    frames = int((twice[:, 1] == number).sum())
    raise UsageError(
        f"--edit-ids: {' and '.join(map(str, both))} are seen together in {frames} frames, first at"
        f" {stored.t[frame]:.3f} s: they are not one person. A part is joined with"
        f" {both[-1]}@SECONDS={both[0]}"
    )


def _meta(stored: Run, edits: list[Edit], data: dict[str, Any], n: Any) -> dict[str, Any]:
    """Return meta.json's facts with the edits told and the counts of people corrected."""
    meta = dict(stored.meta)
    meta["edited_ids"] = [*(meta.get("edited_ids") or []), *(e.text for e in edits)]
    ids = {int(i) for i in data["id"]}
    whole = {e.old: e.new for e in edits if not e.start_s}
    if isinstance(scaled := meta.get("rescaled"), dict):
        moved = {str(whole.get(int(k), int(k))): v for k, v in scaled.items()}
        meta["rescaled"] = {k: v for k, v in moved.items() if k.isdigit() and int(k) in ids}
    if isinstance(summary := meta.get("summary"), dict):
        filled = np.mean(data["state"] != MISSING) * 100 if len(data["state"]) else None
        meta["summary"] = {
            **summary, "ids": len(ids), "people": int(n.max(initial=0)),
            "filled_pct": None if filled is None else round(float(filled), 1),
        }  # fmt: skip
    for options in (meta.get("exports") or {}).values():
        chosen = {whole.get(i, i) for i in options.get("ids", ())}
        options["ids"] = sorted(i for i in chosen if i in ids)
    return meta


def _described(stored: Run, track_id: int) -> dict[str, Any]:
    """Return one person's line: when and how often seen, how tall, how far away, how certain."""
    rows = stored.person(track_id)
    times = stored.t[stored.row_frame[rows]]
    height_m = body_height_m(stored, track_id)
    far_m = np.linalg.norm(stored.root[rows], axis=1)
    far_m = far_m[np.isfinite(far_m)]
    return {
        "id": track_id,
        "from_s": round(float(times[0]), 3),
        "to_s": round(float(times[-1]), 3),
        "frames": len(rows),
        "gaps": int((np.diff(stored.row_frame[rows]) > 1).sum()),
        "height_m": None if height_m is None else round(height_m, 3),
        "distance_m": round(float(np.median(far_m)), 2) if len(far_m) else None,
        "score": round(float(stored.score[rows].mean()), 3),
    }


def _table(rows: list[dict[str, Any]]) -> None:
    heads = ("id", "from_s", "to_s", "frames", "gaps", "height_m", "distance_m", "score")
    lines = [heads, *(tuple("-" if r[h] is None else str(r[h]) for h in heads) for r in rows)]
    wide = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        sys.stdout.write("  ".join(v.rjust(w) for v, w in zip(line, wide)) + "\n")
