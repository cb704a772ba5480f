"""Weak 3D for photos with 2D labels only: Stage II guesses what the labelled joints may be in 3D.

A photo teaches the 3D half of Stage I little less than a rendering where the lifting is sure, and
there are many more photos than captures. The teacher is Stage II itself, from true 2D; each joint
is trusted as far as Stage II says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.errors import SourceError, WeightsError
from manypose.models.train.packs import Photo, decoded, seen_straight
from manypose.pose import lifting
from manypose.pose.records import Person2D

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
_TRUST = 0.3  # of 3D that a network guessed, against 1 for rendered people
_SIGMA_FULL_M = 0.06  # up to this expected error a joint has all of it
_JOINTS_MIN = 10


def add(photos: Iterator[Photo], path: Path) -> Iterator[Photo]:
    """Yield the photos with 3D for everybody who has ten 2D joints labelled and no 3D yet.

    Args:
        photos: with labels.
        path: weights of Stage II.

    Raises:
        SourceError: the weights cannot be read.
    """
    from manypose.models.lifter_runtime import load_lifter

    try:
        lifter = load_lifter(path)
    except WeightsError as error:
        raise SourceError(f"{path} lifts nothing ({error}): check lift=") from None
    count = 0
    for item in photos:
        who = np.flatnonzero(
            ((item.joints_px[..., 2] > 0).sum(1) >= _JOINTS_MIN)
            & ~np.isfinite(item.joints_m).any((1, 2))
        )
        count += len(who)
        yield _with_3d(item, who, lifter) if len(who) else item
    _LOG.info("3D for %d people by %s", count, path.name)


def trust(sigma_m: Array) -> Array:
    """Return the weights of joints that a network lifted, from their expected errors (..., J) m."""
    return np.asarray(_TRUST * np.minimum(1, _SIGMA_FULL_M / np.maximum(sigma_m, 1e-3)))


def _with_3d(item: Photo, who: Array, lifter: lifting.Lifter) -> Photo:
    height, width = np.asarray(decoded(item).picture).shape[:2]
    labelled = item.joints_px[who, :, 2] > 0
    people = [
        Person2D(np.where(seen[:, None], at, np.nan), seen.astype(float), 1.0)
        for at, seen in zip(item.joints_px[who, :, :2].astype(float), labelled)
    ]
    answers = lifting.lift(people, Camera.from_fov(width, height), lifter)
    at = np.stack([p.joints_rel_m + p.root_m for p in answers])
    sigma = np.stack([p.sigma_m for p in answers])
    good = np.isfinite(at).all((1, 2)) & (at[..., 2] > 0).all(1)
    joints_m, weight = item.joints_m.copy(), item.weight_3d.copy()
    joints_m[who[good]] = seen_straight(at[good])
    weight[who[good]] = trust(sigma[good])
    return replace(item, joints_m=joints_m, weight_3d=weight)
