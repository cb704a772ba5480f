"""Labelled photographs: the record, and packs of them on disk in parts that are easy to send.

A pack is a folder with `pack.json` (the list of parts with their SHA-256) and parts of less than
60 MB, each one .npz of plain arrays, N pictures and P people, people of a picture one behind
another:

files, file_start (N + 1)     the pictures as they were: JPEG, WebP or PNG files one behind another
person_start, ignore_start (N + 1), key, source (N,), weight (N,), known (N, 20), reach_px (N, 4)
joints_px (P, 20, 3), box_px (P, 4), area_px (P,), joints_m (P, 21, 3), weight_3d (P, 21)
ignore_px (I, 4)
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.errors import OutputError, SourceError
from manypose.pose.joints import INDEX_2D, JOINTS, JOINTS_2D, ROOT

Array = NDArray[Any]
FORMAT = "manypose-photos-1"
MANIFEST = "pack.json"
PART_BYTES_MAX = 55_000_000
_QUALITY = 92  # of pictures that had to be encoded anew
_K, _J = len(JOINTS_2D), len(JOINTS)
EVERYWHERE = np.array([-1e6, -1e6, 2e6, 2e6], np.float32)
_CONSTRUCTED = (("neck", "l_shoulder", "r_shoulder"), ("pelvis", "l_hip", "r_hip"))


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """One picture with what is known about the people in it.

    picture: BGR (H, W, 3) uint8, or the bytes of an image file; joints_px (P, K, 3): x, y and 0 not
    labelled, 1 labelled but hidden, 2 seen, -1 not labelled and perhaps there all the same; box_px
    (P, 4) x y w h; area_px (P,) of the person, as COCO counts it; joints_m (P, J, 3) metres from
    the pelvis, axes of a camera that looks straight at the person, NaN = not known; weight_3d
    (P, J) trust in them; ignore_px (I, 4): boxes in which nothing is known; known (K,): joints that
    this source labels at all; reach_px (4,): outside of this box nothing is known; weight: how
    often to draw the picture.
    """

    picture: Array | bytes
    joints_px: Array
    box_px: Array
    area_px: Array
    joints_m: Array
    weight_3d: Array
    ignore_px: Array
    known: Array
    reach_px: Array
    key: str
    source: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        people = len(self.joints_px)
        wanted = {
            "joints_px": (people, _K, 3), "box_px": (people, 4), "area_px": (people,),
            "joints_m": (people, _J, 3), "weight_3d": (people, _J),
            "ignore_px": (len(self.ignore_px), 4), "known": (_K,), "reach_px": (4,),
        }  # fmt: skip
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                got = getattr(self, name).shape
                raise ValueError(f"Photo.{name}: shape {got}, wanted {shape}")


def photo(
    picture: Array | bytes, key: str, source: str, joints_px: Array | None = None, **known: Any
) -> Photo:
    """Return a `Photo`; what is not given is empty, and everything in the picture is known."""
    joints = np.zeros((0, _K, 3), np.float32) if joints_px is None else joints_px
    count = len(joints)
    fields: dict[str, Any] = {
        "box_px": np.zeros((count, 4), np.float32),
        "joints_m": np.full((count, _J, 3), np.nan, np.float32),
        "weight_3d": np.zeros((count, _J), np.float32),
        "ignore_px": np.zeros((0, 4), np.float32),
        "known": np.ones(_K, bool),
        "reach_px": EVERYWHERE,
        **known,
    }
    if "area_px" not in fields:
        # median share of a person's box that the person covers, over COCO
        fields["area_px"] = 0.526 * fields["box_px"][:, 2] * fields["box_px"][:, 3]
    return Photo(picture, joints.astype(np.float32), key=key, source=source, **fields)


def with_middles(joints_px: Array) -> Array:
    """Return joints (..., K, 3) with neck and pelvis put half-way between shoulders and hips.

    One construction for every source of labels; where one of the two is missing, so is the middle,
    where one is unknown, it is.
    """
    out = joints_px.copy()
    for name, left, right in _CONSTRUCTED:
        a, b = out[..., INDEX_2D[left], :], out[..., INDEX_2D[right], :]
        middle = (a + b) / 2
        middle[..., 2] = np.minimum(a[..., 2], b[..., 2])
        out[..., INDEX_2D[name], :] = np.where(middle[..., 2:] > 0, middle, 0)
        out[..., INDEX_2D[name], 2] = middle[..., 2]
    return out


def seen_straight(joints_m: Array) -> Array:
    """Return camera-frame joints (P, J, 3) as a camera sees them that looks straight at them.

    The network sees how people look and not in which direction, so each person is turned by the
    smallest rotation that takes the ray to the neck onto the optical axis; metres from the pelvis.
    """
    joints_m = np.asarray(joints_m, np.float64)
    neck = joints_m[:, JOINTS.index("neck")]
    x, y, z = (neck / np.linalg.norm(neck, axis=1, keepdims=True)).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, zero, -x], [zero, zero, -y], [x, y, zero]]).transpose(2, 0, 1)
    turn = np.eye(3) + cross + cross @ cross / (1 + z)[:, None, None]
    relative = joints_m - joints_m[:, ROOT : ROOT + 1]
    turned: Array = (relative @ turn.transpose(0, 2, 1)).astype(np.float32)
    return turned


def decoded(item: Photo, side_max: int | None = None) -> Photo:
    """Return the photo with its pixels, its longer side at most `side_max` px, labels along.

    Raises:
        SourceError: the picture is damaged.
    """
    image = item.picture
    if isinstance(image, bytes):
        # labels are given in the pixels of the file as it is stored, not as a camera was held
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        read = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
        if read is None:
            raise SourceError(f"picture {item.key} of {item.source} is damaged: pack it again")
        image = np.asarray(read, np.uint8)
    height, width = image.shape[:2]
    if side_max is None or max(height, width) <= side_max:
        return replace(item, picture=image)
    size = [max(1, round(v * side_max / max(height, width))) for v in (width, height)]
    scale = np.array([size[0] / width, size[1] / height], np.float32)
    joints = item.joints_px.copy()
    joints[..., :2] = np.where(joints[..., 2:] > 0, (joints[..., :2] + 0.5) * scale - 0.5, 0)

    def box(boxes: Array) -> Array:
        low = (boxes[..., :2] + 0.5) * scale - 0.5
        return np.concatenate([low, boxes[..., 2:] * scale], -1).astype(np.float32)

    return replace(
        item,
        picture=cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA),
        joints_px=joints,
        box_px=box(item.box_px),
        area_px=item.area_px * scale.prod(),
        ignore_px=box(item.ignore_px),
        reach_px=box(item.reach_px),
    )


def encoded(item: Photo) -> bytes:
    """Return the picture as the bytes of an image file; bytes stay as they are."""
    if isinstance(item.picture, bytes):
        return item.picture
    _, data = cv2.imencode(".jpg", item.picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return bytes(np.asarray(data, np.uint8))


def write_pack(photos: Iterable[Photo], folder: Path, part_bytes: int = PART_BYTES_MAX) -> int:
    """Write a pack and return the number of its pictures; the manifest comes last.

    Raises:
        OutputError: the folder cannot be written.
    """
    parts: list[dict[str, Any]] = []
    held: list[Photo] = []
    size = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in photos:
            data = encoded(item)
            # labels take about 900 bytes a person
            size_of = len(data) + 400 + 900 * len(item.joints_px)
            if held and size + size_of > part_bytes:
                parts.append(_write_part(held, folder, len(parts)))
                held, size = [], 0
            held.append(replace(item, picture=data))
            size += size_of
        if held:
            parts.append(_write_part(held, folder, len(parts)))
        manifest = {"format": FORMAT, "parts": parts}
        half = folder / (MANIFEST + ".part")
        half.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        half.replace(folder / MANIFEST)
    except OSError as error:
        raise OutputError(f"cannot write the pack {folder} ({error.strerror}): free some space or "
                          "choose another --out") from None  # fmt: skip
    return sum(part["pictures"] for part in parts)


def _write_part(held: list[Photo], folder: Path, number: int) -> dict[str, Any]:
    files = [np.frombuffer(encoded(p), np.uint8) for p in held]
    columns = ("joints_px", "box_px", "area_px", "joints_m", "weight_3d", "ignore_px")
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(p, name) for p in held]).astype(np.float32)
        for name in columns
    }
    path = folder / f"part_{number:04d}.npz"
    half = path.with_name(path.name + ".part")
    with half.open("wb") as file:
        np.savez(
            file,
            format=np.array(FORMAT),
            files=np.concatenate(files),
            file_start=_starts([len(f) for f in files]),
            person_start=_starts([len(p.joints_px) for p in held]),
            ignore_start=_starts([len(p.ignore_px) for p in held]),
            key=np.array([p.key for p in held], np.str_),
            source=np.array([p.source for p in held], np.str_),
            weight=np.array([p.weight for p in held], np.float32),
            known=np.stack([p.known for p in held]).astype(bool),
            reach_px=np.stack([p.reach_px for p in held]).astype(np.float32),
            **arrays,
        )
    half.replace(path)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "pictures": len(held),
        "people": len(arrays["box_px"]),
    }


def _starts(lengths: list[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pack(folder: Path) -> Iterator[Photo]:
    """Yield the photos of a pack; each part is checked against its SHA-256 first.

    Raises:
        SourceError: a part is missing or damaged, or the folder holds no pack.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        parts = manifest["parts"] if manifest["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        parts = None
    if parts is None:
        raise SourceError(f"{folder} holds no pack of photos: make one with manypose train pack")
    for part in parts if isinstance(parts, list) else [{}]:
        if not isinstance(part, dict) or not isinstance(name := part.get("file"), str):
            raise SourceError(f"{folder / MANIFEST} is damaged: copy it again")
        path = folder / Path(name).name  # and nowhere else
        try:
            if sha256(path) != part.get("sha256"):
                raise ValueError("its SHA-256 differs")
            with np.load(path) as z:
                arrays = {k: z[k] for k in z.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise SourceError(f"{path} is damaged or missing ({error}): copy it again") from None
        yield from _photos(arrays)


def _photos(arrays: dict[str, Array]) -> Iterator[Photo]:
    people = ("joints_px", "box_px", "area_px", "joints_m", "weight_3d")
    for i in range(len(arrays["key"])):
        a, b = arrays["person_start"][i : i + 2]
        c, d = arrays["ignore_start"][i : i + 2]
        first, last = arrays["file_start"][i : i + 2]
        yield Photo(
            arrays["files"][first:last].tobytes(),
            **{name: arrays[name][a:b] for name in people},
            ignore_px=arrays["ignore_px"][c:d],
            known=arrays["known"][i],
            reach_px=arrays["reach_px"][i],
            key=str(arrays["key"][i]),
            source=str(arrays["source"][i]),
            weight=float(arrays["weight"][i]),
        )
