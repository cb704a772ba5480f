"""Truth in 3D as its makers publish it, brought into one form for `manypose eval`.

Read are MuPoTS-3D and MPI-INF-3DHP in their published folders, and folders with an
``annotations.json`` of labelled pictures. Everything becomes metres, camera axes and
`joints.JOINTS`; what a set does not have is NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import DeviceError, SourceError
from manypose.pose.joints import INDEX, JOINTS

Float = NDArray[np.floating[Any]]

_J = len(JOINTS)
_SET = 17  # joints of MuPoTS-3D and MPI-INF-3DHP: the first 17 of `joints.JOINTS`
# Other sets' names of our joints; not always the very same point of the body.
_ALIASES = {"thorax": "neck"}


@dataclass(frozen=True, slots=True, eq=False)
class TruthFrame:
    """The true people of one picture.

    points_m (M, J, 3) camera frame; points_px (M, J, 2); NaN = not known; occluded (M, J);
    ignore_px (B, 4) x0 y0 x1 y1 where people without truth are; K (3, 3) px or None.
    """

    points_m: Float
    points_px: Float
    occluded: NDArray[np.bool_]
    ignore_px: Float
    K: Float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TruthSequence:
    """One sequence: its name, the width of its pictures in px and frames by key.

    The key is a picture's stem, or its number counted from 0 where `first` says which number the
    first picture's name has.
    """

    name: str
    width_px: float
    frames: Mapping[str | int, TruthFrame]
    first: int | None = None


def read_truth3d(folder: Path) -> TruthSequence:
    """Return the labelled pictures of a folder with an annotations.json.

    The file names joints, pictures (file, width, K) and people (joints3d in mm, joints2d, valid).

    Raises:
        SourceError: there is no such file, or it is damaged.
    """
    file = folder / "annotations.json"
    document = read_json(file)
    try:
        if document["units"] != "mm":
            raise SourceError(f"{file}: units are {document['units']}, wanted mm.")
        columns = _columns(document["joint_names"])
        frames: dict[str | int, TruthFrame] = {
            Path(p["file"]).stem: _labelled(p, columns) for p in document["images"]
        }
        width = max((float(p["width"]) for p in document["images"]), default=0.0)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SourceError(f"{file}: not labels of pictures in 3D ({error!r}).") from error
    return TruthSequence(folder.name, width, frames)


def _columns(names: list[str]) -> list[tuple[int, int]]:
    """Return (place in the file, our joint) of the joints we have too."""
    found = []
    for place, name in enumerate(names):
        name = _ALIASES.get(name, name)
        for side in ("left", "right"):
            name = re.sub(f"^{side}_", f"{side[0]}_", name)
        if name in INDEX:
            found.append((place, INDEX[name]))
    return found


def _labelled(picture: Mapping[str, Any], columns: list[tuple[int, int]]) -> TruthFrame:
    people = picture["people"]
    points_m = np.full((len(people), _J, 3), np.nan)
    points_px = np.full((len(people), _J, 2), np.nan)
    occluded = np.zeros((len(people), _J), bool)
    for n, person in enumerate(people):
        hidden = person.get("occluded_by_person") or [0] * len(person["valid"])
        for place, joint in columns:
            if person["valid"][place]:
                points_m[n, joint] = np.array(person["joints3d"][place], np.float64) / 1000
                occluded[n, joint] = bool(hidden[place])
                if person["in_image"][place]:
                    points_px[n, joint] = person["joints2d"][place]
    fx, fy, cx, cy = picture["K"]
    ignore = np.array(picture.get("ignore_boxes") or [], np.float64).reshape(-1, 4)
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return TruthFrame(points_m, points_px, occluded, ignore, K)


def read_mupots(folder: Path, universal: bool = True) -> list[TruthSequence]:
    """Return the sequences TS1 to TS20 that a MuPoTS-3D folder holds.

    Args:
        folder: with TSn/annot.mat and, if it is there, TSn/occlusion.mat.
        universal: the poses of equal body size (univ_annot3), which the makers' script scores
            against; else the metric ones (annot3).

    Raises:
        SourceError: no sequence there, or a file is damaged.
    """
    sequences = []
    for one in _sequence_folders(folder, "annot.mat"):
        annotations = _mat(one / "annot.mat", "annotations")
        labels = None
        if (one / "occlusion.mat").is_file():
            labels = _mat(one / "occlusion.mat", "occlusion_labels")
        frames: dict[str | int, TruthFrame] = {}
        for n in range(len(annotations)):
            people, hidden = [], []
            for p, cell in enumerate(annotations[n]):
                if cell.size == 0 or not np.ravel(_field(cell, "isValidFrame"))[0]:
                    continue
                points = _field(cell, "univ_annot3" if universal else "annot3")
                people.append((points, _field(cell, "annot2")))
                empty = labels is None or labels[n, p].size != _SET
                hidden.append(np.zeros(_SET) if labels is None or empty else np.ravel(labels[n, p]))
            frames[n] = _seventeen(people, hidden)
        number = int(one.name[2:])
        sequences.append(TruthSequence(one.name, 2048 if number <= 5 else 1920, frames, first=0))
    return sequences


def read_mpi3dhp(folder: Path, universal: bool = True) -> list[TruthSequence]:
    """Return the sequences TS1 to TS6 of a folder with the MPI-INF-3DHP test set.

    Args:
        folder: with TSn/annot_data.mat. The published files are of MATLAB 7.3: reading these
            needs the package h5py.
        universal: univ_annot3, else annot3.

    Raises:
        SourceError: no sequence there, or a file is damaged.
        DeviceError: h5py is needed and not installed.
    """
    sequences = []
    for one in _sequence_folders(folder, "annot_data.mat"):
        file = one / "annot_data.mat"
        points = _rows(_mat(file, "univ_annot3" if universal else "annot3"), 3, file)
        pixels = _rows(_mat(file, "annot2"), 2, file)
        valid = np.ravel(_mat(file, "valid_frame"))
        if not len(points) == len(pixels) == len(valid):
            raise SourceError(f"{file}: its parts have different lengths; fetch it again.")
        frames: dict[str | int, TruthFrame] = {
            n: _seventeen([(points[n].T, pixels[n].T)], [np.zeros(_SET)])
            for n in np.flatnonzero(valid).tolist()
        }
        number = int(one.name[2:])
        sequences.append(TruthSequence(one.name, 2048 if number <= 4 else 1920, frames, first=1))
    return sequences


def _sequence_folders(folder: Path, file: str) -> list[Path]:
    found = [p for p in folder.glob("TS*") if p.name[2:].isdigit() and (p / file).is_file()]
    if not found:
        raise SourceError(f"{folder}: no TS1/{file} and so on; give the folder that holds TS1.")
    return sorted(found, key=lambda p: int(p.name[2:]))


def _seventeen(people: list[tuple[Any, Any]], hidden: list[Any]) -> TruthFrame:
    """Return a frame of (3, 17) mm and (2, 17) px arrays."""
    points_m = np.full((len(people), _J, 3), np.nan)
    points_px = np.full((len(people), _J, 2), np.nan)
    occluded = np.zeros((len(people), _J), bool)
    for n, (points, pixels) in enumerate(people):
        points_m[n, :_SET] = np.asarray(points, np.float64).T / 1000
        points_px[n, :_SET] = np.asarray(pixels, np.float64).T
        occluded[n, :_SET] = np.asarray(hidden[n]) > 0
    return TruthFrame(points_m, points_px, occluded, np.zeros((0, 4)))


def _field(cell: Any, name: str) -> Any:
    """Return a field of a cell's structure, out of MATLAB's 1 x 1 wrappings."""
    value = cell
    while value.dtype.names is None and value.size == 1:
        value = value.flat[0]
    value = value[name]
    while value.dtype == object and value.size == 1:
        value = value.flat[0]
    return value


def _rows(array: Any, width: int, file: Path) -> Float:
    """Return (N, 17, width) whichever way round MATLAB or HDF5 gave it."""
    rows: Float = np.asarray(array, np.float64)
    if rows.ndim == 4 and rows.shape[:2] == (width, _SET):
        rows = rows.transpose()
    if rows.ndim != 4 or rows.shape[1:] != (1, _SET, width):
        raise SourceError(f"{file}: an array has shape {rows.shape}; is it of the test set?")
    only: Float = rows[:, 0]
    return only


def _mat(file: Path, key: str) -> Any:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(file)[key]
    except NotImplementedError:  # a file of MATLAB 7.3 is HDF5
        return _hdf5(file, key)
    except (MatReadError, KeyError, ValueError, TypeError, OSError, EOFError) as error:
        raise SourceError(f"{file}: not readable as the data set's file ({error}).") from error


def _hdf5(file: Path, key: str) -> Any:
    import importlib

    try:
        h5py: Any = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise DeviceError(f"{file} is a MATLAB 7.3 file: pip install h5py to read it.") from error
    try:
        with h5py.File(file, "r") as stored:
            return np.array(stored[key])
    except (KeyError, OSError) as error:
        raise SourceError(f"{file}: not readable as the data set's file ({error}).") from error


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        SourceError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise SourceError(f"{file}: not JSON ({error}).") from error
