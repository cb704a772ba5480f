"""Camera files: our own TOML, and those of OpenCV, Pose2Sim, anipose and Qualisys.

Every reader answers the same thing: a dict from camera name to `Camera`, metres, OpenCV's
conventions. A file is only ever parsed as data; nothing in it is executed.
"""

from __future__ import annotations

import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.errors import CalibrationError

Float = NDArray[np.floating[Any]]

SCHEMA = "manypose-camera/1"
_BYTES_MAX = 4_000_000
_METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}


def read_camera(path: str | Path, name: str | None = None) -> Camera:
    """Return one camera of a file; `name` chooses where the file holds several.

    Raises:
        CalibrationError: no such file, not a camera file, or the choice is not clear.
    """
    cameras = read_cameras(path)
    if name is not None:
        if name not in cameras:
            raise CalibrationError(f"{path}: no camera {name!r}; it holds {', '.join(cameras)}")
        return cameras[name]
    if len(cameras) > 1:
        raise CalibrationError(
            f"{path} holds {len(cameras)} cameras ({', '.join(cameras)}): choose one, as in "
            f"--camera {path}:{next(iter(cameras))}"
        )
    return next(iter(cameras.values()))


def read_camera_argument(argument: str) -> Camera:
    """Return the camera of a command-line argument, ``FILE`` or ``FILE:NAME``."""
    if Path(argument).exists() or ":" not in argument:
        return read_camera(argument)
    path, name = argument.rsplit(":", 1)
    return read_camera(path, name)


def read_cameras(path: str | Path) -> dict[str, Camera]:
    """Return all cameras of a file by name.

    The kind is told by the ending: ``.toml`` (ours, Pose2Sim, anipose), ``.yml``, ``.yaml`` or
    ``.xml`` (OpenCV), ``.xml`` or ``.txt`` (Qualisys).

    Raises:
        CalibrationError: the file is missing, too large, or not understood.
    """
    path = Path(path)
    if not path.is_file():
        raise CalibrationError(f"{path}: no such camera file; make one with: manypose calibrate")
    if path.stat().st_size > _BYTES_MAX:
        raise CalibrationError(f"{path}: too large for a camera file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CalibrationError(
            f"{path}: camera files end in {', '.join(sorted(_READERS))}, not {path.suffix!r}"
        )
    try:
        cameras = reader(path)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, SyntaxError) as e:
        # tomllib and ElementTree errors are ValueError and SyntaxError
        raise CalibrationError(f"{path}: not a camera file that manypose understands ({e})") from e
    if not cameras:
        raise CalibrationError(f"{path}: no camera in this file")
    return cameras


