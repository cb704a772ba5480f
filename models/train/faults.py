"""How wrong Stage I is: measured on labelled photos, for the Stage II that has to live with it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import OutputError, UsageError
from manypose.models.train import scores
from manypose.models.train.packs import Photo
from manypose.models.train.sightings import ErrorModel
from manypose.pose.grouping import GroupingConfig
from manypose.pose.joints import BONE_UNIT_M, CARRIED, JOINTS_2D, MIRROR_2D, OKS_SIGMAS, PARENT
from manypose.pose.records import Person2D

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
_K = len(JOINTS_2D)
_SAME_PERSON = 0.3  # OKS
_PEOPLE_MIN = 20
_JOINTS_MIN = 5
_GROSS = 0.25  # of the person's extent
_RAYLEIGH = np.sqrt(np.pi / 2)  # mean length of a 2D error over its spread in one direction
# How `sightings` draws the noise of a bone: sure joints have 0.4 of it, unsure ones 2.0.
_NOISE_SURE, _NOISE_UNSURE = 0.4, 1.6
_DEPTH = np.array([0.7, 0.7, 1.5])


def measure(photos: Sequence[Photo], predict: scores.Predict) -> ErrorModel:
    """Return the faults of a network's 2D joints, and of its encodings where 3D is known.

    Args:
        photos: labelled, not those it was trained on.
        predict: see `scores.of_network`.

    Raises:
        UsageError: fewer than 20 people were found, which tells nothing.
    """
    people = []
    bones = []
    for d in scores.decode(photos, predict, GroupingConfig()):
        people += [(d.people[i], d.photo.joints_px[k])
                   for i, k, _ in scores.match(d.people, d.photo, _SAME_PERSON)]  # fmt: skip
        bones += _encoded(d)
    if len(people) < _PEOPLE_MIN:
        raise UsageError(f"only {len(people)} people were found: measure on more photos")
    fields: dict[str, Any] = _flat(people) | _deep(bones)
    return ErrorModel(**fields)


def _flat(people: list[tuple[Person2D, Array]]) -> dict[str, Any]:
    """Return the fields about 2D joints; every share is one of labelled joints of found people."""
    labelled = lost = crossed = astray = 0
    size = np.full((len(people), _K), np.nan)
    for row, (found, truth) in enumerate(people):
        known = truth[:, 2] > 0
        seen = np.isfinite(found.joints_px).all(1)
        extent = max(float(np.ptp(truth[known, :2], 0).max()), 1.0)
        off = np.linalg.norm(found.joints_px - truth[:, :2], axis=1)
        other = np.linalg.norm(found.joints_px - truth[list(MIRROR_2D), :2], axis=1)
        both = known & seen
        mirror = np.array(MIRROR_2D)
        cross = both & known[mirror] & (mirror != np.arange(_K)) & (other < 0.5 * off)
        cross &= off > 0.1 * extent
        gross = both & ~cross & (off > _GROSS * extent)
        labelled += int(known.sum())
        lost += int((known & ~seen).sum())
        crossed += int(cross.sum())
        astray += int(gross.sum())
        plain = both & ~cross & ~gross
        size[row, plain] = (off / (np.array(OKS_SIGMAS) * extent / 2))[plain] / _RAYLEIGH
    enough = np.isfinite(size).sum(1) >= _JOINTS_MIN
    size = size[enough]
    hard = np.maximum(np.nanmean(size, 1), 1e-3)
    factor = np.array([_mean(column, 1.0) for column in (size / hard[:, None]).T])
    log = np.log(hard)
    # a mean over few joints scatters by itself: what is left is the people's own difficulty
    own = np.nanvar(size / hard[:, None], axis=1) / np.isfinite(size).sum(1)
    return {
        "spread": round(float(np.exp(np.median(log))), 3),
        "joint_factor": tuple(round(float(f), 3) for f in factor),
        "difficulty": round(float(np.sqrt(max(np.var(log) - own.mean(), 0.0))), 3),
        "missed": round(lost / labelled, 4),
        "swapped": round(crossed / labelled, 4),
        "gross": round(astray / labelled, 4),
    }


def _mean(values: Array, otherwise: float) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) >= _PEOPLE_MIN else otherwise


def _encoded(d: scores.Decoded) -> list[tuple[Array, Array, Array]]:
    """Return (read (C, 3) m, true (C, 3) m, score (C,)) of every found person with known 3D."""
    out = []
    joint, bone = np.array(CARRIED).T
    for i, k, _ in scores.match(d.people, d.photo, _SAME_PERSON):
        person, truth = d.people[i], d.photo.joints_m[k]
        if person.encoding is None or not np.isfinite(truth).any():
            continue
        read = person.encoding.reshape(_K, -1, 3)[joint, bone] * BONE_UNIT_M
        out.append((read, truth[bone] - truth[np.array(PARENT)[bone]], person.confidence[joint]))
    return out


def _deep(people: list[tuple[Array, Array, Array]]) -> dict[str, float]:
    """Return the fields about encodings; nothing where no person with known 3D was found."""
    if len(people) < _PEOPLE_MIN:
        return {}
    read, true, score = (np.stack(column) for column in zip(*people))
    good = np.isfinite(read).all(-1) & np.isfinite(true).all(-1)
    weak = 1 - score
    slope = (read * true)[good].sum() / max((true * true)[good].sum(), 1e-9)
    shrink = (1 - slope) / max(0.5 * float(weak[good].mean()), 1e-3)
    off = np.abs(read - slope * true) / _DEPTH / (_NOISE_SURE + _NOISE_UNSURE * weak)[..., None]
    # the mean of |noise| is sqrt(2 / pi) of its spread
    return {
        "bone_m": round(float(off[good].mean() * np.sqrt(np.pi / 2)), 4),
        "bone_shrink": round(float(np.clip(shrink, 0, 1)), 3),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train faults``."""
    parser.add_argument("weights", type=Path, help="ema.pt of a run of stage1")
    parser.add_argument("--val", nargs="+", metavar="ADDRESS", required=True,
                        help="labelled photos, renders for the encodings")  # fmt: skip
    parser.add_argument("--size", default="512x320", help="input size (default 512x320)")
    parser.add_argument("--out", type=Path, required=True, help="JSON for stage2 --errors")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Measure and write the faults.

    Raises:
        UsageError: too few people, or the size makes no sense.
        WeightsError: the weights cannot be read.
        SourceError: the photos cannot be read.
        OutputError: --out cannot be written.
    """
    from manypose.models.train import stage1

    net, _, photos, (width, height), device = stage1.to_score(args)
    found = measure(photos, scores.of_network(net, width, height, device))
    try:
        found.write(args.out)
    except OSError as error:
        raise OutputError(
            f"cannot write {args.out} ({error.strerror}): choose another --out"
        ) from (None)
    told = {k: v for k, v in asdict(found).items() if k != "joint_factor"}
    _LOG.info("%s from %d photos: %s", args.out, len(photos), told)
    return 0
