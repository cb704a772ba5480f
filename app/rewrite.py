"""Write a stored run anew after its numbers or identities were changed, with all that follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from manypose.app.export import export_run
from manypose.app.exports import Options, made_in
from manypose.app.folder import remove_overlay
from manypose.app.formats import WRITERS
from manypose.app.formats.events import EventsWriter
from manypose.app.formats.part import cannot_write, write_json
from manypose.app.formats.reading import Run, StoredFrame, load_run
from manypose.calib.camera import Camera
from manypose.errors import ManyposeError, OutputError
from manypose.pose.records import Frame, FrameResult, TrackedPerson, UInt8

log = logging.getLogger(__name__)

_NO_PICTURE = np.zeros((1, 1, 3), np.uint8)
_MAKERS = {**WRITERS, "events": EventsWriter}
_FILES = {
    "npz": "pose.npz", "csv": "pose.csv", "jsonl": "pose.jsonl", "coco": "coco.json",
    "events": "events.jsonl",
}  # fmt: skip
IN_3D = ("npz", "csv", "jsonl")  # the files that hold positions
WITH_JOINTS = (*IN_3D, "coco")
EVERY = tuple(_FILES)
_TELL_FRAMES = 500
# Of meta.json alone: equal results give equal bytes, whenever and wherever they were made.
_OF_THE_RUN = (
    "status", "summary", "exports", "command", "created", "engine", "stage_ms", "up", "versions",
)  # fmt: skip


def write_run(
    stored: Run, folder: Path, names: Sequence[str], tell: Callable[[float], None] | None = None
) -> None:
    """Write a run into a folder, each file whole or not at all: its own files of these names.

    Files of the run that are not among the names are copied as they are into another folder. tell
    is told now and then how much is written, in [0, 1].

    Raises:
        OutputError: the folder is that of another run, or cannot be written.
    """
    in_place = folder.resolve() == stored.folder.resolve()
    if not in_place and (folder / "meta.json").exists():
        raise OutputError(f"{folder}: holds another run; choose a new folder with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    meta = {k: v for k, v in stored.meta.items() if k not in _OF_THE_RUN}
    there = [name for name, file in _FILES.items() if (stored.folder / file).is_file()]
    wanted = [name for name in there if name in names]
    if not set(there) & set(IN_3D):
        wanted.append("npz")
    for n, name in enumerate(wanted):
        with _MAKERS[name](folder, meta) as writer:
            for k, one in enumerate(stored):
                writer.write(stored_result(one, _NO_PICTURE))
                if tell is not None and k % _TELL_FRAMES == 0:
                    tell((n + k / len(stored)) / len(wanted))
    if not in_place:
        for name in set(there) - set(wanted):
            (folder / _FILES[name]).write_bytes((stored.folder / _FILES[name]).read_bytes())
    write_json(folder / "meta.json", stored.meta)


def write_native(stored: Run, folder: Path, name: str) -> Path:
    """Return the file of this native format in a folder, written if it is not there.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / _FILES[name]
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        meta = {k: v for k, v in stored.meta.items() if k not in _OF_THE_RUN}
        with WRITERS[name](folder, meta) as writer:
            for one in stored:
                writer.write(stored_result(one, _NO_PICTURE))
    return path


def refresh(folder: Path) -> None:
    """Make exports and overlay video of a rewritten run anew, where it has them.

    Exports are made with the options of the last time. A video whose source is not there any more
    is removed, because it shows what no longer holds.
    """
    stored = load_run(folder)
    known = stored.meta.get("exports") or {}
    for name, files in made_in(folder).items():
        for file in files:
            file.unlink()
        export_run(folder, [name], options=Options.of(known.get(name) or {}))
        log.info("%s: made anew", name)
    drawn = [n for n in ("overlay.mp4", "overlay") if (folder / n).exists()]
    if drawn and not _redrawn(stored):
        remove_overlay(folder)
        log.warning("%s: removed, it cannot be drawn anew without the source", drawn[0])


def _redrawn(stored: Run) -> bool:
    from manypose.app.formats.video import overlay_writer
    from manypose.app.replay import pictures_of

    pictures = pictures_of(stored)
    if pictures is None:
        return False
    try:
        with overlay_writer(stored.folder, stored.meta) as video:
            for one in stored:
                image = pictures.at(one.t, one.frame)
                if image is None:
                    raise OutputError("a picture is missing")
                video.write(stored_result(one, image))
    except ManyposeError:
        return False
    finally:
        pictures.close()
    return True


def stored_result(one: StoredFrame, image: UInt8) -> FrameResult:
    """Return a stored frame as the result it was, with its picture."""
    people = tuple(
        TrackedPerson(p.id, p.score, p.kp2d[:, :2], p.kp2d[:, 2], p.kp3d, p.state, p.box, p.quat)
        for p in one.persons
    )
    camera = Camera.from_fov(2, 2)  # not written; a frame must have one
    return FrameResult(Frame(image, one.t, one.frame, camera), people)
