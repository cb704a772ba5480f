"""Data sets with true 3D in the layouts their makers publish: MPI-INF-3DHP and MuCo-3DHP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.errors import SourceError, UsageError
from manypose.models.train.packs import Photo, photo, seen_straight, with_middles
from manypose.pose.joints import INDEX_2D, JOINTS, JOINTS_2D

Array = NDArray[Any]
_K, _J = len(JOINTS_2D), len(JOINTS)
# Our 21 joints among the 28 of MPI-INF-3DHP. MuCo-3DHP has our 21 in our order.
_MPI28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6, 17, 12, 27, 22)
_STEP = 10  # every so many frames: the studio's neighbours are alike
# What these data sets label of our 2D joints; neck and pelvis are put together anew.
_SHARED = [(INDEX_2D[n], j) for j, n in enumerate(JOINTS) if n in INDEX_2D]
_KNOWN = np.isin(np.arange(_K), [k for k, _ in _SHARED])


def mpi3dhp(path: Path, options: Mapping[str, str]) -> Iterator[Photo]:
    """Yield MPI-INF-3DHP training frames: S*/Seq*/annot.mat with videos or unpacked frames beside.

    Frames are taken from imageSequence/video_<camera>.avi, or from imageFrames/video_<camera>/
    frame_<number>.jpg (numbers from 1) where that folder is there. Options: cameras (0+1+2),
    step (every so many frames, 10).
    """
    sequences = sorted(path.glob("S*/Seq*/annot.mat"))
    if not sequences:
        raise SourceError(f"{path} holds no S*/Seq*/annot.mat: give the folder of MPI-INF-3DHP")
    step = _number(options, "step", _STEP)
    wanted = [int(c) for c in options["cameras"].split("+")] if "cameras" in options else None
    for file in sequences:
        px, mm, cameras = _annotations(file)
        for row, camera in enumerate(cameras):
            if wanted is None or camera in wanted:
                name = f"{file.parent.parent.name}/{file.parent.name}/{camera}"
                for frame, image in _frames(file.parent, camera, step, len(px[row])):
                    yield _person(image, f"{name}/{frame}", px[row][frame], mm[row][frame])


def _number(options: Mapping[str, str], key: str, default: int) -> int:
    text = options.get(key, str(default))
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{key}={text}: write a whole number from 1")
    return int(text)


def _annotations(file: Path) -> tuple[list[Array], list[Array], list[int]]:
    """Return of each camera 2D (frames, 28, 2) px and 3D (frames, 28, 3) mm; the camera numbers."""
    from scipy.io import loadmat

    try:
        z = loadmat(file)
        px = [np.asarray(a, np.float32).reshape(-1, 28, 2) for a in z["annot2"].ravel()]
        mm = [np.asarray(a, np.float32).reshape(-1, 28, 3) for a in z["annot3"].ravel()]
        named = [int(c) for c in np.asarray(z.get("cameras", ())).ravel()]
    except (OSError, KeyError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{file} cannot be read ({error}): copy it again") from None
    return px, mm, named if len(named) == len(px) else list(range(len(px)))


def _frames(folder: Path, camera: int, step: int, count: int) -> Iterator[tuple[int, Array]]:
    for unpacked in (folder / "imageFrames", folder / "imageSequence"):
        pictures = unpacked / f"video_{camera}"
        if pictures.is_dir():
            for frame in range(0, count, step):
                file = pictures / f"frame_{frame + 1:06d}.jpg"
                image = cv2.imread(str(file), cv2.IMREAD_COLOR)
                if image is not None:
                    yield frame, np.asarray(image, np.uint8)
            return
    video = folder / "imageSequence" / f"video_{camera}.avi"
    if not video.exists():
        return  # not every camera is fetched by everybody
    reader = cv2.VideoCapture(str(video))
    try:
        for frame in range(count):
            if not reader.grab():
                break
            if frame % step == 0:
                good, image = reader.retrieve()
                if good:
                    yield frame, np.asarray(image, np.uint8)
    finally:
        reader.release()


def _person(image: Array, key: str, px: Array, mm: Array) -> Photo:
    height, width = image.shape[:2]
    joints_m = mm[None, list(_MPI28)].astype(np.float64) / 1000
    joints, box = _joints(px[None, list(_MPI28)], np.full((1, _J), 2), width, height)
    return photo(
        image, key, "mpi3dhp", joints, box_px=box, known=_KNOWN.copy(),
        joints_m=seen_straight(joints_m), weight_3d=np.ones((1, _J), np.float32),
    )  # fmt: skip


def _joints(px: Array, seen: Array, width: int, height: int) -> tuple[Array, Array]:
    """Return 2D joints (P, K, 3) and boxes of people given with 21 points (P, 21, 2) each.

    Points outside the picture stay as hidden ones, so that limbs lead out of it.
    """
    inside = ((px >= -0.5) & (px < (width - 0.5, height - 0.5))).all(-1)
    joints = np.zeros((len(px), _K, 3), np.float32)
    ours, theirs = np.array(_SHARED).T
    joints[:, ours, :2] = px[:, theirs]
    joints[:, ours, 2] = np.where(inside, seen, 1)[:, theirs]
    at = px.clip(0, (width - 1, height - 1))
    low, high = at.min(1), at.max(1)
    margin = 0.1 * np.maximum(high - low, 8)
    low, high = low - margin, high + margin
    return with_middles(joints), np.concatenate([low, high - low], 1).astype(np.float32)


def muco(path: Path, options: Mapping[str, str]) -> Iterator[Photo]:
    """Yield MuCo-3DHP composites: MuCo-3DHP.json and the pictures it names beside it.

    The json has images (id, file_name, width, height) and annotations (image_id, keypoints_img
    (21, 2) px, keypoints_cam (21, 3) mm, keypoints_vis (21) or none). Options: step.
    """
    file = path if path.suffix == ".json" else path / "MuCo-3DHP.json"
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        people: dict[int, list[dict[str, Any]]] = {}
        for annotation in document["annotations"]:
            people.setdefault(int(annotation["image_id"]), []).append(annotation)
        images = document["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{file} cannot be read ({error}): give MuCo-3DHP's folder") from None
    for entry in images[:: _number(options, "step", 1)]:
        found = people.get(int(entry["id"]), [])
        try:
            data = (file.parent / entry["file_name"]).read_bytes()
        except OSError as error:
            raise SourceError(
                f"{file.parent / entry['file_name']} cannot be read ({error.strerror}): put the "
                "pictures beside the json"
            ) from None
        if not found:
            yield photo(data, str(entry["id"]), "muco", known=_KNOWN.copy())
            continue
        px = np.array([a["keypoints_img"] for a in found], np.float32).reshape(-1, _J, 2)
        mm = np.array([a["keypoints_cam"] for a in found], np.float64).reshape(-1, _J, 3)
        seen = np.array([a.get("keypoints_vis", [1] * _J) for a in found]).reshape(-1, _J)
        joints, box = _joints(px, 1 + (seen > 0), int(entry["width"]), int(entry["height"]))
        yield photo(
            data, str(entry["id"]), "muco", joints, box_px=box, known=_KNOWN.copy(),
            joints_m=seen_straight(mm / 1000), weight_3d=np.ones((len(found), _J), np.float32),
        )  # fmt: skip
