"""pose.npz: the native file of a run, ragged rows of persons over frames.

Keys: t (F,) s from the first frame; frame (F,) frame index in the source; n (F,) persons; then
rows R, one for each person in each frame: row_frame (R,) index into t, frame and n; id (R,); score
(R,); box (R, 4) x y w h px; kp2d (R, 20, 3) x y px and confidence; kp3d (R, 21, 3) m; state
(R, 21); root (R, 3) m; and joint_names, kp2d_names, parents, meta_json.

Rows go to disk as they come, so that memory does not grow with the length of the video. Stamps
inside the archive are fixed: equal results give equal bytes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.part import abandon, cannot_write, finish, part_of
from manypose.pose.joints import JOINTS, JOINTS_2D, PARENT, ROOT
from manypose.pose.records import FrameResult, TrackedPerson

_K, _J = len(JOINTS_2D), len(JOINTS)
FRAME_DTYPE = np.dtype([("t", "<f8"), ("frame", "<i8"), ("n", "<i4")])
ROW_DTYPE = np.dtype(
    [
        ("row_frame", "<i4"),
        ("id", "<i4"),
        ("score", "<f4"),
        ("box", "<f4", (4,)),
        ("kp2d", "<f4", (_K, 3)),
        ("kp3d", "<f4", (_J, 3)),
        ("state", "u1", (_J,)),
        ("root", "<f4", (3,)),
    ]
)
_CHUNK = 4096
_STAMP = (1980, 1, 1, 0, 0, 0)


class NpzWriter:
    """Writes pose.npz, and rotations.npz where the results carry joint rotations."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.path = folder / "pose.npz"
        self._rotations = folder / "rotations.npz"
        self._meta = json.dumps(meta, ensure_ascii=False, sort_keys=True, allow_nan=False)
        self._frames = self._rows = self._quats = 0
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> NpzWriter:
        for name in ("frames", "rows", "quats"):
            self._files[name] = self._store(name).open("w+b")
        return self

    def _store(self, name: str) -> Path:
        return self.path.with_name(f"pose.{name}.part")

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""
        people = result.people
        frame = (result.frame.time_s, result.frame.index, len(people))
        self._files["frames"].write(np.array([frame], FRAME_DTYPE).tobytes())
        if people:
            rows = np.zeros(len(people), ROW_DTYPE)
            for row, person in zip(rows, people):
                row["row_frame"] = self._frames
                _fill(row, person)
            self._files["rows"].write(rows.tobytes())
            quats = np.full((len(people), _J, 4), np.nan, "<f4")
            for quat, person in zip(quats, people):
                if person.rotations is not None:
                    quat[:] = person.rotations
                    self._quats += 1
            self._files["quats"].write(quats.tobytes())
        self._frames += 1
        self._rows += len(people)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                abandon(self.path)
                abandon(self._rotations)
        except OSError as failure:
            raise cannot_write(self.path, failure) from failure
        finally:
            for name, file in self._files.items():
                file.close()
                self._store(name).unlink(missing_ok=True)

    def _finish(self) -> None:
        frames = self._stored("frames", FRAME_DTYPE, (self._frames,))
        rows = self._stored("rows", ROW_DTYPE, (self._rows,))
        with zipfile.ZipFile(part_of(self.path), "w", zipfile.ZIP_DEFLATED) as archive:
            for key in ("t", "frame", "n"):
                _store_column(archive, key, frames, key)
            for key in ROW_DTYPE.names or ():
                _store_column(archive, key, rows, key)
            _store_array(archive, "joint_names", np.array(JOINTS))
            _store_array(archive, "kp2d_names", np.array(JOINTS_2D))
            _store_array(archive, "parents", np.array(PARENT, np.int32))
            _store_array(archive, "meta_json", np.array(self._meta))
        finish(self.path)
        self._rotations.unlink(missing_ok=True)
        if self._quats:
            quats = self._stored("quats", np.dtype("<f4"), (self._rows, _J, 4))
            with zipfile.ZipFile(part_of(self._rotations), "w", zipfile.ZIP_DEFLATED) as archive:
                _store_column(archive, "quat", quats, None)
                _store_array(archive, "bone_names", np.array(JOINTS))
            finish(self._rotations)

    def _stored(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        self._files[name].flush()
        if not all(shape):
            return np.zeros(shape, dtype)
        return np.memmap(self._store(name), dtype, "r", shape=shape)


def _fill(row: Any, person: TrackedPerson) -> None:
    row["id"] = person.track_id
    row["score"] = person.score
    row["box"] = person.box_px
    row["kp2d"][:, :2] = person.joints_px
    row["kp2d"][:, 2] = person.confidence
    row["kp3d"] = person.joints_m
    row["state"] = person.state
    row["root"] = person.joints_m[ROOT]


def _chunks(array: NDArray[Any], field: str | None) -> Iterator[bytes]:
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK]
        yield np.ascontiguousarray(part if field is None else part[field]).tobytes()


def _store_column(
    archive: zipfile.ZipFile, key: str, array: NDArray[Any], field: str | None
) -> None:
    """Store array[field] as key.npy, in chunks."""
    head = array[:0] if field is None else array[:0][field]
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(head.dtype),
        "fortran_order": False,
        "shape": (len(array), *head.shape[1:]),
    }
    with archive.open(_entry(key), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in _chunks(array, field):
            file.write(chunk)


def _store_array(archive: zipfile.ZipFile, key: str, array: NDArray[Any]) -> None:
    with archive.open(_entry(key), "w") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _entry(key: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{key}.npy", _STAMP)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
