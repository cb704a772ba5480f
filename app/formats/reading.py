"""Read a run back: from pose.npz, or from the lines of a pose.jsonl that is still growing."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import ARCHIVE_DAMAGE, SourceError
from manypose.pose.joints import JOINTS, JOINTS_2D, PARENT

_K, _J = len(JOINTS_2D), len(JOINTS)
_TABLES = ("source", "camera", "summary", "settings", "model", "engine", "exports", "units")
# Key of pose.npz -> shape with F frames, R rows.
_SHAPES: dict[str, tuple[str | int, ...]] = {
    "t": ("F",), "frame": ("F",), "n": ("F",), "row_frame": ("R",), "id": ("R",), "score": ("R",),
    "box": ("R", 4), "kp2d": ("R", _K, 3), "kp3d": ("R", _J, 3), "state": ("R", _J),
    "root": ("R", 3),
}  # fmt: skip


_MAPPED_BYTES = 1 << 16  # smaller arrays, or empty ones, are not worth a mapping


@dataclass(frozen=True, slots=True, eq=False)
class StoredPerson:
    """One person in one frame of a stored run; arrays as in pose.npz."""

    id: int
    score: float
    box: NDArray[Any]
    kp2d: NDArray[Any]
    kp3d: NDArray[Any]
    state: NDArray[Any]
    root: NDArray[Any]
    quat: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredFrame:
    """One frame of a stored run: its time in seconds, index in the source, and people."""

    t: float
    frame: int
    persons: tuple[StoredPerson, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A stored run: the arrays of pose.npz under their own names, and its meta data.

    t (F,) s; frame (F,); n (F,); row_frame (R,) index into these; id (R,); score (R,); box (R, 4)
    px; kp2d (R, 20, 3) x y px and confidence; kp3d (R, 21, 3) m, camera frame; state (R, 21); root
    (R, 3) m; quat (R, 21, 4) local rotations x y z w or None; folder where it lies. Iterating
    yields a `StoredFrame` for every frame.
    """

    folder: Path
    meta: dict[str, Any]
    t: NDArray[Any]
    frame: NDArray[Any]
    n: NDArray[Any]
    row_frame: NDArray[Any]
    id: NDArray[Any]
    score: NDArray[Any]
    box: NDArray[Any]
    kp2d: NDArray[Any]
    kp3d: NDArray[Any]
    state: NDArray[Any]
    root: NDArray[Any]
    quat: NDArray[Any] | None = None
    joint_names: tuple[str, ...] = JOINTS

    @property
    def up(self) -> NDArray[np.float64] | None:
        """The unit vector up (3,) in camera axes, as far as it became known in the run."""
        try:
            up = np.array(self.meta.get("up"), float)
        except (TypeError, ValueError):
            return None
        length = np.linalg.norm(up) if up.shape == (3,) else np.nan
        return up / length if np.isfinite(length) and length > 0 else None

    kp2d_names: tuple[str, ...] = JOINTS_2D
    parents: tuple[int, ...] = PARENT

    def __len__(self) -> int:
        return len(self.t)

    def __iter__(self) -> Iterator[StoredFrame]:
        """Yield the frames in order."""
        ends = np.searchsorted(self.row_frame, np.arange(len(self.t) + 1))
        for i, (a, b) in enumerate(itertools.pairwise(ends)):
            people = tuple(self._person(r) for r in range(a, b))
            yield StoredFrame(float(self.t[i]), int(self.frame[i]), people)

    def _person(self, row: int) -> StoredPerson:
        return StoredPerson(
            int(self.id[row]),
            float(self.score[row]),
            self.box[row],
            self.kp2d[row],
            self.kp3d[row],
            self.state[row],
            self.root[row],
            None if self.quat is None else self.quat[row],
        )

    def person(self, track_id: int) -> NDArray[np.intp]:
        """Return the rows of one identity in order of time."""
        return np.flatnonzero(self.id == track_id)


def load_run(path: Path | str) -> Run:
    """Return the run in a folder (or of its pose.npz or pose.jsonl).

    Raises:
        SourceError: there is no run, or its file is damaged.
    """
    path = Path(path)
    if path.is_file():
        folder, candidates = path.parent, [path]
    elif path.is_dir():
        folder = path
        candidates = [path / n for n in ("pose.npz", "pose.jsonl", "pose.jsonl.part")]
    else:
        raise SourceError(f"{path}: no such run. Give the folder that manypose run wrote.")
    for file in candidates:
        if file.is_file():
            try:
                return _from_npz(file, folder) if file.suffix == ".npz" else _lines(file, folder)
            except ARCHIVE_DAMAGE as error:
                raise SourceError(f"{file}: not a whole result file ({error}).") from error
    raise SourceError(f"{folder}: no pose.npz or pose.jsonl in this folder; is it a run?")


