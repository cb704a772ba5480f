"""Stage I asked about one picture at several input sizes, the maps brought together.

A network sees best people of the size it was taught; large and small inputs together find more
people than any of them. The idea is old (Cao et al. 2019, OpenPose, section 5.1, which takes the
mean). Of heat-maps the root of the mean square is taken: a joint that is seen at one size alone
keeps 1/sqrt(3) of its peak there, in place of a third. Peaks are raised a little after that, since
what several sizes agree on is surer than what one says.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from manypose.models.backends import (
    StageOneNetwork,
    any_size,
    input_sizes,
    load_network,
    stepped,
)
from manypose.models.preprocess import grid_to_image, letterbox, on_grid
from manypose.models.sessions import Array, Session

log = logging.getLogger(__name__)

_SURER = 1.25  # measured: at a score of 0.4 as many of the people are right as with one size
_SHARES = (2.0, 1.0, 2 / 3)  # of the sides of the smallest input there is a file for


def load(
    model: str, backend: str, device: str, threads: int | None, precision: str, batch: int,
    encodings: bool = True,
) -> StageOneNetwork:  # fmt: skip
    """Return a network that asks one of each of `sizes`; arguments as `backends.load_network`.

    Its maps are on the grid of the largest size; all are compiled now.

    Raises:
        UsageError, WeightsError, DeviceError: as `backends.load_network`.
    """
    networks = [
        load_network(model, backend, device, threads, precision, batch, size, encodings)
        for size in sizes(input_sizes(model), any_size(model))
    ]
    info = networks[0].info
    looks = ", ".join("{}x{}".format(*n.info.input_size) for n in networks)
    log.info("network: every frame is looked at in %d sizes, %s", len(networks), looks)
    session = Session(
        functools.partial(_together, networks), (), (), info.device, info.precision, info.engine,
        all(n.parallel for n in networks),
    )  # fmt: skip
    return StageOneNetwork(session, replace(info, chosen=f"{info.chosen}; looks at {looks}"))


def sizes(there: Sequence[tuple[int, int]], free: bool) -> list[tuple[int, int]]:
    """Return the input sizes (width, height) to ask a network at, the largest first.

    there: sizes that there are files for. free: whether they can be given others; otherwise they
    are all that can be had.
    """
    if not free:
        return sorted(set(there), key=lambda s: s[0] * s[1], reverse=True)
    least = min(there, key=lambda s: s[0] * s[1])
    return [stepped(share * least[0], share * least[1]) for share in _SHARES]


def _together(networks: Sequence[StageOneNetwork], boxed: Array) -> dict[str, Array]:
    """Return the maps by name of pictures (B, height, width, 3) boxed for the first network."""
    total = {k: _squared(k, maps) for k, maps in networks[0].maps(boxed).items()}
    large = grid_to_image(1, 1)
    for network in networks[1:]:
        width, height = network.info.input_size
        small, to_boxed = zip(*(letterbox(picture, height, width) for picture in boxed))
        for name, maps in network.maps(np.stack(small)).items():
            h, w = total[name].shape[2:]
            moved = np.stack([on_grid(m, to_boxed[0], large, w, h) for m in maps])
            total[name] += _squared(name, moved)
    mean = {k: maps / len(networks) for k, maps in total.items()}
    return mean | {"heatmaps": np.minimum(_SURER * np.sqrt(mean["heatmaps"]), 1)}


def _squared(name: str, maps: Array) -> Array:
    return maps**2 if name == "heatmaps" else maps
