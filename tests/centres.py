"""Print what a map of person centres is worth to grouping, beside fields alone.

    python -m tests.centres EMA --val ADDRESS... [--size WxH]

EMA are weights trained with `--weight-centres`. Four ways of making people of the same heat-maps:
by fields, as shipped; by centres, whose offsets say which peak of each joint is whose; by fields,
and joints that they left out put where the centre that agrees best with the others says, or where
Stage II says, as it does for everybody in the product. First with the maps of the network, then
with perfect ones.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from manypose.calib.camera import Camera
from manypose.errors import WeightsError
from manypose.models.heads import StageOne
from manypose.models.lifter_runtime import load_lifter
from manypose.models.preprocess import letterbox, size_named
from manypose.models.train import centres, checkpoints, readers, scores
from manypose.models.train.packs import Photo, decoded
from manypose.models.train.student import centre_of
from manypose.models.train.targets import People
from manypose.pose.grouping import GroupingConfig, _peaks, group
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D
from manypose.pose.lifting import lift
from manypose.pose.records import NetworkOutput, Person2D

Floats = NDArray[Any]
_K = len(JOINTS_2D)
_CENTRE_MIN = 0.1  # lower cells stand for nobody
_REACH = 0.25  # of a person's size: so far from where its centre says a peak may lie
_FAR = 0.3  # a centre whose offsets miss a person's joints by more of its size is not its own
_LITTLE = 1e-3  # confidence of a joint that only a centre, or Stage II, tells
LIFT = functools.partial(lift, lifter=load_lifter())


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Maps of a photo with centre heat-map (h, w) and offsets (2 K, h, w) in units; its camera."""

    output: NetworkOutput
    heat: Floats
    offsets: Floats
    camera: Camera

    def pointed(self) -> Floats:
        """Return where every cell says the joints are, (h, w, K, 2) cells."""
        h, w = self.heat.shape
        y, x = np.mgrid[:h, :w]
        to = centres.UNIT_CELLS * self.offsets.reshape(_K, 2, h, w).transpose(2, 3, 0, 1)
        told: Floats = to + np.stack([x, y], -1)[:, :, None]
        return told


def by_fields(a: Answer, config: GroupingConfig) -> list[Person2D]:
    """Return the people as the product finds them."""
    return group(a.output, config)


def by_centres(a: Answer, config: GroupingConfig) -> list[Person2D]:
    """Return a person for every peak of the centres, of the joints nearest to its offsets."""
    joint, xy, score = _peaks(a.output.heatmaps, config)
    top = (a.heat >= cv2.dilate(a.heat, np.ones((3, 3), np.uint8))) & (a.heat > _CENTRE_MIN)
    ys, xs = np.nonzero(top)
    order = np.argsort(-a.heat[ys, xs])[: config.people_max]
    ys, xs = ys[order], xs[order]
    told = a.pointed()[ys, xs]
    size = np.maximum(np.ptp(told, axis=1).max(1, initial=0), 3)
    points = np.full((len(ys), _K, 2), np.nan)
    sure = np.zeros((len(ys), _K))
    for k in range(_K):
        at = np.flatnonzero(joint == k)
        far = np.linalg.norm(told[:, k, None] - xy[at], axis=-1) / size[:, None]
        cost = np.where(far < _REACH, far - 0.1 * score[at], np.inf)
        while cost.size and np.isfinite(cost.min()):
            i, n = np.unravel_index(cost.argmin(), cost.shape)
            points[i, k], sure[i, k] = xy[at[n]], score[at[n]]
            cost[i], cost[:, n] = np.inf, np.inf
    people = []
    for p, s, centre in zip(points, sure, a.heat[ys, xs]):
        count = int((s > 0).sum())
        if count >= config.joints_min:
            image = p @ a.output.to_image[:, :2].T + a.output.to_image[:, 2]
            value = 0.5 * min(1.0, float(centre)) + 0.5 * s.sum() / count * min(1, count / 8)
            people.append(Person2D(image, s, float(value)))
    return sorted(people, key=lambda q: -q.score)


def by_both(a: Answer, config: GroupingConfig) -> list[Person2D]:
    """Return the people of the fields, with joints they lack put where a fitting centre says."""
    cells = np.nonzero(a.heat > _CENTRE_MIN)
    told = a.pointed()[cells] @ a.output.to_image[:, :2].T + a.output.to_image[:, 2]
    size = np.ptp(told, axis=1).max(1, initial=1e-6)
    people = []
    for q in group(a.output, config):
        seen = q.confidence > 0
        far = np.linalg.norm(told[:, seen] - q.joints_px[seen], axis=2).mean(1) / size
        best = int((far - 0.1 * a.heat[cells]).argmin()) if len(far) else -1
        if best >= 0 and far[best] < _FAR:
            points = np.where(seen[:, None], q.joints_px, told[best])
            q = replace(q, joints_px=points, confidence=np.where(seen, q.confidence, _LITTLE))
        people.append(q)
    return people


