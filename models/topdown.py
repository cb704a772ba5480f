"""2D front ends for networks of the user's own: any COCO-17 network with a detector, or none.

Top-down: boxes from a detector, one crop for each person, joints from heat-maps (arg-max and a step
below the cell, Zhang et al. 2020, DARK, section 3.2) or from two 1D distributions (SimCC, Li et al.
2022). One-stage networks answer boxes and joints at once. All crops of all frames go through one
call. What each network wants is said by its TOML (`own_networks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from manypose.errors import WeightsError
from manypose.models import own_networks, weights
from manypose.models.machine import cores
from manypose.models.own_networks import DetectorConfig, Picture, PoseConfig
from manypose.models.sessions import Array, Info, Session, Wish, open_session
from manypose.pose.joints import COCO_NAMES, INDEX_2D, JOINTS_2D, MIRROR_2D
from manypose.pose.portraits import highest, likeness, part_of
from manypose.pose.records import Float, Found2D, Frame, Person2D, UInt8

_COCO = len(COCO_NAMES)
_MIRROR = list(MIRROR_2D[:_COCO])


@dataclass(frozen=True, slots=True, eq=False)
class OwnFrontEnd:
    """The 2D front end of a user's network; call it with frames. `info` says what runs where."""

    info: Info
    batch: int
    parallel: bool
    detector: tuple[Session, DetectorConfig] | None
    pose: tuple[Session, PoseConfig]

    def __call__(self, frames: Sequence[Frame]) -> list[Found2D]:
        """Return the people of each frame with milliseconds of detect and network."""
        images = [f.image for f in frames]
        if not images:
            return []
        started = time.perf_counter()
        if self.detector is None:
            people = [_one_stage(*self.pose, image) for image in images]
            detected = started
        else:
            boxes = [find_boxes(*self.detector, image) for image in images]
            detected = time.perf_counter()
            people = find_joints(*self.pose, images, boxes)
        ready = time.perf_counter()
        pose = self.pose[1]
        kept = [_distinct(p, pose) for p in people]
        ms = 1e3 / len(frames)
        spent = {
            "detect": (detected - started) * ms,
            "network": (ready - detected) * ms,
            "group": (time.perf_counter() - ready) * ms,
        }
        return [Found2D(tuple(p), spent) for p in kept]


def load(
    path: Path, backend: str = "auto", device: str = "auto", threads: int = 0, name: str = "",
    batch: int = 1,
) -> OwnFrontEnd:  # fmt: skip
    """Return the front end of a TOML file, tried once, for `batch` frames in work at once.

    Raises:
        ConfigError: the TOML is wrong.
        WeightsError: a file is missing, damaged or answers other shapes than its kind has.
        DeviceError: engine or device cannot be had.
    """
    own = own_networks.read(path)
    threads = threads if threads > 0 else cores()
    pose_session = open_session(own.pose.file, backend, Wish(device, threads, "fp32", threads))
    detector = None
    if own.detector is not None:
        session = open_session(own.detector.file, backend, Wish(device, threads, "fp32", batch))
        detector = session, own.detector
    info = Info(
        name or own.name, str(own.pose.file), weights.file_sha256(own.pose.file), own.pose.kind,
        pose_session.engine, pose_session.device, "fp32", threads, 1, own.pose.input,
        own.pose.licence, "a network of the user's own",
    )  # fmt: skip
    parallel = batch > 1 and (detector[0] if detector else pose_session).parallel
    batch = batch if parallel else 1
    front_end = OwnFrontEnd(info, batch, parallel, detector, (pose_session, own.pose))
    grey = np.full((240, 320, 3), 114, np.uint8)
    if own.detector is not None and detector is not None:
        find_boxes(*detector, grey)
        find_joints(pose_session, own.pose, [grey], [np.array([[80.0, 20, 240, 220, 1]])])
    else:
        _one_stage(pose_session, own.pose, grey)
    return front_end


