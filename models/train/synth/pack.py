"""Parts of rendered pictures on disk: written whole or not at all, read back one by one.

A part is one .npz of plain arrays, N pictures and P people, people of a picture one behind another:

jpeg, jpeg_start (N + 1)      the pictures, JPEG files one behind another
mask_png, mask_start (N + 1)  person masks, 8-bit PNG: 0 nobody, slot + 1
person_start (N + 1)          first person of each picture
K (N, 3, 3)                   px; sequence, frame (N,): -1, 0 for a single picture
slot (P,)                     number of a person in its picture, the same all through a sequence
joints_px (P, 20, 2)          the 2D joints as photographs are labelled (`labels.joints_2d`)
seen (P, 20)                  0 outside the picture, 1 hidden, 2 seen
joints_m (P, 21, 3)           joint centres in the camera frame, metres
seen3d (P, 21)                the same for the joint centres
box_px (P, 4)                 x y w h round the joints inside the picture; area_px (P,) seen pixels
avatar, clip (P,)             names
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manypose.errors import OutputError, SourceError
from manypose.models.train.synth.labels import OUTSIDE, Truth, joints_2d
from manypose.pose.joints import JOINTS

FORMAT = "manypose-render-1"
_QUALITIES = (45, 96)  # of the JPEG files: its blocks are part of what a camera delivers


@dataclass(frozen=True, slots=True, eq=False)
class RenderedPicture:
    """One picture of a part; arrays as in the table above, `mask` (H, W) uint8, image BGR."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    K: NDArray[np.float32]
    sequence: int
    frame: int
    slot: NDArray[np.int16]
    joints_px: NDArray[np.float32]
    seen: NDArray[np.uint8]
    joints_m: NDArray[np.float32]
    seen3d: NDArray[np.uint8]
    box_px: NDArray[np.float32]
    area_px: NDArray[np.int32]


