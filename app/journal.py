"""The journal of a run: what the network found in every frame, on disk as it goes.

A run that was killed goes on from its journal: the pictures are decoded again, the network, which
is nearly all of the time, is not asked again, and the Follower sees the same numbers as it would
have without the interruption. For that, the numbers of every run pass through the journal's form
(float32) before they are followed, written or not.

One JSON object a line: a head that names what the journal is of, then one line a frame, in any
order; arrays are base64 of little-endian float32. Others may have found what it holds (app.batch),
so an entry counts only for the frame of its index and time.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.part import cannot_write
from manypose.pose.joints import CARRIED, JOINTS, JOINTS_2D
from manypose.pose.lifting import packed_bones, unpacked_bones
from manypose.pose.records import Detections, Float, Frame, Person2D, Person3D

NAME = "detections.jsonl.part"
_SCHEMA = "manypose-journal/3"
_K, _J, _C = len(JOINTS_2D), len(JOINTS), len(CARRIED)
_PACKED_MAX = 1 << 20  # characters: 1000 people
_SIZE = _K * 2 + _K + _K + _J * 3 + _J + 3 + 3 + _C * 3


@dataclass(frozen=True, slots=True)
class Found:
    """One line of the journal: what was found in one frame; people packed as base64."""

    index: int
    time_s: float
    people: str

    def line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps({"frame": self.index, "t": self.time_s, "p": self.people}) + "\n"


def found_in(detections: Detections) -> Found:
    """Return detections in the journal's form."""
    frame = detections.frame
    return Found(frame.index, frame.time_s, _pack(detections))


class Journal:
    """The journal in a run's folder; `found` holds what an earlier, unfinished run left."""

    def __init__(self, folder: Path, key: str, *, resume: bool) -> None:
        self.path = folder / NAME
        self.found: dict[int, Found] = {}
        whole = 0
        if resume and self.path.is_file():
            whole = self._read(key)
        try:
            self._file: IO[str] = self.path.open("r+" if whole else "w", encoding="utf-8")
            if whole:
                self._file.seek(whole)
                self._file.truncate()
            else:
                self._file.write(json.dumps({"schema": _SCHEMA, "key": key}) + "\n")
                self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _read(self, key: str) -> int:
        """Take over the whole lines of an earlier journal; returns their length in bytes."""
        with self.path.open("rb") as lines:
            head = _object(lines.readline())
            if head.get("schema") != _SCHEMA or head.get("key") != key:
                return 0
            whole = lines.tell()
            for line in lines:
                entry = _object(line)
                index, time_s, people = (entry.get(k) for k in ("frame", "t", "p"))
                if not isinstance(index, int) or not isinstance(people, str):
                    break
                if not isinstance(time_s, (int, float)) or len(people) > _PACKED_MAX:
                    break
                self.found[index] = Found(index, time_s, people)
                whole += len(line)
        return whole

    def recall(self, frame: Frame) -> Detections | None:
        """Return what the earlier run found in this frame, None if it did not get there."""
        found = self.found.get(frame.index)
        if found is None or found.time_s != frame.time_s:
            return None
        try:
            return _unpack(frame, found.people)
        except ValueError:  # damaged on the disk: not base64, or no whole number of people
            return None

    def keep(self, detections: Detections) -> Detections:
        """Write the detections of one frame down; returns them as the journal knows them."""
        found = found_in(detections)
        self.add(found)
        return _unpack(detections.frame, found.people, dict(detections.stage_ms))

    def add(self, found: Found) -> None:
        """Write down what was found elsewhere.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._file.write(found.line())
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self, *, remove: bool) -> None:
        """Close the file; remove it when the run is complete."""
        with contextlib.suppress(OSError):  # half a line on a full disk, which counts for nothing
            self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _pack(detections: Detections) -> str:
    """Return the people as base64; of encodings only the bones that are read."""
    rows = np.empty((len(detections.people), _SIZE), "<f4")
    for row, p in zip(rows, detections.people):
        parts: list[Any] = [
            p.seen.joints_px, p.seen.confidence, p.seen.part_numbers,
            p.joints_rel_m, p.sigma_m, p.root_m,
            [p.seen.score, p.root_sigma_m, p.size_error], packed_bones(p.seen),
        ]  # fmt: skip
        row[:] = np.concatenate([np.ravel(part) for part in parts])
    return base64.b64encode(rows.tobytes()).decode("ascii")


def _unpack(frame: Frame, packed: str, stage_ms: dict[str, float] | None = None) -> Detections:
    rows = np.frombuffer(base64.b64decode(packed), "<f4").reshape(-1, _SIZE)
    return Detections(frame, tuple(_person(row) for row in rows), stage_ms or {})


def _person(row: Float) -> Person3D:
    px, conf, parts, rel, sigma, root, rest, bones = np.split(
        row, np.cumsum([_K * 2, _K, _K, _J * 3, _J, 3, 3]).tolist()
    )
    encoding = unpacked_bones(bones.reshape(_C, 3))
    seen = Person2D(px.reshape(_K, 2), conf, float(rest[0]), encoding, _whole(parts))
    return Person3D(seen, rel.reshape(_J, 3), sigma, root, float(rest[1]), float(rest[2]))


def _whole(parts: Float) -> NDArray[np.int8]:
    """Return the numbers of parts; a damaged file may hold anything."""
    sound = np.abs(parts) < 128  # not so for NaN
    return np.where(sound, parts, 0).astype(np.int8)


def normalised(detections: Detections) -> Detections:
    """Return detections as a journal would give them back, without writing any."""
    return _unpack(detections.frame, _pack(detections), dict(detections.stage_ms))
