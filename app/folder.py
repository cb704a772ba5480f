"""What a run's folder holds: the files of this run or of an earlier one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manypose.app.config import Config
from manypose.app.exports import made_in
from manypose.app.formats import WRITERS, Writer
from manypose.app.formats.events import EventsWriter
from manypose.app.journal import NAME as JOURNAL_NAME

RESULTS = (
    "meta.json", "events.jsonl", "pose.npz", "rotations.npz", "pose.csv", "pose.jsonl", "coco.json",
    "overlay.mp4", "overlay",
)  # fmt: skip


def results_in(folder: Path) -> bool:
    """Return whether a folder holds results of a run, finished or not."""
    names = ("meta.json", "pose.npz", "pose.jsonl", "pose.jsonl.part", JOURNAL_NAME)
    return any((folder / name).exists() for name in names)


def is_done(
    folder: Path, old: Mapping[str, Any], header: dict[str, Any], config: Config, *, draw: bool
) -> bool:
    """Return whether an earlier, complete run is the very one asked for."""
    whole = old.get("status") in ("ok", "partial")
    same = whole and all(old.get(k) == header.get(k) for k in ("key", "seconds_max"))
    return same and all(
        writer.path.exists() for writer in writers_of(folder, header, config, draw=draw)
    )


def writers_of(folder: Path, header: dict[str, Any], config: Config, *, draw: bool) -> list[Writer]:
    """Return the writers of the files that the settings ask for; draw: an overlay, too."""
    writers: list[Writer] = [EventsWriter(folder, header)]
    writers += [WRITERS[name](folder, header) for name in config.output.formats]
    if config.output.video and draw:
        from manypose.app.formats.video import overlay_writer

        writers.append(overlay_writer(folder, header))
    return writers


def old_meta(folder: Path) -> dict[str, Any]:
    """Return meta.json of an earlier run, empty if there is none that can be read."""
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def remove_overlay(folder: Path) -> None:
    """Remove the overlay of an earlier run, of either kind."""
    for drawn in (folder / "overlay.mp4", *folder.glob("overlay/*.jpg")):
        drawn.unlink(missing_ok=True)


def clear(folder: Path, old: Mapping[str, Any], *, keep_journal: bool) -> None:
    """Remove what an earlier run left, so that no stale file stands beside the new ones."""
    listed = (old.get("summary") or {}).get("outputs") or ()
    names = {*RESULTS, *(n for n in listed if isinstance(n, str) and n == Path(n).name)}
    remove_overlay(folder)
    for name in names - {"overlay"}:
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.part").unlink(missing_ok=True)
    for path in itertools.chain(*made_in(folder).values()):
        path.unlink()
    if not keep_journal:
        (folder / JOURNAL_NAME).unlink(missing_ok=True)