def write_cameras(path: str | Path, cameras: Mapping[str, Camera], comment: str = "") -> None:
    """Write cameras to a TOML file in metres; the file appears whole or not at all."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [
        "# Pixel centres at integers; X_camera = R X_world + t; distortion k1 k2 p1 p2 k3.",
        f'schema = "{SCHEMA}"',
        'unit = "m"',
    ]
    for name, c in cameras.items():
        lines += [
            "",
            f"[{_key(name)}]",
            f"width = {c.width}",
            f"height = {c.height}",
            f"K = {_numbers(c.K)}",
            f"distortion = {_numbers(c.distortion)}",
            f"R = {_numbers(c.R)}",
            f"t = {_numbers(c.t)}",
            f'source = "{c.source}"',
        ]
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)


def _key(name: str) -> str:
    plain = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _numbers(a: Float) -> str:
    if a.ndim > 1:
        return "[" + ", ".join(_numbers(row) for row in a) + "]"
    return "[" + ", ".join(repr(float(v)) for v in a) + "]"


def _camera(
    K: Any, size: Any, distortion: Any, R: Any, t: Any, scale: float, source: str = "calibrated"
) -> Camera:
    """Return a checked camera; a rotation may be a matrix or a Rodrigues vector."""
    K, R = np.array(K, float), np.array(R, float)
    t = np.array(t, float).ravel()
    d = np.array(distortion, float).ravel()
    if K.shape != (3, 3) or not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0:
        raise ValueError("the camera matrix must be 3x3 with positive focal lengths")
    if len(d) > 5 and np.any(d[5:] != 0):
        raise ValueError("lens models with more than k1 k2 p1 p2 k3 are not supported")
    d = np.concatenate([d[:5], np.zeros(max(0, 5 - len(d)))])
    if R.size == 3:
        from scipy.spatial.transform import Rotation

        R = Rotation.from_rotvec(R.ravel()).as_matrix()
    if R.shape != (3, 3) or not np.allclose(R @ R.T, np.eye(3), atol=1e-3):
        raise ValueError("R must be a rotation")
    if t.shape != (3,) or not (np.isfinite(t).all() and np.isfinite(d).all()):
        raise ValueError("t must be three numbers and the distortion finite")
    width, height = (round(float(v)) for v in size)
    if width < 1 or height < 1:
        raise ValueError("the picture size must be positive")
    return Camera(K, width, height, d, R, t * scale, source)


def _read_toml(path: Path) -> dict[str, Camera]:
    doc = tomllib.loads(path.read_text(encoding="utf-8"))
    unit = doc.get("unit", "m")
    if unit not in _METRES:
        raise ValueError(f"unit {unit!r} is not one of {', '.join(_METRES)}")
    found: dict[str, Camera] = {}
    for name, table in doc.items():
        if not isinstance(table, dict):
            continue
        if "matrix" in table:  # Pose2Sim and anipose: metres, Rodrigues vector
            if table.get("fisheye"):
                raise ValueError(f"{name}: fisheye lenses are not supported")
            found[str(table.get("name", name))] = _camera(
                table["matrix"],
                table["size"],
                table["distortions"],
                table.get("rotation", [0, 0, 0]),
                table.get("translation", [0, 0, 0]),
                1.0,
            )
        elif "K" in table:
            found[name] = _camera(
                table["K"],
                (table["width"], table["height"]),
                table.get("distortion", table.get("dist", [])),
                table.get("R", np.eye(3)),
                table.get("t", [0, 0, 0]),
                _METRES[unit],
                str(table.get("source", "calibrated")),
            )
    return found


def _read_opencv(path: Path) -> dict[str, Camera]:
    """Read a file of cv2.FileStorage, with the names its calibration samples use."""
    import cv2

    try:
        store = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    except (cv2.error, SystemError) as e:  # SystemError: how its binding reports some of them
        raise ValueError(" ".join(str(e).split())) from e
    try:
        root = store.root()
        nodes = {key.lower(): root.getNode(key) for key in root.keys()}  # noqa: SIM118 (a FileNode)

        def first(*names: str) -> Any:
            for n in names:
                if n in nodes:
                    node = nodes[n]
                    return node.mat() if node.isMap() else node.real()
            return None

        K = first("camera_matrix", "cameramatrix", "k", "m1", "intrinsic_matrix")
        size = (first("image_width", "width"), first("image_height", "height"))
        if K is None or None in size:
            raise ValueError("camera_matrix, image_width and image_height are needed")
        d = first("distortion_coefficients", "dist_coeffs", "distcoeffs", "d", "d1")
        R, t = first("r", "rotation"), first("t", "translation")
    except cv2.error as e:
        raise ValueError(" ".join(str(e).split())) from e
    finally:
        store.release()
    return {
        path.stem: _camera(
            K,
            size,
            [] if d is None else d,
            np.eye(3) if R is None else R,
            np.zeros(3) if t is None else t,
            1.0,
        )
    }


def _read_xml(path: Path) -> dict[str, Camera]:
    text = path.read_text(encoding="utf-8", errors="replace")
    if "<opencv_storage" in text:
        return _read_opencv(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("XML with document type declarations is not read")
    found: dict[str, Camera] = {}
    for cam in ET.fromstring(text.strip()).iter("camera"):
        intrinsic, transform, fov = (cam.find(k) for k in ("intrinsic", "transform", "fov_video"))
        if intrinsic is None or fov is None:
            continue
        found[cam.get("serial", str(len(found)))] = _qualisys(intrinsic, transform, fov)
    return found


def _qualisys(intrinsic: ET.Element, transform: ET.Element | None, fov: ET.Element) -> Camera:
    """Return a Qualisys camera: sub-pixels of 1/64, millimetres, optical centre in the world."""

    def num(node: ET.Element, key: str) -> float:
        return float(node.attrib[key])

    left, top = num(fov, "left"), num(fov, "top")
    size = (num(fov, "right") - left + 1, num(fov, "bottom") - top + 1)
    K = np.eye(3)
    K[0, 0], K[1, 1] = num(intrinsic, "focalLengthU") / 64, num(intrinsic, "focalLengthV") / 64
    K[0, 2] = num(intrinsic, "centerPointU") / 64 - left
    K[1, 2] = num(intrinsic, "centerPointV") / 64 - top
    # its unit of length is 1/64 px at the focal plane, so the coefficients are already without unit
    d = [
        num(intrinsic, k)
        for k in (
            "radialDistortion1",
            "radialDistortion2",
            "tangentalDistortion1",
            "tangentalDistortion2",
            "radialDistortion3",
        )
    ]
    if transform is None:
        return _camera(K, size, d, np.eye(3), np.zeros(3), 1.0)
    R = np.array([[num(transform, f"r{i}{j}") for j in (1, 2, 3)] for i in (1, 2, 3)])
    centre = np.array([num(transform, axis) for axis in "xyz"])
    # Qualisys stores camera axes (x right, y up, z back) as rows in the world
    turn = np.diag([1.0, -1.0, -1.0]) @ R
    return _camera(K, size, d, turn, -turn @ centre, 0.001)


_READERS: dict[str, Callable[[Path], dict[str, Camera]]] = {
    ".toml": _read_toml,
    ".yml": _read_opencv,
    ".yaml": _read_opencv,
    ".xml": _read_xml,
    ".txt": _read_xml,
}
