"""2D front ends: our network and its grouping, with second looks at people near and far."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manypose.errors import UsageError
from manypose.models import weights
from manypose.models.backends import (
    StageOneNetwork,
    any_size,
    input_sizes,
    load_network,
    stepped,
)
from manypose.models.portraits import Portraits, load_portraits
from manypose.models.preprocess import STRIDE, grid_to_image, letterbox
from manypose.models.sessions import Array, Info
from manypose.pose.close_ups import may_be_close, with_close_ups
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.long_shots import enlarged_part, with_far
from manypose.pose.records import Float, Found2D, Frame, NetworkOutput, Person2D

if TYPE_CHECKING:
    from manypose.models.adaptive import AdaptiveNetwork

log = logging.getLogger(__name__)


class StageOneFrontEnd:
    """Our own 2D front end: Stage I and the grouping of its joints into people.

    small: the same network with a small input, for people close to the camera. long_shots: whether
    people far from it get a second look at their part of the picture. portraits: reads the joints
    of each person found again.
    """

    def __init__(
        self, network: StageOneNetwork | AdaptiveNetwork, grouping: GroupingConfig,
        small: StageOneNetwork | None = None, long_shots: bool = False,
        portraits: Portraits | None = None,
    ) -> None:  # fmt: skip
        self.network = network
        self.info = network.info
        self.batch = network.info.batch
        self.parallel = network.parallel and (small is None or small.parallel)
        self._grouping = grouping
        self._small = small
        self._far = network if long_shots and isinstance(network, StageOneNetwork) else None
        self.portraits = portraits

    def __call__(self, frames: Sequence[Frame]) -> list[Found2D]:
        """Return the people of each frame with milliseconds of resize, network and group."""
        outputs, spent = self.network.timed(frames)
        found: list[list[Person2D]] = []
        stage_ms = []
        for frame, output in zip(frames, outputs):
            started = time.perf_counter()
            people = group(output, self._grouping)
            ms = {**spent, "group": 1e3 * (time.perf_counter() - started)}
            if self._small is not None and may_be_close(people, *frame.shape[::-1]):
                people = self._closer(self._small, frame, output, people, ms)
            found.append(people)
            stage_ms.append(ms)
        if self._far is not None:
            self._farther(self._far, frames, found, stage_ms)
        if self.portraits is not None:
            for n, frame in enumerate(frames):
                began = time.perf_counter()
                found[n] = self.portraits(frame.picture, found[n], *frame.shape[::-1])
                stage_ms[n]["network"] += 1e3 * (time.perf_counter() - began)
        return [Found2D(tuple(people), ms) for people, ms in zip(found, stage_ms)]

    def _closer(
        self, small: StageOneNetwork, frame: Frame, usual: NetworkOutput, people: list[Person2D],
        ms: dict[str, float],
    ) -> list[Person2D]:  # fmt: skip
        """Return the people and those only a smaller look finds; what it takes is added to `ms`.

        The smaller picture is made of the usual input: another process has nothing else.
        """
        began = time.perf_counter()
        h, w = usual.heatmaps.shape[1:]
        boxed, to_image = letterbox(frame.picture, STRIDE * h, STRIDE * w)
        width, height = small.info.input_size
        x, to_boxed = letterbox(boxed, height, width)
        to_cell = np.linalg.inv(np.vstack([grid_to_image(1, 1), [0, 0, 1]]))
        affine = to_image @ to_cell @ np.vstack([to_boxed, [0, 0, 1]])
        resized = time.perf_counter()
        maps = small.maps(x[None])
        ran = time.perf_counter()
        closer = self._grouped(maps, 0, affine)
        people = with_close_ups(people, closer, *frame.shape[::-1])[: self._grouping.people_max]
        _add(ms, {"resize": resized - began, "network": ran - resized}, ran)
        return people

    def _farther(
        self, network: StageOneNetwork, frames: Sequence[Frame], found: list[list[Person2D]],
        stage_ms: list[dict[str, float]],
    ) -> None:  # fmt: skip
        """Put people far away in the place of `found` as their part of the picture shows them."""
        began = time.perf_counter()
        size = network.info.input_size
        parts = [enlarged_part(p, *f.shape[::-1], size) for p, f in zip(found, frames)]
        wanted = [n for n, part in enumerate(parts) if part is not None]
        if not wanted:
            return
        boxed, affines = zip(
            *(letterbox(frames[n].picture, size[1], size[0], part=parts[n]) for n in wanted)
        )
        resized = time.perf_counter()
        maps = network.maps(np.stack(boxed))
        ran = time.perf_counter()
        for i, n in enumerate(wanted):
            started = time.perf_counter()
            enlarged = self._grouped(maps, i, affines[i])
            people = with_far(found[n], enlarged, *frames[n].shape[::-1], size)
            found[n] = people[: self._grouping.people_max]
            each = {"resize": resized - began, "network": ran - resized}
            _add(stage_ms[n], {k: s / len(wanted) for k, s in each.items()}, started)

    def _grouped(self, maps: dict[str, Array], i: int, affine: Float) -> list[Person2D]:
        """Return the people in the maps of the i-th picture of a second look."""
        one = {k: v[i] for k, v in maps.items()}
        output = NetworkOutput(one["heatmaps"], one["pafs"], one.get("encodings"), affine)
        return group(output, self._grouping)


def _add(ms: dict[str, float], spent_s: dict[str, float], grouping_s: float) -> None:
    """Add to milliseconds what a second look has taken; it has been grouped since `grouping_s`."""
    for key, seconds in {**spent_s, "group": time.perf_counter() - grouping_s}.items():
        ms[key] += 1e3 * seconds


def load_front_end(
    model: str = "light",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = 0,
    precision: str = "auto",
    batch: int = 1,
    grouping: GroupingConfig | None = None,
    target_fps: float = 0.0,
    encodings: bool = True,
    size: tuple[int, int] | None = None,
    careful: bool = False,
    close_ups: bool = False,
    long_shots: bool = False,
    portraits: int = 0,
    crowds: bool = True,
    mirror: bool = False,
) -> Any:
    """Return a 2D front end with info, batch and parallel: ours, or one of the user's own.

    Arguments and errors as `load_network`; a name or .toml file of `docs/own_networks.md` gives the
    user's network. target_fps: the input size is lowered and raised to keep so many frames a
    second, 0 for the file's own size. careful: three input sizes in turn; mirror: each of them also
    in the mirror. close_ups: a second, small look where people may fill the frame. long_shots: a
    second, enlarged one at people far away; not with careful, which finds them, nor target_fps, for
    the rate. portraits: so many of the people found, the largest, are looked at once more, each in
    a small picture of their own; crowds: False, nobody is where there are more.
    """
    rows = weights.find(model)
    if (target_fps or size or careful) and rows[0].kind == "own":
        raise UsageError(
            "--target-fps, --careful and --input are for our networks; those of your own have one "
            "input size"
        )
    if careful and (target_fps or size):
        raise UsageError(
            "--careful takes input sizes of its own: leave --input and --target-fps away"
        )
    if rows[0].kind == "own":
        from manypose.models import topdown

        weights.verify(rows[0])
        return topdown.load(rows[0].path, backend, device, threads or 0, rows[0].name, batch)
    network: StageOneNetwork | AdaptiveNetwork
    if careful:
        from manypose.models import careful as several

        network = several.load(model, backend, device, threads, precision, batch, encodings, mirror)
    elif target_fps:
        from manypose.models import adaptive

        network = adaptive.load(
            model, backend, device, threads, precision, batch, target_fps, encodings, size
        )
    else:
        network = load_network(model, backend, device, threads, precision, batch, size, encodings)
    small = _small(network.info, backend, precision, encodings) if close_ups else None
    long_shots = long_shots and not careful and not target_fps
    closer = None
    if portraits:
        run = network.info
        closer = load_portraits(
            run.runtime,
            run.device,
            run.threads,
            run.precision,
            batch,
            encodings,
            careful,
            portraits,
            crowds,
            close_ups,
        )
    return StageOneFrontEnd(network, grouping or GroupingConfig(), small, long_shots, closer)


def _small(info: Info, backend: str, precision: str, encodings: bool) -> StageOneNetwork | None:
    """Return the network that runs, with half the smallest input there is a file for, if it can."""
    least = min(input_sizes(info.model), key=lambda s: s[0] * s[1])
    size = stepped(least[0] / 2, least[1] / 2)
    if 1.5 * size[0] * size[1] > info.input_size[0] * info.input_size[1]:
        return None
    if not any_size(info.model):
        log.info("no second look for people close to the camera: the file has one input size")
        return None
    return load_network(
        info.model, backend, info.device, info.threads, precision, info.batch, size, encodings
    )