def by_lifting(a: Answer, config: GroupingConfig) -> list[Person2D]:
    """Return the people of the fields, with joints they lack put where Stage II has them."""
    found = group(a.output, config)
    people = []
    for q, lifted in zip(found, LIFT(found, a.camera), strict=True):
        body = a.camera.camera_to_image(lifted.joints_rel_m + lifted.root_m)
        told = np.full((_K, 2), np.nan)
        for k, name in enumerate(JOINTS_2D):
            if name in INDEX:
                told[k] = body[INDEX[name]]
        new = (q.confidence <= 0) & np.isfinite(told).all(-1)
        points = np.where(new[:, None], told, q.joints_px)
        people.append(replace(q, joints_px=points, confidence=np.where(new, _LITTLE, q.confidence)))
    return people


WAYS: dict[str, Callable[[Answer, GroupingConfig], list[Person2D]]] = {
    "fields": by_fields, "centres": by_centres, "fields, filled in by centres": by_both,
    "fields, filled in by Stage II": by_lifting,
}  # fmt: skip


def camera_of(item: Photo) -> Camera:
    """Return the camera that is guessed for a photo."""
    height, width = np.asarray(item.picture).shape[:2]
    return Camera.from_fov(width, height)


def of_network(
    net: StageOne, layer: nn.Module, photos: Sequence[Photo], size: tuple[int, int]
) -> Iterator[Answer]:
    """Yield what the network answers for decoded photos at this input size (width, height)."""
    for item in photos:
        image, to_image = letterbox(np.asarray(item.picture), size[1], size[0])
        x = torch.from_numpy(image[None]).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            f = net.features(x)
            heat, pafs, _ = (m[0].float().numpy() for m in net.read(f))
            seeds = layer(f)[0].numpy()
        output = NetworkOutput(heat.clip(0, 1), pafs, None, to_image)
        yield Answer(output, seeds[0], seeds[1:], camera_of(item))


def of_labels(photos: Sequence[Photo], size: tuple[int, int]) -> Iterator[Answer]:
    """Yield perfect maps at this input size (width, height)."""
    perfect = scores.of_labels(*size)
    for item in photos:
        output = perfect([item])[0]
        _, h, w = output.heatmaps.shape
        px = scores._to_cells(item.joints_px[..., :2].astype(float), output.to_image) * 8 + 3.5
        n = len(px)
        nobody = torch.zeros(n, dtype=torch.long)
        edge = np.array([8 * w, 8 * h]) - 0.5
        people = People(
            nobody, nobody, torch.from_numpy(px.astype(np.float32)),
            torch.from_numpy(np.asarray(item.joints_px[..., 2])),
            torch.from_numpy(((px >= -0.5) & (px < edge)).all(-1)),
            torch.zeros(n, len(JOINTS), 3), torch.zeros(n, len(JOINTS)),
        )  # fmt: skip
        aims = centres.draw(people, (1, h, w))
        yield Answer(output, aims.heatmap[0, 0].numpy(), aims.offsets[0].numpy(), camera_of(item))


def table(photos: Sequence[Photo], answers: Sequence[Answer], title: str) -> list[str]:
    """Return a row for every way; people count from the score `scores.SURE`."""
    rows = []
    for name, way in WAYS.items():
        found = [(p, way(a, GroupingConfig())) for p, a in zip(photos, answers)]
        some = [(p, f) for p, f in found if len(p.joints_px)]
        s = scores.coco_scores(found) | scores._matching(some, scores.SURE)
        cells = [f"{s['AP']:.4f} ± {s['ap_error']:.3f}", f"{s['AP50']:.3f}"]
        cells += [f"{s[k]:.2f}" for k in ("missed", "merged", "invented")]
        rows.append(" | ".join((title, name, *cells)))
    return [f"| {row} |" for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.centres", description=__doc__)
    parser.add_argument("weights", type=Path, help="ema.pt of a run with --weight-centres")
    parser.add_argument("--val", nargs="+", required=True, metavar="ADDRESS", help="photos")
    parser.add_argument("--size", default="384x240", help="input size")
    args = parser.parse_args(argv)
    size = size_named(args.size)
    net, _ = checkpoints.network(args.weights)
    kept = checkpoints.read(args.weights).get("centre")
    if not isinstance(kept, dict):
        raise WeightsError(f"{args.weights} has no centres: train with --weight-centres 0.15")
    layer = centre_of(kept["weight"].shape[1])
    layer.load_state_dict({k: v.float() for k, v in kept.items()})
    every = (p for a in args.val for p in readers.open_source(a))
    photos = [decoded(p) for p in every if not p.source.startswith("lsp")]
    head = ("maps", "people by", "AP", "AP50", "missed", "merged", "invented")
    sys.stdout.write("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n")
    for title, answers in (
        ("the network's", of_network(net.eval(), layer, photos, size)),
        ("perfect", of_labels(photos, size)),
    ):
        sys.stdout.write("\n".join(table(photos, list(answers), title)) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
