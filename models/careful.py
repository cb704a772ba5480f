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
from manypose.pose.joints import MIRROR, MIRROR_2D, MIRROR_LIMBS

log = logging.getLogger(__name__)

_SURER = 1.25  # measured: at a score of 0.4 as many of the people are right as with one size
_SURER_MIRRORED = 1.3  # with each size in the mirror
_SHARES = (2.0, 1.0, 2 / 3)  # of the sides of the smallest input there is a file for


def load(
    model: str, backend: str, device: str, threads: int | None, precision: str, batch: int,
    encodings: bool = True, mirror: bool = False,
) -> StageOneNetwork:  # fmt: skip
    """Return a network that asks one of each of `sizes`; arguments as `backends.load_network`.

    Its maps are on the grid of the largest size; all are compiled now. mirror: each size sees the
    picture in the mirror as well.

    Raises:
        UsageError, WeightsError, DeviceError: as `backends.load_network`.
    """
    networks = [
        load_network(model, backend, device, threads, precision, batch, size, encodings)
        for size in sizes(input_sizes(model), any_size(model))
    ]
    info = networks[0].info
    looks = ", ".join("{}x{}".format(*n.info.input_size) for n in networks)
    looks += ", also in the mirror" if mirror else ""
    log.info("network: every frame is looked at in %d sizes, %s", len(networks), looks)
    session = Session(
        functools.partial(_together, networks, mirror), (), (), info.device, info.precision,
        info.engine, all(n.parallel for n in networks),
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


def unmirrored(name: str, maps: Array) -> Array:
    """Return maps (B, C, h, w) of mirrored pictures as they lie in these pictures.

    name: "heatmaps", "pafs" or "encodings".
    """
    maps = maps[..., ::-1]
    if name == "heatmaps":
        return maps[:, list(MIRROR_2D)]
    order, across = (MIRROR_LIMBS, 2) if name == "pafs" else (MIRROR, 3)
    b, _, h, w = maps.shape
    vectors = maps.reshape(b, len(order), across, h, w)[:, list(order)]
    vectors[:, :, 0] *= -1  # x points the other way
    return vectors.reshape(maps.shape)


def _together(networks: Sequence[StageOneNetwork], mirror: bool, boxed: Array) -> dict[str, Array]:
    """Return the maps by name of pictures (B, height, width, 3) boxed for the first network."""
    total = {k: _squared(k, maps) for k, maps in _looked(networks[0], boxed, mirror).items()}
    large = grid_to_image(1, 1)
    for network in networks[1:]:
        width, height = network.info.input_size
        small, to_boxed = zip(*(letterbox(picture, height, width) for picture in boxed))
        for name, maps in _looked(network, np.stack(small), mirror).items():
            h, w = total[name].shape[2:]
            moved = np.stack([on_grid(m, to_boxed[0], large, w, h) for m in maps])
            total[name] += _squared(name, moved)
    mean = {k: maps / len(networks) for k, maps in total.items()}
    surer = _SURER_MIRRORED if mirror else _SURER
    return mean | {"heatmaps": np.minimum(surer * np.sqrt(mean["heatmaps"]), 1)}


def _looked(network: StageOneNetwork, boxed: Array, mirror: bool) -> dict[str, Array]:
    """Return the maps of pictures (B, height, width, 3), or what they and their mirrors say."""
    found = network.maps(boxed)
    if not mirror:
        return found
    other = network.maps(np.ascontiguousarray(boxed[:, :, ::-1]))
    for name, maps in found.items():
        maps[:] = (_squared(name, maps) + _squared(name, unmirrored(name, other[name]))) / 2
    found["heatmaps"] = np.sqrt(found["heatmaps"])
    return found


def _squared(name: str, maps: Array) -> Array:
    return maps**2 if name == "heatmaps" else maps
