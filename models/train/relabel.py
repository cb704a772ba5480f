"""``manypose train relabel``: photos labelled anew by the current network and other opinions.

The network sees every photo at several sizes and mirrored; the maps are averaged. A person is
kept where the opinions agree: hand labels win, then people found by two opinions, then people of
whom the network alone is sure. Doubtful people become boxes in which nothing is known.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manypose.errors import UsageError
from manypose.models.careful import unmirrored
from manypose.models.heads import StageOne
from manypose.models.preprocess import letterbox, on_grid
from manypose.models.train import checkpoints, distil, packs, readers, scores
from manypose.models.train.distil import Teacher
from manypose.models.train.packs import Photo
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS
from manypose.pose.records import NetworkOutput, Person2D

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
_K, _J = len(JOINTS_2D), len(JOINTS)
_PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True)
class RelabelConfig:
    """When a person or a joint is believed; scores in [0, 1]."""

    sizes: tuple[tuple[int, int], ...] = ((512, 320), (384, 256))  # width, height px
    agree_min: float = 0.5  # OKS between two opinions of one person
    alone_min: float = 0.6  # score of a person that one opinion alone may add
    doubt_min: float = 0.15  # people less sure than this are not even masked
    joint_min: float = 0.35  # confidence of a joint
    joints_min: int = 5


def averaged(net: StageOne, image: Array, sizes: Sequence[tuple[int, int]]) -> NetworkOutput:
    """Return the mean of the maps of a BGR picture at all sizes, plain and mirrored.

    All are brought onto the grid of the first size.
    """
    heat_sum: Any = 0
    pafs_sum: Any = 0
    first: tuple[int, int, Array] | None = None
    for width, height in sizes:
        boxed, to_image = letterbox(image, height, width)
        heat, pafs = _both_sides(net, boxed)
        if first is None:
            first = (heat.shape[1], heat.shape[2], to_image)
        h, w, target = first
        heat_sum = heat_sum + on_grid(heat, to_image, target, w, h)
        pafs_sum = pafs_sum + on_grid(pafs, to_image, target, w, h)
    assert first is not None
    count = len(sizes)
    return NetworkOutput(heat_sum / count, pafs_sum / count, None, first[2])


def _both_sides(net: StageOne, boxed: Array) -> tuple[Array, Array]:
    device = next(net.parameters()).device
    x = torch.from_numpy(boxed).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        maps = net(torch.cat([x, x.flip(3)]))
    heat, pafs = maps.heatmaps.float().clamp(0, 1).cpu(), maps.pafs.float().cpu()
    return tuple(
        (m[0] + unmirrored(name, m[1:])[0]) / 2
        for name, m in (("heatmaps", heat.numpy()), ("pafs", pafs.numpy()))
    )


def of_teacher(teacher: Teacher, image: Array, size: tuple[int, int]) -> NetworkOutput:
    """Return a teacher's maps of a BGR picture as a network's output; what it lacks is zero."""
    boxed, to_image = letterbox(image, size[1], size[0])
    x = torch.from_numpy(boxed).permute(2, 0, 1)[None].float() / 255
    hints = teacher(x)
    h, w = size[1] // 8, size[0] // 8
    heat = np.zeros((_K, h, w), np.float32)
    pafs = np.zeros((len(LIMBS), 2, h, w), np.float32)
    got = [torch.nn.functional.interpolate(m, size=(h, w), mode="bilinear")[0].cpu().numpy()
           for m in (hints.heatmaps, hints.pafs)]  # fmt: skip
    heat[list(hints.joints)] = got[0].clip(0, 1)
    pafs[list(hints.limbs)] = got[1].reshape(-1, 2, h, w)
    return NetworkOutput(heat, pafs.reshape(-1, h, w), None, to_image)


def merge(
    item: Photo, opinions: Sequence[list[Person2D]], config: RelabelConfig
) -> tuple[Photo, Counter[str]]:
    """Return the photo with labels merged from its own and the opinions, and what was done.

    opinions: people found by each network, the one that is trusted most first.
    """
    done: Counter[str] = Counter()
    joints, boxes = item.joints_px.copy(), item.box_px
    taken: list[set[int]] = [set() for _ in opinions]
    # hand labels stay; joints that nobody labelled are filled in where an opinion knows the person
    for n, people in enumerate(opinions):
        for i, k, _ in scores.match(people, item, config.agree_min):
            taken[n].add(i)
            fresh = _labels(people[i], config)
            gap = (joints[k, :, 2] == 0) & (fresh[:, 2] > 0)
            joints[k, gap] = fresh[gap]
            done["joints filled in"] += int(gap.sum())
    added, doubtful = [], []
    everybody = [(n, i, p) for n, people in enumerate(opinions) for i, p in enumerate(people)]
    used: set[tuple[int, int]] = {(n, i) for n, t in enumerate(taken) for i in t}
    for n, i, person in everybody:
        if (n, i) in used or person.score < config.doubt_min:
            continue
        same = [
            (m, j) for m, j, other in everybody
            if m != n and (m, j) not in used and _alike(person, other) >= config.agree_min
        ]  # fmt: skip
        used.update([(n, i), *same])
        fresh = _labels(person, config)
        enough = (fresh[:, 2] > 0).sum() >= config.joints_min
        if enough and (same or person.score >= config.alone_min):
            added.append(fresh)
            done["people agreed on" if same else "people added alone"] += 1
        else:
            doubtful.append(_box(person.joints_px[person.confidence > 0]))
            done["people in doubt"] += 1
    new = np.stack(added) if added else np.zeros((0, _K, 3), np.float32)
    new_boxes = np.array([_box(p[p[:, 2] > 0, :2]) for p in new], np.float32).reshape(-1, 4)
    missing = len(new)
    ignore = np.array(doubtful, np.float32).reshape(-1, 4)
    all_boxes = np.concatenate([boxes, new_boxes]).astype(np.float32)
    fields: dict[str, Any] = {
        "joints_px": np.concatenate([joints, new]).astype(np.float32),
        "box_px": all_boxes,
        "area_px": np.concatenate([item.area_px, 0.526 * new_boxes[:, 2] * new_boxes[:, 3]]),
        "joints_m": np.concatenate([item.joints_m, np.full((missing, _J, 3), np.nan)]),
        "weight_3d": np.concatenate([item.weight_3d, np.zeros((missing, _J))]),
        "ignore_px": np.concatenate([item.ignore_px, ignore]).astype(np.float32),
    }
    if not item.known.any():
        # a photo of which nothing was known: now the surroundings of its people are
        fields["known"] = np.ones(_K, bool)
        fields["reach_px"] = (
            readers.surroundings(all_boxes) if len(all_boxes) else np.zeros(4, np.float32)
        )
    done["photos"] += 1
    done["people labelled before"] += len(item.joints_px)
    return replace(item, **fields), done


def _labels(person: Person2D, config: RelabelConfig) -> Array:
    """Return joints (K, 3) of a found person; sure ones count half of those seen by a person."""
    sure = person.confidence >= config.joint_min
    out = np.zeros((_K, 3), np.float32)
    out[sure, :2], out[sure, 2] = person.joints_px[sure], 1
    return out


def _alike(a: Person2D, b: Person2D) -> float:
    """Return the OKS of two found people on the joints that both have; 0 with fewer than four."""
    both = (a.confidence > 0) & (b.confidence > 0)
    if both.sum() < 4:
        return 0.0
    joints = np.concatenate([b.joints_px, both[:, None] * 2.0], 1)
    joints[~both] = 0
    box = _box(b.joints_px[b.confidence > 0])
    return scores.oks(a, joints, 0.526 * float(box[2] * box[3]))


def _box(px: Array) -> Array:
    low, high = px.min(0), px.max(0)
    margin = 0.1 * max(float((high - low).max()), 8.0)
    return np.concatenate([low - margin, high - low + 2 * margin])


def relabelled(
    photos: Iterator[Photo], net: StageOne, teachers: Sequence[Teacher], config: RelabelConfig
) -> Iterator[Photo]:
    """Yield the photos with refined labels; those on which nobody can be labelled stay as masks."""
    total: Counter[str] = Counter()
    shown = time.monotonic()
    grouping = GroupingConfig()
    net.eval()
    for item in photos:
        image = np.asarray(packs.decoded(item).picture)
        opinions = [group(averaged(net, image, config.sizes), grouping)]
        opinions += [group(of_teacher(t, image, config.sizes[0]), grouping) for t in teachers]
        fresh, done = merge(item, opinions, config)
        total.update(done)
        if time.monotonic() - shown > _PROGRESS_S:
            _LOG.info("%d photos relabelled", total["photos"])
            shown = time.monotonic()
        yield fresh
    _LOG.info("%s", ", ".join(f"{v} {k}" for k, v in total.items()) or "no photos")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train relabel``."""
    parser.add_argument(
        "sources", nargs="+", metavar="ADDRESS",
        help="as for stage1 --data; folder:DIR,people=unknown for bare photos",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, required=True, help="ema.pt of a run")
    parser.add_argument("--teacher", type=Path, nargs="*", default=[], metavar="FILE",
                        help="further networks to ask (OpenPose maps, .xml or .onnx)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the new pack")
    parser.add_argument("--sizes", default="512x320,384x256", help="input sizes to average")
    parser.add_argument("--alone", type=float, default=RelabelConfig().alone_min,
                        help="score from which the network alone is believed")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Relabel photos and write them as a pack.

    Raises:
        UsageError: an option makes no sense.
        WeightsError, SourceError, OutputError: a file cannot be read or written.
    """
    from manypose.models.preprocess import size_named
    from manypose.models.train.stage1 import device_named

    if not 0 <= args.alone <= 1:
        raise UsageError(f"--alone {args.alone}: a score lies between 0 and 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = tuple(size_named(s) for s in args.sizes.split(","))
    net, _ = checkpoints.network(args.weights, device_named(args.device))
    teachers = [distil.open_teacher(p, args.threads or 1) for p in args.teacher]
    found = chain.from_iterable(readers.open_source(a) for a in args.sources)
    config = RelabelConfig(sizes=sizes, alone_min=args.alone)
    count = packs.write_pack(relabelled(found, net, teachers, config), args.out)
    _LOG.info("%d photos with new labels in %s", count, args.out)
    return 0