@contextlib.contextmanager
def run_on_disk(folder: Path) -> Iterator[Run]:
    """Yield the run in a folder with arrays that lie in files and may be written to.

    However long the recording, it takes little memory of the process; a run of JSON lines alone
    takes as much as `load_run`. What is written to the arrays is gone with the context.

    Raises:
        SourceError: there is no run, or its file is damaged.
    """
    file = folder / "pose.npz"
    if not file.is_file():
        yield load_run(folder)
        return
    with tempfile.TemporaryDirectory(prefix="rows.", suffix=".part", dir=folder) as work:
        try:
            stored = _from_npz(file, folder, Path(work))
        except ARCHIVE_DAMAGE as error:
            raise SourceError(f"{file}: not a whole result file ({error}).") from error
        yield stored


def _taken(archive: Any, key: str, work: Path | None) -> NDArray[Any]:
    """Return an array of an open archive; in a file of the folder `work`, if one is given."""
    if work is None:
        return np.asarray(archive[key])
    path = Path(archive.zip.extract(f"{key}.npy", work))
    if path.stat().st_size < _MAPPED_BYTES:
        return np.asarray(np.load(path, allow_pickle=False))
    return np.asarray(np.load(path, mmap_mode="r+", allow_pickle=False))


def _from_npz(file: Path, folder: Path, work: Path | None = None) -> Run:
    # Opened here: numpy leaves the file open when it is no archive.
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        data = {key: _taken(archive, key, work) for key in _SHAPES}
        names = tuple(str(n) for n in archive["joint_names"])
        names_2d = tuple(str(n) for n in archive["kp2d_names"])
        meta = json.loads(str(archive["meta_json"]))
    if names != JOINTS or names_2d != JOINTS_2D:
        raise ValueError("another set of joints")
    quat = None
    rotations = folder / "rotations.npz"
    if rotations.is_file():
        with rotations.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            quat = _taken(archive, "quat", work)
        if quat.shape != (len(data["id"]), _J, 4):
            raise ValueError("rotations.npz is of another run")
    return Run(folder, _meta(folder, meta), **_checked(data), quat=quat)


def _lines(file: Path, folder: Path) -> Run:
    """Read JSON lines; a last line that was cut off by a crash is left out."""
    frames: list[tuple[float, int, int]] = []
    rows: dict[str, list[Any]] = {key: [] for key, shape in _SHAPES.items() if shape[0] == "R"}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                break
            entry = json.loads(line)
            for person in entry["persons"]:
                rows["row_frame"].append(len(frames))
                for key in rows:
                    if key != "row_frame":
                        rows[key].append(person[key])
            frames.append((entry["t"], entry["frame"], len(entry["persons"])))
    kinds = {"row_frame": np.int32, "id": np.int32, "state": np.uint8}
    data: dict[str, NDArray[Any]] = {}
    for key, values in rows.items():
        shape = (len(values), *(int(n) for n in _SHAPES[key][1:]))
        with np.errstate(over="ignore"):  # what no float32 holds is infinite
            data[key] = np.array(values, kinds.get(key, np.float32)).reshape(shape)
    columns = list(zip(*frames)) or [(), (), ()]
    for key, column, kind in zip(("t", "frame", "n"), columns, ("<f8", "<i8", "<i4")):
        data[key] = np.array(column, kind)
    return Run(folder, _meta(folder, {}), **_checked(data))


def _checked(data: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the arrays if they belong together.

    Raises:
        ValueError: shapes or row numbers contradict each other.
    """
    sizes = {"F": len(data["t"]), "R": len(data["id"])}
    for key, shape in _SHAPES.items():
        wanted = tuple(sizes[s] if isinstance(s, str) else s for s in shape)
        if data[key].shape != wanted:
            raise ValueError(f"{key} has shape {data[key].shape}, wanted {wanted}")
        if data[key].dtype.kind not in "fiu":
            raise ValueError(f"{key} holds no numbers")
    counted = np.bincount(data["row_frame"], minlength=sizes["F"]) if sizes["R"] else 0
    if np.any(np.diff(data["row_frame"]) < 0) or np.any(counted != data["n"]):
        raise ValueError("rows and frames contradict each other")
    return data


def _meta(folder: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """Return meta.json beside the data, which knows more than what the data carry."""
    for name in ("meta.json", "meta.json.part"):
        file = folder / name
        if file.is_file():
            meta = json.loads(file.read_text("utf-8"))
            if isinstance(meta, dict):
                stored = {**stored, **meta}
            break
    return {k: v for k, v in stored.items() if k not in _TABLES or isinstance(v, dict)}
