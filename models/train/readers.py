"""Sources of labelled photographs, named by addresses such as ``coco:person_keypoints.json``.

An address is KIND:PATH, then any number of ",option=value". Every reader yields `packs.Photo`
records whose pictures stay as the files' bytes where possible; `share` decides how often a source
is drawn.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import SourceError, UsageError
from manypose.models.train import lifted, pasted, pseudo, readers3d
from manypose.models.train.packs import (
    MANIFEST,
    Photo,
    photo,
    read_pack,
    seen_straight,
    with_middles,
)
from manypose.pose.joints import COCO_NAMES, INDEX_2D, JOINTS_2D

Array = NDArray[Any]
Options = Mapping[str, str]
_K = len(JOINTS_2D)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# How often a photo is drawn, by the start of its source's name: several people are scarce.
_WEIGHTS = {"coco_no_people": 0.6, "coco": 4.0, "lsp": 0.25}
_JOINTS_SEEN_MIN = 3  # a rendered person with fewer is too hidden to be asked for


def photos(path: Path, options: Options) -> Iterator[Photo]:
    """Yield a photo pack: labels_<split>.json.gz beside its images_<split>_NN.bin.

    Options: split (train); teachers (a pseudo.npz): see `pseudo.add`; sources (a+b: only these).
    """
    found = _photo_pack(path, options)
    if "teachers" in options:
        return pseudo.add(found, Path(options["teachers"]))
    return found


def _photo_pack(path: Path, options: Options) -> Iterator[Photo]:
    labels = path / f"labels_{options.get('split', 'train')}.json.gz"
    try:
        with gzip.open(labels, "rt", encoding="utf-8") as file:
            document = json.load(file)
        names = [_name(n) for n in document["keypoint_names"]]
        sources = document["sources"]
        records = document["images"]
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{labels} is missing or no photo pack ({error}): check --data") from None
    order = [INDEX_2D[n] for n in names]
    only = options["sources"].split("+") if "sources" in options else None
    held: tuple[str, bytes] = ("", b"")
    for record in records:
        source = str(record["source"])
        if only and source not in only:
            continue
        if held[0] != record["shard"]:
            held = (record["shard"], _bytes(path / record["shard"]))
        data = held[1][record["offset"] : record["offset"] + record["length"]]
        yield _from_record(record, data, order, sources[source])


def _name(text: str) -> str:
    """Return our name of a joint: left_eye is l_eye."""
    return text.replace("left_", "l_").replace("right_", "r_")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path} ({error.strerror}): check the folder") from None


def _from_record(
    record: dict[str, Any], data: bytes, order: list[int], source: dict[str, Any]
) -> Photo:
    people = record["persons"]
    joints = np.zeros((len(people), _K, 3), np.float32)
    known = np.zeros(_K, bool)
    known[order] = np.array(source["kp_labelled"], bool)
    head_top = INDEX_2D["head_top"]
    known[head_top] = "head_top" in source.get("extra", ())
    for n, person in enumerate(people):
        joints[n, order] = np.array(person["keypoints"], np.float32).reshape(-1, 3)
        if known[head_top] and person.get("extra", {}).get("head_top"):
            joints[n, head_top] = person["extra"]["head_top"]
    if record.get("labels") == "teacher":
        joints[:, known] = _unsure(joints[:, known])
    joints = with_middles(joints)
    _know_middles(known)
    box = np.array([p["bbox"] for p in people], np.float32).reshape(-1, 4)
    name = str(record["source"])
    weight = next((w for key, w in _WEIGHTS.items() if name.startswith(key)), 1.0)
    fields: dict[str, Any] = {
        "box_px": box,
        "area_px": np.array([p.get("area") or 0.526 * b[2] * b[3] for p, b in zip(people, box)],
                            np.float32),
        "ignore_px": np.array([g["bbox"] for g in record["ignore"]], np.float32).reshape(-1, 4),
        "known": known,
        "weight": weight,
    }  # fmt: skip
    if record.get("unlabelled_people") == "possible" and len(people):
        fields["reach_px"] = surroundings(box)
    return photo(data, str(record["id"]), name, joints, **fields)


def _unsure(joints: Array) -> Array:
    """Return joints (..., 3), those without a label as unknown: a network was not sure of them."""
    out = joints.copy()
    out[..., 2] = np.where(joints[..., 2] > 0, joints[..., 2], -1)
    return out


def _know_middles(known: Array) -> None:
    for name, part in (("neck", "l_shoulder"), ("pelvis", "l_hip")):
        known[INDEX_2D[name]] = known[INDEX_2D[part]]


def surroundings(box_px: Array) -> Array:
    """Return the box x y w h round all boxes, a quarter of its longer side wider on every side."""
    low, high = box_px[:, :2].min(0), (box_px[:, :2] + box_px[:, 2:]).max(0)
    margin = 0.25 * (high - low).max()
    return np.concatenate([low - margin, high - low + 2 * margin]).astype(np.float32)


def coco(path: Path, options: Options) -> Iterator[Photo]:
    """Yield photos of a COCO key point file; `images` is the folder with the pictures.

    Layout: as published (images, annotations with keypoints, bbox, area, iscrowd). People without
    key points and crowds become boxes in which nothing is known, and nothing is known of joints
    that nobody in the file has. Options: images (default: the folder of the same name as the split
    beside `annotations/`), people (all; some: others may be there, without labels, so that only the
    surroundings of the labelled are known), joints (all; some: those without a label may be there,
    as where a network labelled the ones that it was sure of).
    """
    for name in ("people", "joints"):
        if options.get(name, "all") not in ("all", "some"):
            raise UsageError(f"{name}={options[name]}: write {name}=all or {name}=some")
    complete, sparse = (options.get(name, "all") for name in ("people", "joints"))
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        by_image: dict[int, list[dict[str, Any]]] = {int(i["id"]): [] for i in document["images"]}
        for annotation in document["annotations"]:
            by_image.setdefault(int(annotation["image_id"]), []).append(annotation)
        images = document["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is no COCO key point file ({error}): check --data") from None
    folder = Path(options["images"]) if "images" in options else _image_folder(path)
    known = np.ones(_K, bool)
    known[INDEX_2D["head_top"]] = False
    known[: len(COCO_NAMES)] = _labelled_at_all(document["annotations"])
    _know_middles(known)
    for entry in images:
        labelled, ignored = [], []
        for a in by_image[int(entry["id"])]:
            points = np.array(a.get("keypoints", ()), np.float32)
            if a.get("iscrowd") or points.size != 3 * len(COCO_NAMES) or not points[2::3].any():
                ignored.append(a["bbox"])
            else:
                labelled.append((points.reshape(-1, 3), a["bbox"], a.get("area")))
        joints = np.zeros((len(labelled), _K, 3), np.float32)
        for n, (points, _, _) in enumerate(labelled):
            joints[n, : len(COCO_NAMES)] = _unsure(points) if sparse == "some" else points
        box = np.array([b for _, b, _ in labelled], np.float32).reshape(-1, 4)
        area = [a or 0.526 * b[2] * b[3] for (_, _, a), b in zip(labelled, box)]
        reach = {"reach_px": surroundings(box)} if complete == "some" and len(box) else {}
        yield photo(
            _bytes(folder / entry["file_name"]), str(entry["id"]), "coco", with_middles(joints),
            box_px=box, area_px=np.array(area, np.float32), known=known,
            ignore_px=np.array(ignored, np.float32).reshape(-1, 4), **reach,
        )  # fmt: skip


def _labelled_at_all(annotations: list[dict[str, Any]]) -> NDArray[np.bool_]:
    found = np.zeros(len(COCO_NAMES), bool)
    for a in annotations:
        flags = np.array(a.get("keypoints", ()), np.float32)[2::3]
        if flags.size == found.size:
            found |= flags > 0
    return found if found.any() else ~found


def _image_folder(path: Path) -> Path:
    """Return where the pictures of annotations/person_keypoints_<split>.json lie."""
    split = path.stem.removeprefix("person_keypoints_")
    for folder in (path.parent.parent / split, path.parent.parent / "images" / split):
        if folder.is_dir():
            return folder
    raise SourceError(
        f"the pictures of {path.name} are in no folder named {split}: add images=FOLDER"
    )


def folder(path: Path, options: Options) -> Iterator[Photo]:
    """Yield the pictures of a folder, all levels down, by name.

    Options: people (none: every picture is known to be without people; unknown: nothing is known,
    for relabelling).
    """
    if not path.is_dir():
        raise SourceError(f"{path} is no folder with pictures: check --data")
    kind = options.get("people", "none")
    if kind not in ("none", "unknown"):
        raise UsageError(f"people={kind}: write people=none or people=unknown")
    known = np.full(_K, kind == "none")
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES):
        key = file.relative_to(path).as_posix()
        yield photo(_bytes(file), key, "people_free" if kind == "none" else "folder", known=known)


def pack(path: Path, options: Options) -> Iterator[Photo]:
    """Yield a pack made by ``manypose train pack``."""
    return read_pack(path)


def renders(path: Path, options: Options) -> Iterator[Photo]:
    """Yield rendered pictures: a folder of render_*.npz parts, or one part.

    Joints outside the picture stay known, so that limbs lead out of it. 3D is turned into the
    camera that looks straight at the neck.
    """
    from manypose.models.train.synth.pack import part_files, read_part

    for file in part_files(path):
        for number, picture in enumerate(read_part(file)):
            height, width = picture.image.shape[:2]
            yield rendered_photo(picture, (width, height), f"{file.stem}/{number}")


def rendered_photo(picture: Any, size: tuple[int, int], key: str) -> Photo:
    """Return a `synth.pack.RenderedPicture` as a training photo."""
    joints_m = picture.joints_m
    # a person behind the camera projects to nonsense
    front = (joints_m[..., 2] > 0.05).all(1)
    asked = front & ((picture.seen == 2).sum(1) >= _JOINTS_SEEN_MIN)
    visible = front & (picture.seen > 0).any(1)
    seen = picture.seen[asked]
    joints = np.concatenate([picture.joints_px[asked], np.maximum(seen, 1)[..., None]], -1).astype(
        np.float32
    )
    turned = seen_straight(joints_m[asked])
    return photo(
        picture.image, key, "render", joints, box_px=picture.box_px[asked],
        area_px=np.maximum(picture.area_px[asked], 1).astype(np.float32),
        joints_m=turned, weight_3d=np.ones(turned.shape[:2], np.float32),
        ignore_px=picture.box_px[visible & ~asked],
    )  # fmt: skip


READERS: dict[str, Callable[[Path, Options], Iterator[Photo]]] = {
    "pack": pack,
    "photos": photos,
    "coco": coco,
    "renders": renders,
    "mpi3dhp": readers3d.mpi3dhp,
    "muco": readers3d.muco,
    "folder": folder,
}
_EVERYWHERE = ("share", "limit", "skip", "lift", "paste")


def parse(address: str) -> tuple[str, Path, dict[str, str]]:
    """Return kind, path and options of an address; a bare path is a pack.

    Raises:
        UsageError: the kind is unknown or an option is not option=value.
    """
    first, *rest = address.split(",")
    kind, colon, path = first.partition(":")
    if not colon:
        kind, path = ("pack" if (Path(first) / MANIFEST).exists() else "folder"), first
    if kind not in READERS:
        raise UsageError(f"{address}: there is no source {kind}:, only {', '.join(READERS)}")
    options = {}
    for item in rest:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{address}: {item} is not option=value")
        options[key] = value
    return kind, Path(path), options


def open_source(address: str) -> Iterator[Photo]:
    """Yield the photos of an address; `skip` and `limit` count photos.

    `lift` and `paste`: see `lifted.add` and `pasted.add`.

    Raises:
        UsageError: the address is wrong.
        SourceError: the source cannot be read.
    """
    kind, path, options = parse(address)
    start = int(options.get("skip", 0))
    stop = start + int(options["limit"]) if "limit" in options else None
    own = {k: v for k, v in options.items() if k not in _EVERYWHERE}
    try:
        found: Iterator[Photo] = islice(READERS[kind](path, own), start, stop)
        if "lift" in options:
            found = lifted.add(found, Path(options["lift"]))
        yield from pasted.add(found, Path(options["paste"])) if "paste" in options else found
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path} is damaged ({error}): copy it again") from None


def shares(addresses: list[str]) -> list[float | None]:
    """Return the `share` of every address, or None for each.

    Raises:
        UsageError: an address is wrong, or some have a share and some have not.
    """
    found = [parse(a)[2].get("share") for a in addresses]
    if any(s is None for s in found) and any(s is not None for s in found):
        raise UsageError("give share= to every source or to none")
    return [None if s is None else float(s) for s in found]


def mixed(addresses: list[str]) -> Iterator[Photo]:
    """Yield the photos of all addresses, weighted so that `share` is each one's part of a batch.

    Raises:
        UsageError: some addresses have a share and some have not.
        SourceError: a source cannot be read or is empty.
    """
    for address, share in zip(addresses, shares(addresses)):
        held = list(open_source(address))
        if not held:
            raise SourceError(f"{address} holds no photos: check the address")
        factor = 1.0
        if share is not None:
            factor = share / sum(p.weight for p in held)
        while held:
            item = held.pop(0)
            yield replace(item, weight=item.weight * factor)