class PartWriter:
    """Gathers batches of rendered pictures and writes them as one part."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._jpeg: list[NDArray[np.uint8]] = []
        self._mask: list[NDArray[np.uint8]] = []
        self._people: list[int] = []
        self._columns: dict[str, list[NDArray[Any]]] = {}

    def __len__(self) -> int:
        return len(self._jpeg)

    def add(
        self, images: Tensor, truth: Truth, avatar: list[str], clip: list[str],
        sequence: int = -1, frame: int = 0,
    ) -> None:  # fmt: skip
        """Take pictures (B, H, W, 3) RGB; `sequence` with the number of its first frame here."""
        pictures, masks = images.cpu().numpy(), truth.person_id.cpu().numpy()
        count = len(pictures)
        for image, mask in zip(pictures, masks):
            how = [cv2.IMWRITE_JPEG_QUALITY, int(self._rng.integers(*_QUALITIES))]
            self._jpeg.append(_encoded(".jpg", image[..., ::-1], how))
            self._mask.append(_encoded(".png", (mask + 1).astype(np.uint8), []))
        picture = truth.picture.cpu().numpy()
        self._people.extend(np.bincount(picture, minlength=count).tolist())
        px, seen = (v.cpu().numpy() for v in joints_2d(truth))
        size = np.array([images.shape[2], images.shape[1]])
        in_sequence = sequence >= 0
        self._append(
            K=truth.K.cpu().numpy().astype(np.float32),
            sequence=np.full(count, sequence, np.int32),
            frame=(frame + np.arange(count) * in_sequence).astype(np.int32),
            slot=truth.slot.cpu().numpy().astype(np.int16),
            joints_px=px.astype(np.float32),
            seen=seen.astype(np.uint8),
            joints_m=truth.points_m[:, : len(JOINTS)].cpu().numpy().astype(np.float32),
            seen3d=truth.seen[:, : len(JOINTS)].cpu().numpy().astype(np.uint8),
            box_px=boxes(px, seen, size),
            area_px=truth.area_px.cpu().numpy().astype(np.int32),
            avatar=np.array(avatar, "U32"),
            clip=np.array(clip, "U40"),
        )

    def _append(self, **columns: NDArray[Any]) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def write(self, path: Path) -> None:
        """Write the part; a broken attempt leaves nothing under this name.

        Raises:
            OutputError: the folder cannot be written or the disk is full.
        """
        arrays: dict[str, Any] = {k: np.concatenate(v) for k, v in self._columns.items()}
        for name, files in (("jpeg", self._jpeg), ("mask", self._mask)):
            arrays[f"{name}_start"] = _starts([len(f) for f in files])
            arrays["mask_png" if name == "mask" else name] = np.concatenate(files)
        arrays["person_start"] = _starts(self._people)
        half = path.with_name(path.name + ".part")
        try:
            with half.open("wb") as file:
                np.savez(file, format=np.array(FORMAT), **arrays)
            half.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write {path} ({error.strerror}): free some space") from None
        finally:
            half.unlink(missing_ok=True)


def _encoded(suffix: str, image: NDArray[Any], how: list[int]) -> NDArray[np.uint8]:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image), how)
    if not done:
        raise ValueError(f"cannot encode a picture of shape {image.shape} as {suffix}")
    return np.asarray(data, np.uint8).ravel()


def _starts(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def boxes(px: NDArray[Any], seen: NDArray[Any], size: NDArray[Any]) -> NDArray[np.float32]:
    """Return x y w h (P, 4) round the joints (P, K, 2) inside the picture, a tenth wider.

    A person without any joint inside gets the nearest empty box on the picture's edge.
    """
    inside = (seen != OUTSIDE)[..., None] | (seen == OUTSIDE).all(1)[:, None, None]
    at = px.clip(0, size - 1)
    low = np.where(inside, at, np.inf).min(1)
    high = np.where(inside, at, -np.inf).max(1)
    margin = 0.1 * np.maximum((high - low).max(1, keepdims=True), 8)
    margin[(seen == OUTSIDE).all(1)] = 0
    low, high = (low - margin).clip(0, size - 1), (high + margin).clip(0, size - 1)
    return np.concatenate([low, high - low], 1).astype(np.float32)


def part_files(path: Path) -> list[Path]:
    """Return the parts in a folder, in order, or the one part that is named.

    Raises:
        SourceError: the folder holds none.
    """
    files = sorted(path.glob("render_*.npz")) if path.is_dir() else [path]
    if not files:
        raise SourceError(f"{path} holds no render_*.npz: make some with manypose train render")
    return files


def read_part(path: Path) -> Iterator[RenderedPicture]:
    """Yield the pictures of a part.

    Raises:
        SourceError: the file is missing, damaged or no such part.
    """
    try:
        with np.load(path) as z:
            if str(z["format"]) != FORMAT:
                raise ValueError(f"format {z['format']}")
            arrays = {k: z[k] for k in z.files}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path} is no part of rendered pictures ({error}): make it with manypose train render"
        ) from None
    people = ("slot", "joints_px", "seen", "joints_m", "seen3d", "box_px", "area_px")
    for i in range(len(arrays["K"])):
        image = _decoded(arrays["jpeg"], arrays["jpeg_start"][i : i + 2], cv2.IMREAD_COLOR)
        mask = _decoded(arrays["mask_png"], arrays["mask_start"][i : i + 2], cv2.IMREAD_GRAYSCALE)
        first, last = arrays["person_start"][i : i + 2]
        yield RenderedPicture(
            image, mask, arrays["K"][i], int(arrays["sequence"][i]), int(arrays["frame"][i]),
            *(arrays[k][first:last] for k in people),
        )  # fmt: skip


def _decoded(data: NDArray[np.uint8], ends: NDArray[Any], how: int) -> NDArray[np.uint8]:
    image = cv2.imdecode(data[ends[0] : ends[1]], how)
    if image is None:
        raise SourceError("a rendered picture is damaged: render the part again")
    return np.asarray(image, np.uint8)