def find_boxes(session: Session, config: DetectorConfig, image: UInt8) -> Float:
    """Return boxes of people (N, 5): x1 y1 x2 y2 in px and score, best first."""
    fitted, scale, shift = fit(image, config.input, config.fit, config.border)
    outputs = _ordered(session.run(blob(fitted[None], config)), config)
    rows = _READERS[config.kind](outputs, config)
    rows = rows[np.isfinite(rows).all(1) & (rows[:, 4] >= config.score_min)]
    rows[:, :4] = (rows[:, :4] - np.tile(shift, 2)) / np.tile(scale, 2) - 0.5
    h, w = image.shape[:2]
    rows[:, [0, 2]] = rows[:, [0, 2]].clip(-0.5, w - 0.5)
    rows[:, [1, 3]] = rows[:, [1, 3]].clip(-0.5, h - 0.5)
    rows = rows[(rows[:, 2] - rows[:, 0] > 2) & (rows[:, 3] - rows[:, 1] > 2)]
    return _suppress(rows[np.argsort(-rows[:, 4], kind="stable")], config)


def fit(image: UInt8, size: tuple[int, int], how: str, border: int) -> tuple[UInt8, Float, Float]:
    """Return the picture at an input size, scale (2,), shift (2,): input = image * scale + shift.

    Both count from the picture's corner (px areas). letterbox centres the picture, corner puts it
    at the top left, stretch fills the input.
    """
    width, height = size
    h, w = image.shape[:2]
    if how == "stretch":
        return _resized(image, width, height), np.array([width / w, height / h]), np.zeros(2)
    scale = min(width / w, height / h)
    nw, nh = max(1, min(width, round(w * scale))), max(1, min(height, round(h * scale)))
    out = np.full((height, width, 3), border, np.uint8)
    left, top = ((width - nw) // 2, (height - nh) // 2) if how == "letterbox" else (0, 0)
    out[top : top + nh, left : left + nw] = _resized(image, nw, nh)
    return out, np.array([nw / w, nh / h]), np.array([left, top], float)


def _resized(image: UInt8, width: int, height: int) -> UInt8:
    return np.asarray(cv2.resize(image, (width, height)), np.uint8)


def blob(pictures: Float | UInt8, config: Picture) -> Float:
    """Return pictures (B, H, W, 3) BGR as the network wants them, float32."""
    if config.colour == "rgb":
        pictures = pictures[..., ::-1]
    std = np.asarray(config.std, np.float32)
    out = pictures * (1 / std) - np.asarray(config.mean, np.float32) / std
    if config.layout == "nchw":
        out = out.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(out, np.float32)


def _ordered(outputs: dict[str, Array], config: Picture) -> list[Array]:
    if not config.outputs:
        return list(outputs.values())
    lacking = [n for n in config.outputs if n not in outputs]
    if lacking:
        raise WeightsError(
            f"{config.file.name} has no output {lacking[0]!r}, only {', '.join(outputs)}; "
            "correct outputs in its TOML"
        )
    return [outputs[n] for n in config.outputs]


def _shape(config: Picture, kind: str, wanted: str, *outputs: Array) -> WeightsError:
    got = ", ".join(str(o.shape) for o in outputs) or "nothing"
    return WeightsError(
        f"{config.file.name}: a network of kind {kind} answers {wanted}, this one {got}; correct "
        "kind or outputs in its TOML"
    )


def _boxes(outputs: list[Array], config: DetectorConfig) -> Float:
    """Boxes (1, N, 4) x1 y1 x2 y2 and scores (1, classes, N), as PicoDet without its NMS."""
    if len(outputs) < 2 or outputs[0].ndim != 3 or outputs[0].shape[2] != 4 or outputs[1].ndim != 3:
        raise _shape(config, "boxes", "(1, N, 4) and (1, classes, N)", *outputs)
    boxes, scores = outputs[0][0], outputs[1][0]
    if scores.shape[0] == len(boxes) != scores.shape[1]:
        scores = scores.T
    if scores.shape[1] != len(boxes) or config.person >= len(scores):
        raise _shape(config, "boxes", "(1, N, 4) and (1, classes, N)", *outputs)
    return np.column_stack([boxes, scores[config.person]]).astype(float)


def _dets(outputs: list[Array], config: DetectorConfig) -> Float:
    """Rows (1, N, 5) x1 y1 x2 y2 score, and classes (1, N) when there are several (RTMDet)."""
    if not outputs or outputs[0].ndim != 3 or outputs[0].shape[2] < 5:
        raise _shape(config, "dets", "(1, N, 5) and maybe (1, N)", *outputs)
    rows = outputs[0][0, :, :5].astype(float)
    if len(outputs) > 1 and outputs[1].shape == outputs[0].shape[:2]:
        rows = rows[outputs[1][0] == config.person]
    return rows


def _yolox(outputs: list[Array], config: DetectorConfig) -> Float:
    """Rows (1, N, 5 + classes): centre x, y, width, height, object score, class scores.

    With `strides` the boxes are relative to the grids, sizes as logarithms (Ge et al. 2021, YOLOX).
    """
    if not outputs or outputs[0].ndim != 3 or outputs[0].shape[2] <= 5 + config.person:
        raise _shape(config, "yolox", "(1, N, 5 + classes)", *outputs)
    rows = outputs[0][0].astype(float)
    if config.strides:
        width, height = config.input
        grids = []
        for s in config.strides:
            ys, xs = np.mgrid[: height // s, : width // s]
            grids.append(np.column_stack([xs.ravel(), ys.ravel(), np.full(xs.size, s)]))
        grid = np.concatenate(grids)
        if len(grid) != len(rows):
            raise _shape(config, "yolox", f"{len(grid)} rows for these strides", *outputs)
        rows[:, :2] = (rows[:, :2] + grid[:, :2]) * grid[:, 2:]
        rows[:, 2:4] = np.exp(np.minimum(rows[:, 2:4], 20)) * grid[:, 2:]
    half = rows[:, 2:4] / 2
    score = rows[:, 4] * rows[:, 5 + config.person]
    return np.column_stack([rows[:, :2] - half, rows[:, :2] + half, score])


_READERS: dict[str, Callable[[list[Array], DetectorConfig], Float]] = {
    "boxes": _boxes,
    "dets": _dets,
    "yolox": _yolox,
}


def _suppress(rows: Float, config: DetectorConfig) -> Float:
    """Return the boxes that overlap no better one; rows come best first."""
    rows = rows[:1000]
    area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    kept: list[int] = []
    for i in range(len(rows)):
        if len(kept) == config.people_max:
            break
        k = rows[kept]
        low, high = np.maximum(rows[i, :2], k[:, :2]), np.minimum(rows[i, 2:4], k[:, 2:4])
        both = np.prod((high - low).clip(0), 1)
        if not (both > config.iou_max * (area[i] + area[kept] - both)).any():
            kept.append(i)
    return rows[kept]


def find_joints(
    session: Session, config: PoseConfig, images: Sequence[UInt8], boxes: Sequence[Float]
) -> list[list[Person2D]]:
    """Return the people of each picture, one for each of its boxes (N, 5), in their order."""
    width, height = config.input
    jobs = [(i, box) for i, rows in enumerate(boxes) for box in rows]
    people: list[list[Person2D]] = [[] for _ in images]
    if not jobs:
        return people
    to_crop = np.array([part_of(box, width, height, config.crop) for _, box in jobs])
    crops: Array = np.stack([
        cv2.warpAffine(images[i], m, (width, height), borderValue=(config.border,) * 3)
        for (i, _), m in zip(jobs, to_crop)
    ])  # fmt: skip
    if config.mirror:
        crops = np.concatenate([crops, crops[:, :, ::-1]])
    outputs = _ordered(session.run(blob(crops, config)), config)
    found = _DECODERS[config.kind](outputs, config)
    for (i, box), m, joints in zip(jobs, to_crop, found):
        xy = (joints[:, :2] - m[:, 2]) / np.array([m[0, 0], m[1, 1]])
        people[i].append(_person(xy, joints[:, 2], float(box[4]), config))
    return people


def _heatmap(outputs: list[Array], config: PoseConfig) -> Float:
    """Joints (N, 17, 3) in crop px and score, from maps (N or 2 N with mirrored ones, 17, h, w)."""
    if not outputs or outputs[0].ndim != 4 or outputs[0].shape[1] != _COCO:
        raise _shape(config, "heatmap", f"(N, {_COCO}, h, w)", *outputs)
    maps: Float = outputs[0].astype(np.float32, copy=False)
    if config.mirror:
        n = len(maps) // 2
        other = maps[n:, _MIRROR, :, ::-1]
        maps = 0.5 * (maps[:n] + _moved_right(other, config.mirror_shift))
    n, _, h, w = maps.shape
    xy, score = highest(maps.reshape(-1, h, w), config.blur)
    cell = config.cell or config.input[0] / w
    return np.column_stack([xy * cell + config.offset, score]).reshape(n, _COCO, 3)


def _moved_right(maps: Float, cells: float) -> Float:
    """Return maps moved right by a fraction of a cell, the left edge repeated."""
    whole = int(np.floor(cells))
    part = np.float32(cells - whole)
    columns = np.arange(maps.shape[-1]) - whole
    last = maps.shape[-1] - 1
    a, b = maps[..., columns.clip(0, last)], maps[..., (columns - 1).clip(0, last)]
    return (1 - part) * a + part * b


def _simcc(outputs: list[Array], config: PoseConfig) -> Float:
    """Joints (N, 17, 3) in crop px and score, from (N, 17, bins of x) and (N, 17, bins of y)."""
    if len(outputs) < 2 or any(o.ndim != 3 or o.shape[1] != _COCO for o in outputs[:2]):
        raise _shape(config, "simcc", f"(N, {_COCO}, bins) twice, x then y", *outputs)
    x, y = outputs[:2]
    if config.mirror:
        n = len(x) // 2
        x = 0.5 * (x[:n] + x[n:, _MIRROR, ::-1])
        y = 0.5 * (y[:n] + y[n:, _MIRROR])
    score = np.minimum(x.max(2), y.max(2)).clip(0, 1)
    return np.stack([x.argmax(2) / config.split, y.argmax(2) / config.split, score], -1)


_DECODERS: dict[str, Callable[[list[Array], PoseConfig], Float]] = {
    "heatmap": _heatmap,
    "simcc": _simcc,
}


def _one_stage(session: Session, config: PoseConfig, image: UInt8) -> list[Person2D]:
    """Return the people of rows (1, N, 5) x1 y1 x2 y2 score and joints (1, N, 17, 3), as RTMO."""
    fitted, scale, shift = fit(image, config.input, config.fit, config.border)
    outputs = _ordered(session.run(blob(fitted[None], config)), config)
    if len(outputs) < 2 or outputs[0].ndim != 3 or outputs[1].shape[2:] != (_COCO, 3):
        raise _shape(config, "one-stage", f"(1, N, 5) and (1, N, {_COCO}, 3)", *outputs)
    people = []
    for row, joints in zip(outputs[0][0], outputs[1][0].astype(float)):
        if row[4] >= config.score_min:
            xy = (joints[:, :2] - shift) / scale - 0.5
            people.append(_person(xy, joints[:, 2].clip(0, 1), float(row[4]), config, box=True))
    return people


def _person(
    xy: Float, score: Float, box_score: float, config: PoseConfig, box: bool = False
) -> Person2D:
    """Return a person with neck and pelvis made from shoulders and hips; head_top stays unseen.

    The score is that of the box, times the mean of the joints seen (not for one-stage networks).
    """
    joints = np.full((len(JOINTS_2D), 2), np.nan)
    confidence = np.zeros(len(JOINTS_2D))
    seen = np.isfinite(xy).all(1) & (score >= config.joint_score_min)
    joints[:_COCO][seen] = xy[seen]
    confidence[:_COCO][seen] = score[seen].clip(0, 1)
    for middle, of in (("neck", "shoulder"), ("pelvis", "hip")):
        k, left, right = (INDEX_2D[n] for n in (middle, "l_" + of, "r_" + of))
        joints[k] = (joints[left] + joints[right]) / 2  # NaN if one is not seen
        confidence[k] = min(confidence[left], confidence[right])
    total = box_score if box else box_score * (float(score[seen].mean()) if seen.any() else 0.0)
    return Person2D(joints, confidence, float(np.clip(total, 0, 1)))


def _distinct(people: list[Person2D], config: PoseConfig) -> list[Person2D]:
    """Return the people worth having, best first: no doubles, none with under three joints."""
    kept: list[Person2D] = []
    for person in sorted(people, key=lambda p: -p.score):
        seen = person.confidence[:_COCO] > 0
        if len(kept) == config.people_max or person.score < config.score_min or seen.sum() < 3:
            continue
        if not any(likeness(person, k) > config.oks_max for k in kept):
            kept.append(person)
    return kept
